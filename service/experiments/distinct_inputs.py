"""Which inputs have been counted already, so that one that is sent again and again is one observation and not many.

Variants answer a text the same way every time: copies tell nothing new of how often two variants agree, and an interval
that took them for independent observations would be too narrow.
"""

import hashlib
import secrets
from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sparserve.service.types import TextInput

# Inputs that are remembered, at about 100 bytes each: one that comes back after so many others is counted once more.
MOST: Final = 2**16


class DistinctInputs:
    """Remembers inputs by digests under a key of its own: they tell nothing of a text, and nobody can make two alike.

    Args:
        most: inputs that are remembered; the oldest are forgotten first.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._key = secrets.token_bytes(16)
        self._known: set[bytes] = set()
        self._in_order: deque[bytes] = deque()

    def add(self, inputs: Sequence[TextInput]) -> npt.NDArray[np.bool_]:
        """Remember a request's inputs; for each, whether it is new: neither known nor a copy of one before it."""
        return np.array([self._is_new(item) for item in inputs], dtype=bool)

    def _is_new(self, item: TextInput) -> bool:
        pair = "" if item.text_pair is None else f"+{item.text_pair}"
        content = f"{len(item.text)}:{item.text}{pair}".encode()
        digest = hashlib.blake2b(content, digest_size=8, key=self._key).digest()
        if digest in self._known:
            return False
        if len(self._in_order) == self._most:
            self._known.discard(self._in_order.popleft())
        self._known.add(digest)
        self._in_order.append(digest)
        return True
