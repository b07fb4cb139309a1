import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.pruning.masks import Masks


def make_targets(seed: int) -> dict[str, nn.Linear]:
    torch.manual_seed(seed)
    return {"a": nn.Linear(7, 5), "b": nn.Linear(11, 3)}


def magnitudes(targets: dict[str, nn.Linear]) -> dict[str, torch.Tensor]:
    return {name: linear.weight.detach().abs() for name, linear in targets.items()}


levels = st.lists(st.floats(0, 0.99), min_size=1, max_size=6).map(sorted)


@settings(deadline=None, max_examples=40)
@given(levels=levels, seed=st.integers(0, 1000), allocation=st.sampled_from(["uniform", "global"]))
def test_masks_never_regrow_and_reach_the_sparsity_exactly(levels, seed, allocation):
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


def test_the_smallest_weights_go_first():
    targets = {"a": nn.Linear(4, 1)}
    targets["a"].weight.data = torch.tensor([[0.1, -3.0, 0.2, -0.05]])
    masks = Masks(targets)
    masks.raise_sparsity(magnitudes(targets), 0.5, "uniform")
    masks.apply()
    assert targets["a"].weight.tolist() == [[0.0, -3.0, torch.tensor(0.2).item(), 0.0]]


def test_ties_are_broken_by_position():
    targets = {"a": nn.Linear(6, 1)}
    masks = Masks(targets)
    masks.raise_sparsity({"a": torch.ones(1, 6)}, 0.5, "uniform")
    assert masks.kept["a"].tolist() == [[False, False, False, True, True, True]]


def test_masks_survive_save_and_load(tmp_path):
    masks = Masks(make_targets(0))
    masks.raise_sparsity(magnitudes(make_targets(0)), 0.6, "global")
    masks.save(tmp_path / "masks.safetensors")
    other = Masks(make_targets(1))
    other.load(tmp_path / "masks.safetensors")
    assert all(torch.equal(other.kept[name], mask) for name, mask in masks.kept.items())
    assert other.sparsity() == masks.sparsity()
