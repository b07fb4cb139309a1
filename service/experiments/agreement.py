"""Labels that scores predict, and the agreement of two variants."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sparserve.service.inference.engine import Logits

MULTI_LABEL_THRESHOLD: Final = 0.5


def predicted_label(problem_type: str, labels: Sequence[str], scores: Logits) -> str:
    """Return the predicted label of one input from its scores `[labels]`; several labels are joined by commas."""
    if problem_type == "multi_label_classification" or len(labels) == 1:
        return ", ".join(label for label, score in zip(labels, scores, strict=True) if score >= MULTI_LABEL_THRESHOLD)
    return labels[int(scores.argmax())]


def same_prediction(problem_type: str, first: Logits, second: Logits) -> npt.NDArray[np.bool_] | None:
    """Compare the predicted labels of two arrays of scores `[inputs, labels]`.

    Returns a boolean for each input, or None for a regression, which has no labels.
    """
    if problem_type == "regression":
        return None
    if problem_type == "multi_label_classification" or first.shape[-1] == 1:
        same = (first >= MULTI_LABEL_THRESHOLD) == (second >= MULTI_LABEL_THRESHOLD)
        return np.asarray(same.all(axis=-1))
    return np.asarray(first.argmax(axis=-1) == second.argmax(axis=-1))
