"""Long texts: cut, refused, or answered in windows whose answers are merged into one.

A window has as many tokens as the model takes, special tokens included, and shares `stride` tokens of the text with the
window before it. The last window ends with the text, so that it is as long as the others. The job trains and evaluates
with these functions, and `Classifier` and the service answer with them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

Overlong = Literal["truncate", "error", "windows"]
Aggregate = Literal["mean", "max", "first"]
# By default windows share one token in this many.
STRIDE_PART: Final = 4

OVERLONG_DESCRIPTION: Final = "cut a text with more tokens than the model takes, refuse it, or answer it in windows"
STRIDE_DESCRIPTION: Final = (
    "tokens that a window shares with the one before, at most half of max_length; None: a quarter of its tokens"
)
AGGREGATE_DESCRIPTION: Final = (
    "scores of a text from those of its windows: mean; max, scaled to a sum of 1 where scores have that sum; or those "
    "of the first window alone"
)

Logits = npt.NDArray[np.float32]


class LongTexts(BaseModel):
    """Treatment of texts with more tokens than the model takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    overlong: Overlong = Field("truncate", description=OVERLONG_DESCRIPTION)
    stride: int | None = Field(None, ge=0, description=STRIDE_DESCRIPTION)
    aggregate: Aggregate = Field("mean", description=AGGREGATE_DESCRIPTION)

    @property
    def windowed(self) -> bool:
        """True if a long text has several windows."""
        return self.overlong == "windows" and self.aggregate != "first"


TRUNCATE: Final = LongTexts()


@dataclass(frozen=True)
class WindowFrame:
    """Special tokens around a window of a single text, with their type ids; `capacity` tokens of the text fit."""

    before: tuple[list[int], list[int]]
    after: tuple[list[int], list[int]]
    type_id: int
    capacity: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, max_length: int) -> Self | None:
        """Return the frame of a tokenizer; None if it does not say which tokens of a text are special ones."""
        probe = tokenizer.encode("a")
        special = probe.special_tokens_mask
        if 0 not in special:
            return None
        begin, end = special.index(0), len(special) - special[::-1].index(0)
        added = tokenizer.num_special_tokens_to_add(False)
        if begin + len(special) - end != added or max_length <= added:
            return None
        before, after = slice(begin), slice(end, None)
        return cls(
            (probe.ids[before], probe.type_ids[before]),
            (probe.ids[after], probe.type_ids[after]),
            probe.type_ids[begin],
            max_length - added,
        )

    def windows(self, content: Sequence[int], stride: int | None) -> list[tuple[list[int], list[int]]]:
        """Return ids and type ids of each window of a text's tokens."""
        parts = [content[start : start + self.capacity] for start in self.starts(len(content), stride)]
        return [
            ([*self.before[0], *part, *self.after[0]], [*self.before[1], *[self.type_id] * len(part), *self.after[1]])
            for part in parts
        ]

    def starts(self, tokens: int, stride: int | None) -> list[int]:
        """Return the positions in a text of so many tokens at which its windows start."""
        if tokens <= self.capacity:
            return [0]
        step = self._step(stride)
        count = math.ceil((tokens - self.capacity) / step)
        return [*range(0, count * step, step), tokens - self.capacity]

    def most_tokens(self, windows: int, stride: int | None) -> int:
        """Return the length of the longest text that fits into so many windows."""
        return self.capacity + (windows - 1) * self._step(stride)

    def _step(self, stride: int | None) -> int:
        if stride is None:
            return max(self.capacity - self.capacity // STRIDE_PART, 1)
        # A variant with longer windows may have set the stride, which must not make one window for each token here.
        longest = longest_stride(self.capacity + len(self.before[0]) + len(self.after[0]))
        return max(self.capacity - min(stride, longest), 1)


def longest_stride(max_length: int) -> int:
    """Return the largest stride for windows of `max_length` tokens, with which a text costs at most twice as much."""
    return max_length // 2


def merge_windows(logits: Logits, counts: Sequence[int], problem_type: str, aggregate: Aggregate) -> Logits:
    """Return the logits `[inputs, labels]` whose probabilities are those of the windows, merged.

    `logits` has the rows of all windows, of which each input has as many as `counts` says. A row of an input with one
    window stays as it is.
    """
    if len(counts) == len(logits):
        return logits
    ends = list(accumulate(counts))
    rows = [
        logits[end - count : end] if count == 1 else _merged(logits[end - count : end], problem_type, aggregate)
        for end, count in zip(ends, counts, strict=True)
    ]
    return np.concatenate(rows)


def _merged(logits: Logits, problem_type: str, aggregate: Aggregate) -> Logits:
    """Return one row for the windows of one input, computed with the logarithms of their probabilities."""
    values: npt.NDArray[Any] = logits.astype(np.float64)
    if aggregate == "first":
        merged = values[:1]
    elif problem_type == "regression":
        merged = values.max(axis=0, keepdims=True) if aggregate == "max" else values.mean(axis=0, keepdims=True)
    elif problem_type == "single_label_classification" and values.shape[1] > 1:
        values = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
        merged = values.max(axis=0, keepdims=True) if aggregate == "max" else _log_mean(values)
    elif aggregate == "max":  # the sigmoid rises
        merged = values.max(axis=0, keepdims=True)
    else:
        merged = _log_mean(-np.logaddexp(0, -values)) - _log_mean(-np.logaddexp(0, values))
    return np.asarray(merged, dtype=np.float32)


def _log_mean(logarithms: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the logarithms of the means over windows."""
    total: npt.NDArray[Any] = np.logaddexp.reduce(logarithms, axis=0, keepdims=True)
    return total - math.log(len(logarithms))
