"""Batches within a request, and scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine import scores, sub_batches

LENGTHS = st.lists(st.integers(1, 512), max_size=60)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 4096))
def test_sub_batches_lose_nothing_and_keep_the_budget(lengths: list[int], budget: int) -> None:
    batches = sub_batches(lengths, budget)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[position] for position in batch)
        assert padded <= budget or len(batch) == 1


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 4096))
def test_sub_batches_go_from_short_to_long(lengths: list[int], budget: int) -> None:
    order = [lengths[position] for batch in sub_batches(lengths, budget) for position in batch]
    assert order == sorted(lengths)


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none", None])
def test_scores_of_extreme_logits_are_finite(function) -> None:
    logits = np.array([[1e4, -1e4], [-1e4, -1e4], [0, 0]], dtype=np.float32)
    assert np.isfinite(scores(logits, "single_label_classification", function)).all()


def test_one_label_gets_a_sigmoid() -> None:
    logits = np.zeros((1, 1), dtype=np.float32)
    assert scores(logits, "single_label_classification")[0, 0] == 0.5
