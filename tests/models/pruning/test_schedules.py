from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserve.models.pruning.schedules import cubic, next_update, sparsity_at
from sparserve.models.recipes.schema import Pruning

prunings = st.builds(
    lambda a, b, c, d, s, u: Pruning(
        begin=min(a, b),
        end=max(a, b),
        initial_sparsity=min(c, d),
        sparsity=max(c, d),
        schedule=s,
        updates=u,
    ),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 0.99),
    st.floats(0, 0.99),
    st.sampled_from(["cubic", "linear", "constant"]),
    st.integers(1, 200),
)


@given(pruning=prunings, total=st.integers(1, 500))
def test_sparsity_at_rises_to_final_sparsity(pruning: Any, total: Any) -> None:
    values = [value for step in range(1, total + 1) if (value := sparsity_at(step, total, pruning)) is not None]
    assert values == sorted(values)
    assert values[-1] == pruning.sparsity
    assert len(values) <= pruning.updates + 1


def test_cubic_matches_paper() -> None:
    assert cubic(0, 0.2, 0.9) == pytest.approx(0.2)
    assert cubic(0.5, 0.0, 0.8) == pytest.approx(0.8 * (1 - 0.5**3))
    assert cubic(1, 0.2, 0.9) == 0.9


def test_sparsity_at_spreads_updates_evenly() -> None:
    pruning = Pruning(begin=0.1, end=0.5, updates=5, initial_sparsity=0.1)
    due = [step for step in range(1, 101) if sparsity_at(step, 100, pruning) is not None]
    assert due == [10, 20, 30, 40, 50]


@given(pruning=prunings, total=st.integers(1, 60))
def test_next_update_is_first_one_due(pruning: Any, total: Any) -> None:
    due = [step for step in range(1, total + 1) if sparsity_at(step, total, pruning) is not None]
    for step in range(1, total + 1):
        assert next_update(step, total, pruning) == next((later - step for later in due if later >= step), None)


def test_next_update_is_none_after_last() -> None:
    pruning = Pruning(begin=0.1, end=0.5, updates=5, initial_sparsity=0.1)
    assert [next_update(step, 100, pruning) for step in (1, 10, 11, 49, 50, 51, 100)] == [9, 0, 9, 1, 0, None, None]
