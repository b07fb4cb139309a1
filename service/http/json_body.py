"""JSON as clients send it: fast parsing of large bodies, and integers by JSON Schema's rules."""

import gc
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

# The collector costs nothing measurable for bodies below this size.
SMALL_BYTES: Final = 2**14


def parse_json(content: bytes, parse: Callable[[bytes], Any]) -> Any:
    """Return `parse(content)`, with Python's cyclic garbage collector paused; raises what `parse` raises.

    JSON has no cycles, but the collector traverses all new objects again and again while they are made. For the cost,
    see docs/explanation/server-walls.md.
    """
    if len(content) < SMALL_BYTES or not gc.isenabled():
        return parse(content)
    gc.disable()
    try:
        return parse(content)
    finally:
        gc.enable()


def _integral(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# An integer of at least 1, or 0. JSON Schema has one kind of number, in which 3.0 is an integer.
# The bounds stand inside: outside of the validator they would be checked, but be missing in the schema.
PositiveInt = Annotated[int, Field(ge=1), BeforeValidator(_integral)]
NonNegativeInt = Annotated[int, Field(ge=0), BeforeValidator(_integral)]
