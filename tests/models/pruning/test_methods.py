"""Properties of all pruning methods, and the arithmetic of each."""

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparserve.models.errors import RecipeError
from sparserve.models.pruning.pruner import MASKS, Pruner
from sparserve.models.pruning.registry import METHODS, make_method
from sparserve.models.pruning.weights.group_lasso import GroupLasso
from sparserve.models.pruning.weights.movement import Movement, SoftMovement
from sparserve.models.pruning.weights.platon import Platon
from sparserve.models.recipes.schema import Pruning
from tests.support.models.matrices import matrices
from tests.support.models.observing import observed

STEPS = 8
OPTIONS = {"obert": {"fisher_block": 10, "gradients": 3}, "group-lasso": {"refreshes": 3}}


class Network(nn.Module):
    """Two layers with two linear layers each."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8)) for _ in range(2))


def make_pruning(method: Any, **changes: Any) -> Any:
    # What a method insists on comes first, what the test asks for after.
    needed = {"soft-movement": {"allocation": "global"}, "group-lasso": {"block": (1, 2)}}.get(method, {})
    return Pruning(method=method, options=OPTIONS.get(method, {}), **{**changes, **needed})  # type: ignore[dict-item]


def train(network: Any, pruner: Any, steps: Any, seed: int) -> Iterator[Any]:
    """Run gradient descent on random gradients that depend only on the seed and the step."""
    for step in steps:
        generator = torch.Generator().manual_seed(1000 * seed + step)
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        pruner.observe(step, STEPS)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.01 * parameter.grad
        pruner.after(step, STEPS)
        yield step


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=6)
@given(
    sparsity=st.floats(0.05, 0.95),
    updates=st.integers(1, 8),
    begin=st.sampled_from([0.0, 0.3]),
    allocation=st.sampled_from(["uniform", "global"]),
    block=st.sampled_from([(1, 1), (1, 2), (2, 1)]),
    seed=st.integers(0, 99),
)
def test_methods_grow_masks_to_target_sparsity(
    method: Any, sparsity: float, updates: int, begin: float, allocation: Any, block: Any, seed: int
) -> None:
    pruning = make_pruning(
        method, sparsity=sparsity, updates=updates, begin=begin, end=0.8, allocation=allocation, block=block
    )
    network = Network(seed)
    pruner = Pruner(network, pruning, targets=matrices(network))
    kept = {name: mask.clone() for name, mask in pruner.masks.kept.items()}
    linears = dict(network.named_modules())
    for _ in train(network, pruner, range(1, STEPS + 1), seed):
        for name, mask in pruner.masks.kept.items():
            assert not (mask & ~kept[name]).any()
            assert not linears[name].weight[~mask].any()
            assert linears[name].weight.isfinite().all()
        kept = {name: mask.clone() for name, mask in pruner.masks.kept.items()}
    size = pruning.block[0] * pruning.block[1]
    if pruning.allocation == "uniform":
        for mask in kept.values():
            assert int((~mask).sum()) == size * round(sparsity * mask.numel() / size)
    else:
        total = sum(mask.numel() for mask in kept.values())
        assert sum(int((~mask).sum()) for mask in kept.values()) == size * round(sparsity * total / size)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=6)
@given(stop_after=st.integers(1, STEPS - 1), seed=st.integers(0, 99))
def test_methods_resume_exactly(method: Any, stop_after: int, seed: int) -> None:
    pruning = make_pruning(method, sparsity=0.7, updates=3, begin=0.2, end=0.8)
    network = Network(seed)
    pruner = Pruner(network, pruning, targets=matrices(network))
    list(train(network, pruner, range(1, stop_after + 1), seed))
    later = copy.deepcopy(network)
    # The Trainer loads the weights of a checkpoint only after callbacks were made.
    fresh = Network(seed + 1)
    resumed = Pruner(fresh, pruning, targets=matrices(fresh))
    with tempfile.TemporaryDirectory() as folder:
        pruner.save(Path(folder) / MASKS)
        resumed.load(Path(folder) / MASKS)
    fresh.load_state_dict(later.state_dict())
    rest = range(stop_after + 1, STEPS + 1)
    for _ in zip(train(network, pruner, rest, seed), train(fresh, resumed, rest, seed), strict=True):
        for name in pruner.masks.kept:
            assert torch.equal(pruner.method.scores(name), resumed.method.scores(name))
    for first, second in zip(network.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("method", METHODS)
def test_methods_prune_without_gradients(method: Any) -> None:
    network = Network(0)
    pruner = Pruner(network, make_pruning(method, sparsity=0.5, end=0.0), targets=matrices(network))
    pruner.observe(1, STEPS)
    pruner.after(1, STEPS)
    assert pruner.masks.sparsity() == 0.5


def test_methods_reject_invalid_options() -> None:
    for method, option, value in [
        ("movement", "learning_rate", 0),
        ("soft-movement", "penalty", -1),
        ("platon", "beta1", 1.0),
        ("platon", "beta2", -0.1),
        ("obert", "fisher_block", 0),
        ("obert", "gradients", 0),
        ("obert", "damping", 0),
        ("layerwise-obs", "batches", 0),
        ("layerwise-obs", "iterations", 0),
        ("layerwise-obs", "damping", 0),
        ("group-lasso", "penalty", -1),
        ("group-lasso", "epsilon", 0),
        ("group-lasso", "refreshes", 0),
    ]:
        with pytest.raises(RecipeError, match=f"{method}.*{option} is {value}"):
            make_method(Pruning(method=method, options={option: value}))
    with pytest.raises(RecipeError, match=r"options\.beta: platon has no such option\. Options: beta1, beta2\."):
        make_method(Pruning(method="platon", options={"beta": 0.9}))


def test_movement_keeps_weights_that_move_away_from_zero() -> None:
    weight = torch.tensor([[0.1, 5.0, -0.1, -5.0]])
    method = Movement()
    # Descent moves against the gradient: the first and the third grow.
    observed(method, weight, *3 * [torch.tensor([[-1.0, 1.0, 1.0, -1.0]])])
    scores = method.scores("a")[0]
    assert scores[[0, 2]].min() > 0 > scores[[1, 3]].max()


def test_movement_follows_straight_through_gradient() -> None:
    torch.manual_seed(0)
    weight, first, second = torch.randn(3, 2, 3)
    method = Movement(learning_rate=0.1)
    observed(method, weight, first, second)
    expected = nn.Parameter(torch.zeros(2, 3))
    optimizer = torch.optim.Adam([expected], lr=0.1)
    for gradient in (first, second):
        # L = sum of g * (W m) for a mask m that S stands in for: dL/dS = g W.
        expected.grad = torch.autograd.grad((gradient * weight * expected).sum(), expected)[0]
        optimizer.step()
    torch.testing.assert_close(method.importance["a"], expected)


@pytest.mark.parametrize("method", [Movement(), SoftMovement()])
def test_movement_without_steps_ranks_by_magnitude(method: Any) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 4)
    observed(method, weight, pruning=Pruning(allocation="global"))
    assert torch.equal(method.scores("a").flatten().argsort(), weight.abs().flatten().argsort())


def test_soft_movement_penalty_lowers_scores() -> None:
    method = SoftMovement()
    observed(method, torch.randn(2, 3), torch.zeros(2, 3), pruning=Pruning(allocation="global"))
    assert (method.scores("a") < -0.9 * method.learning_rate).all()
    unpenalised = SoftMovement(penalty=0)
    observed(unpenalised, torch.zeros(2, 3), torch.zeros(2, 3), pruning=Pruning(allocation="global"))
    assert not unpenalised.scores("a").any()


def test_soft_movement_adds_gradient_of_penalty() -> None:
    method = SoftMovement(penalty=3.0)
    observed(method, torch.zeros(2, 3), pruning=Pruning(allocation="global"))
    scores = method.importance["a"]
    scores.data = torch.linspace(-2, 2, 6).view(2, 3)
    expected = torch.autograd.grad(3.0 * torch.sigmoid(scores).mean(), scores)[0]
    torch.testing.assert_close(method.gradient("a", torch.zeros(2, 3), torch.ones(2, 3)), expected)


def test_soft_movement_rejects_uniform_allocation() -> None:
    with pytest.raises(RecipeError, match=r"pruning.allocation: .* Set it to global"):
        observed(SoftMovement(), torch.ones(2, 2))


def test_platon_scores_sensitivity_times_uncertainty() -> None:
    method = Platon(beta1=0.5, beta2=0.8)
    observed(method, torch.tensor([[2.0]]), torch.tensor([[-3.0]]), torch.tensor([[1.0]]))
    # I = 6, then 2: I-bar = 3, then 2.5; U = 3, then 0.5: U-bar = 0.6, then 0.58.
    assert method.scores("a").item() == pytest.approx(2.5 * 0.58)


def test_group_lasso_adds_gradient_of_penalty() -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(2, 4, 6)
    pruning = Pruning(block=(2, 3))
    linear = observed(GroupLasso(penalty=0.1, epsilon=0.01), weight, gradient, pruning=pruning)
    variable = weight.clone().requires_grad_()
    norms = torch.stack([block.norm() for half in variable.split(2, 0) for block in half.split(3, 1)])
    gamma = 1 / (norms.detach() + 0.01)
    penalty = torch.autograd.grad(0.1 * (gamma * norms).sum(), variable)[0]
    torch.testing.assert_close(linear.weight.grad, gradient + penalty)


def test_group_lasso_scores_block_norm_and_skips_masked_blocks() -> None:
    weight = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    method = GroupLasso()
    linear = observed(method, weight, torch.zeros(1, 4), pruning=Pruning(block=(1, 2)))
    torch.testing.assert_close(method.scores("a"), torch.tensor([[5.0, 5.0, 0.0, 0.0]]))
    assert linear.weight.grad[0, 2:].tolist() == [0, 0]


def test_group_lasso_refreshes_gamma_evenly() -> None:
    method = GroupLasso(penalty=1.0, refreshes=4)
    linear = observed(method, torch.ones(1, 2), pruning=Pruning(block=(1, 2), end=0.5))
    made = []
    for step in range(10):
        # Weights that shrink at each step: gamma tells from which of them it was made.
        linear.weight.data = torch.full((1, 2), 1.0 / (step + 1))
        linear.weight.grad = torch.zeros(1, 2)
        method.observe(step / 16, 7 - step if step < 8 else None)
        made.append(float(linear.weight.grad.norm()))
    gammas = [1 / (2**0.5 / step + 1e-3) for step in (1, 1, 3, 3, 5, 5, 7, 7)]
    assert made == pytest.approx([*gammas, 0, 0])


def test_group_lasso_rejects_blocks_of_one_weight() -> None:
    with pytest.raises(RecipeError, match=r"pruning.block: group-lasso needs blocks of several weights\. Set it to"):
        observed(GroupLasso(), torch.ones(2, 2))
