"""Scores."""

from typing import Any

import numpy as np
import pytest

from sparserve.service.inference.engine import scores


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none", None])
def test_scores_of_extreme_logits_are_finite(function: Any) -> None:
    logits = np.array([[1e4, -1e4], [-1e4, -1e4], [0, 0]], dtype=np.float32)
    assert np.isfinite(scores(logits, "single_label_classification", function)).all()


def test_one_label_gets_a_sigmoid() -> None:
    logits = np.zeros((1, 1), dtype=np.float32)
    assert scores(logits, "single_label_classification")[0, 0] == 0.5
