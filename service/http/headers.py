"""The header fields of a request, for code that runs for every request."""

from collections.abc import Mapping
from typing import Final

from starlette.types import Scope

_FIRST_VALUES: Final = "first_header_values"


def first_values(scope: Scope) -> Mapping[bytes, bytes]:
    """Return the first value of each field by its lower-case name, as starlette's `Headers` do.

    `Headers` decode and compare all fields for each look-up. The mapping is kept in the request's state until the
    scope has other headers.
    """
    raw, state = scope["headers"], scope.setdefault("state", {})
    known: tuple[object, Mapping[bytes, bytes]] | None = state.get(_FIRST_VALUES)
    if known is not None and known[0] is raw:
        return known[1]
    values = dict(reversed(raw))
    state[_FIRST_VALUES] = raw, values
    return values


def text_of(value: bytes) -> str:
    """Return the value of a field as text."""
    return value.decode("latin-1")
