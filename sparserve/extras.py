"""Errors that name the extra to install."""

import contextlib
from collections.abc import Iterator
from typing import Literal

from sparserve.models.errors import EnvironmentFault


@contextlib.contextmanager
def needs_extra(extra: Literal["compress"], *, user: str) -> Iterator[None]:
    """Import modules that only an extra installs.

    Raises:
        EnvironmentFault: one of them is missing; the message says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "sparserve").partition(".")[0] == "sparserve":
            raise  # a module of this package is missing: a bug, not an extra
        raise EnvironmentFault(
            f'{user} needs {error.name}, which is not installed. Run: pip install "sparserve[{extra}]"'
        ) from error
