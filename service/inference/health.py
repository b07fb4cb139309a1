"""What becomes of a batch that fails: a smaller try where memory was short, and a count that finds a broken engine out.

Numbers that are not finite are an input's fault and are no failure here; an exception of the runtime is.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sparserve.models.bundle.inference import Tokens

# Batches that may fail in a row; one bad input that is sent again and again should not be enough by itself to stop all.
FAILURES_IN_ROW: Final = 3
# Looks at the store between two tries to load an engine that fails, at most.
LONGEST_PAUSE: Final = 32
# onnxruntime raises one class for everything; these are its allocator's words and those of the C++ library.
_OUT_OF_MEMORY: Final = ("bad_alloc", "bad allocation", "failed to allocate memory", "not enough memory")


class Health:
    """Whether an engine can be trusted to answer: not after `FAILURES_IN_ROW` failures without a success between."""

    def __init__(self) -> None:
        self._failures = 0
        self._looks = 0
        self._changing = threading.Lock()

    @property
    def healthy(self) -> bool:
        """Whether its last batches did not all fail."""
        return self._failures < FAILURES_IN_ROW

    def succeeded(self) -> None:
        """A batch was answered: whatever failed before is over."""
        with self._changing:
            self._failures = self._looks = 0

    def failed(self) -> None:
        """A batch was not answered."""
        with self._changing:
            self._failures += 1

    def reload_due(self) -> bool:
        """Whether to load the bundle again now; asked once a look at the store.

        True at the 1st, 2nd, 4th, 8th ... look since the engine is not healthy, so that a bundle that does not load
        either costs little.
        """
        with self._changing:
            if self._failures < FAILURES_IN_ROW:
                return False
            self._looks += 1
            return self._looks & (self._looks - 1) == 0 or self._looks % LONGEST_PAUSE == 0


Run = Callable[[Sequence[Tokens]], npt.NDArray[np.float32]]


def run_within_memory(run: Run, tokens: Sequence[Tokens], halved: Callable[[], None]) -> npt.NDArray[np.float32]:
    """Logits `[inputs, labels]` of a batch; where memory is too short for it, of its two halves, one after the other.

    `halved` is called before that second and last try.

    Raises:
        Exception: what `run` raises, for reasons other than memory or once more for a half.
    """
    try:
        return run(tokens)
    except Exception as error:
        if len(tokens) < 2 or not out_of_memory(error):
            raise
    # Outside of the handler, so that what the exception holds on to is free for the second try.
    halved()
    middle = len(tokens) // 2
    return np.concatenate([run(tokens[:middle]), run(tokens[middle:])])


def out_of_memory(error: Exception) -> bool:
    """Whether an exception, Python's or onnxruntime's, says that memory could not be had."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)
