from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparserve.models.errors import RecipeError, TrainingError
from sparserve.models.pruning.masks import Masks, expand, pool


def make_targets(seed: int) -> dict[str, nn.Linear]:
    torch.manual_seed(seed)
    return {"a": nn.Linear(7, 5), "b": nn.Linear(11, 3)}


def magnitudes(targets: dict[str, nn.Linear]) -> dict[str, torch.Tensor]:
    return {name: linear.weight.detach().abs() for name, linear in targets.items()}


levels = st.lists(st.floats(0, 0.99), min_size=1, max_size=6).map(sorted)


@settings(deadline=None, max_examples=40)
@given(levels=levels, seed=st.integers(0, 1000), allocation=st.sampled_from(["uniform", "global"]))
def test_masks_never_regrow_and_reach_exact_sparsity(levels: Any, seed: int, allocation: Any) -> None:
    targets = make_targets(seed)
    masks = Masks(targets)
    for level in levels:
        before = {name: mask.clone() for name, mask in masks.kept.items()}
        # Scores that change between updates, as weights do while they are trained.
        scores = {name: torch.rand_like(linear.weight) for name, linear in targets.items()}
        masks.raise_sparsity(scores, level, allocation)
        assert all(not (mask & ~before[name]).any() for name, mask in masks.kept.items())
    if allocation == "uniform":
        for mask in masks.kept.values():
            assert int((~mask).sum()) == round(levels[-1] * mask.numel())
    else:
        assert sum(int((~m).sum()) for m in masks.kept.values()) == round(levels[-1] * (7 * 5 + 11 * 3))


def test_masks_drop_smallest_weights_first() -> None:
    targets = {"a": nn.Linear(4, 1)}
    targets["a"].weight.data = torch.tensor([[0.1, -3.0, 0.2, -0.05]])
    masks = Masks(targets)
    masks.raise_sparsity(magnitudes(targets), 0.5, "uniform")
    masks.apply()
    assert targets["a"].weight.tolist() == [[0.0, -3.0, torch.tensor(0.2).item(), 0.0]]


def test_masks_break_ties_by_position() -> None:
    targets = {"a": nn.Linear(6, 1)}
    masks = Masks(targets)
    masks.raise_sparsity({"a": torch.ones(1, 6)}, 0.5, "uniform")
    assert masks.kept["a"].tolist() == [[False, False, False, True, True, True]]


def test_masks_reject_nan_scores() -> None:
    masks = Masks(make_targets(0))
    scores = magnitudes(make_targets(0))
    name = list(scores)[1]
    scores[name][0, 0] = float("nan")
    with pytest.raises(TrainingError, match=f"some scores of {name} are not numbers"):
        masks.raise_sparsity(scores, 0.5, "uniform")
    assert all(bool(mask.all()) for mask in masks.kept.values())


def test_masks_keep_zeros_of_earlier_pruning() -> None:
    targets = make_targets(0)
    linear = next(iter(targets.values()))
    with torch.no_grad():
        linear.weight[0] = 0
    masks = Masks(targets, keep_zeros=True)
    assert [int((~mask).sum()) for mask in masks.kept.values()] == [linear.in_features, 0]
    assert all(bool(mask.all()) for mask in Masks(targets).kept.values())


def test_masks_return_newly_masked_entries() -> None:
    masks = Masks(make_targets(0))
    first = masks.raise_sparsity(magnitudes(make_targets(0)), 0.3, "uniform")
    assert all(torch.equal(first[name], ~mask) for name, mask in masks.kept.items())
    second = masks.raise_sparsity(magnitudes(make_targets(0)), 0.6, "uniform")
    assert all(torch.equal(first[name] | second[name], ~mask) for name, mask in masks.kept.items())
    assert not any((first[name] & second[name]).any() for name in first)
    third = masks.raise_sparsity(magnitudes(make_targets(0)), 0.6, "uniform")
    assert not any(gone.any() for gone in third.values())


@settings(deadline=None, max_examples=40)
@given(
    levels=levels,
    seed=st.integers(0, 1000),
    allocation=st.sampled_from(["uniform", "global"]),
    block=st.sampled_from([(1, 4), (3, 1), (3, 2), (6, 8)]),
)
def test_masks_drop_whole_blocks_exactly(levels: Any, seed: int, allocation: Any, block: Any) -> None:
    torch.manual_seed(seed)
    targets = {"a": nn.Linear(8, 6), "b": nn.Linear(16, 6)}
    masks = Masks(targets, block)
    for level in levels:
        masks.raise_sparsity(
            {name: torch.rand_like(linear.weight) for name, linear in targets.items()}, level, allocation
        )
        for mask in masks.kept.values():
            assert torch.equal(expand(pool(mask.float(), block), block), mask.float())
    size = block[0] * block[1]
    counts = [int((~mask).sum()) for mask in masks.kept.values()]
    if allocation == "uniform":
        assert counts == [size * round(levels[-1] * cells / size) for cells in (48, 96)]
    else:
        assert sum(counts) == size * round(levels[-1] * 144 / size)


def test_masks_drop_block_with_smallest_mean_first() -> None:
    targets = {"a": nn.Linear(4, 2)}
    masks = Masks(targets, (1, 2))
    masks.raise_sparsity({"a": torch.tensor([[9.0, 0.0, 3.0, 3.0], [4.0, 4.0, 1.0, 4.0]])}, 0.25, "uniform")
    assert masks.kept["a"].tolist() == [[True, True, True, True], [True, True, False, False]]


def test_masks_keep_zeros_inside_kept_blocks() -> None:
    linear = nn.Linear(4, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]]))
    masks = Masks({"a": linear}, (1, 2), keep_zeros=True)
    assert masks.kept["a"].tolist() == [[True, True, False, False], [True] * 4]
    with torch.no_grad():
        linear.weight.add_(1)
    masks.apply()
    assert linear.weight.tolist() == [[2.0, 0.0, 0.0, 0.0], [2.0, 3.0, 4.0, 5.0]]
    assert masks.masked("a", torch.ones(2, 4)).tolist() == [[1.0, 0.0, 0.0, 0.0], [1.0] * 4]


def test_pool_averages_blocks() -> None:
    values = torch.arange(8.0).view(2, 4)
    assert pool(values, (1, 2)).tolist() == [[0.5, 2.5], [4.5, 6.5]]
    assert pool(values, (2, 2)).tolist() == [[2.5, 4.5]]
    assert pool(values, (1, 1)) is values


def test_masks_reject_block_that_does_not_tile() -> None:
    with pytest.raises(RecipeError, match="blocks of 1x2 do not tile a, which is 5x7"):
        Masks(make_targets(0), (1, 2))


def test_masks_state_round_trip() -> None:
    masks = Masks(make_targets(0))
    masks.raise_sparsity(magnitudes(make_targets(0)), 0.6, "global")
    other = Masks(make_targets(1))
    other.load_state(masks.state())
    assert all(torch.equal(other.kept[name], mask) for name, mask in masks.kept.items())
    assert other.sparsity() == masks.sparsity()


def test_masks_reject_state_of_other_matrices() -> None:
    with pytest.raises(ValueError, match="other matrices"):
        Masks(make_targets(0)).load_state({"a": torch.ones(5, 7, dtype=torch.uint8)})
