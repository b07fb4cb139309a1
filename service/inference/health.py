"""Handling of failed batches: a retry in halves when memory is short, and detection of broken engines.

An exception of the runtime is a failure of the engine if the engine does not answer the bundle's sample either.
Otherwise, and if it answers with numbers that are not finite, the input is at fault.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sparserve.models.bundle.text_tokenizer import Tokens

# Batches that must fail in a row before an engine counts as broken. One bad input, sent repeatedly, is not enough.
FAILURES_IN_ROW: Final = 3
# Maximum number of store polls between two attempts to reload a broken engine.
MAX_POLLS_BETWEEN_RELOADS: Final = 32
# ONNX Runtime raises one class for everything; these are the words of its allocator and of the C++ library.
_OUT_OF_MEMORY: Final = ("bad_alloc", "bad allocation", "failed to allocate memory", "not enough memory")


class EngineHealth:
    """Health of an engine. It is not healthy after `FAILURES_IN_ROW` failed batches without a success in between."""

    def __init__(self) -> None:
        self._failures = 0
        self._polls = 0
        self._lock = threading.Lock()

    @property
    def healthy(self) -> bool:
        """False if the last batches all failed."""
        return self._failures < FAILURES_IN_ROW

    def succeeded(self) -> None:
        """Record an answered batch; it clears all failures."""
        with self._lock:
            self._failures = self._polls = 0

    def failed(self) -> None:
        """Record a failed batch."""
        with self._lock:
            self._failures += 1

    def reload_due(self) -> bool:
        """Return True if the bundle should be reloaded now; called once per poll of the store.

        It is due at the 1st, 2nd, 4th, 8th ... poll since the engine became unhealthy, so that a bundle that fails to
        load costs little.
        """
        with self._lock:
            if self._failures < FAILURES_IN_ROW:
                return False
            self._polls += 1
            return self._polls & (self._polls - 1) == 0 or self._polls % MAX_POLLS_BETWEEN_RELOADS == 0


RunBatch = Callable[[Sequence[Tokens]], npt.NDArray[np.float32]]


def run_within_memory(
    run: RunBatch, tokens: Sequence[Tokens], on_halved: Callable[[], None]
) -> npt.NDArray[np.float32]:
    """Return the logits `[inputs, labels]` of a batch; if memory is short, run its two halves one after the other.

    `on_halved` is called before this second and last attempt.

    Raises:
        Exception: any exception of `run` that is not about memory, or that a half raises.
    """
    try:
        return run(tokens)
    except Exception as error:
        if len(tokens) < 2 or not is_out_of_memory(error):
            raise
    # Outside the handler, so that memory referenced by the exception is free for the second attempt.
    on_halved()
    middle = len(tokens) // 2
    return np.concatenate([run(tokens[:middle]), run(tokens[middle:])])


def is_out_of_memory(error: Exception) -> bool:
    """Return True if an exception, of Python or of ONNX Runtime, means that memory could not be allocated."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)
