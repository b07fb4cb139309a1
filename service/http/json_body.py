"""Clients' JSON is parsed with Python's collector of cycles at rest."""

import gc
from collections.abc import Callable
from typing import Any, Final

# Of fewer bytes not enough is made for the collector to matter.
SMALL_BYTES: Final = 2**14


def parsed(content: bytes, parse: Callable[[bytes], Any]) -> Any:
    """What `parse` makes of JSON; raises what that raises.

    JSON has no cycles, and the collector would walk through all that has been made, again and again: 2 MB of brackets
    take the event loop a second in place of a tenth.
    """
    if len(content) < SMALL_BYTES or not gc.isenabled():
        return parse(content)
    gc.disable()
    try:
        return parse(content)
    finally:
        gc.enable()
