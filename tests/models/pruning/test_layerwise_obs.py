"""Layer-wise Optimal Brain Surgeon against its least-squares problems in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparserve.models.errors import RecipeError
from sparserve.models.pruning.pruner import Pruner
from sparserve.models.pruning.weights.layerwise_obs import LayerwiseObs, least_squares
from sparserve.models.recipes.schema import Pruning
from tests.support.models.matrices import matrices

DOUBLE: Any = {"dtype": torch.float64}


def seen(method: Any, linear: Any, *batches: Any, gradients: Any = None) -> Any:
    """Return the method, prepared for one matrix, after these inputs [rows, in]; masks change after the last.

    `gradients` [rows, out] are those of the loss at the outputs of each batch.
    """
    method.prepare({"a": linear}, Pruning())
    for left, batch in reversed(list(enumerate(reversed(batches)))):
        outputs = linear(batch)
        if gradients is not None:
            outputs.backward(gradients[: len(batch)])
        method.observe(0.0, left)
    return method


def example(seed: int, rows: Any = 40, features: Any = 6, outputs: Any = 4, masked: Any = 0) -> Any:
    """Return a matrix and inputs with correlated features."""
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(features, outputs, **DOUBLE)
    linear.weight.data = torch.randn(outputs, features, generator=generator, **DOUBLE)
    linear.weight.data.view(-1)[torch.randperm(features * outputs, generator=generator)[:masked]] = 0
    mixing = torch.randn(features, features, generator=generator, **DOUBLE)
    return linear, torch.randn(rows, features, generator=generator, **DOUBLE) @ mixing


def moments_of(inputs: Any, damping: Any) -> Any:
    matrix = (inputs.mT @ inputs / len(inputs)).float().double()
    return matrix + damping * matrix.diagonal().mean() * torch.eye(len(matrix), **DOUBLE)


def rise(found: Any, wanted: Any, moments: Any) -> Any:
    return ((found - wanted) @ moments @ (found - wanted).mT).diagonal()


def exact(wanted: Any, moments: Any, free: Any) -> Any:
    """Solve each row by the normal equations of its free entries."""
    found = torch.zeros_like(wanted)
    for row, columns in enumerate(free):
        found[row, columns] = torch.linalg.solve(moments[columns][:, columns], (moments @ wanted[row])[columns])
    return found


def test_layerwise_obs_score_is_rise_after_optimal_row_update() -> None:
    linear, inputs = example(1)
    method = seen(LayerwiseObs(damping=0.1), linear, inputs)
    wanted, moments = linear.weight.detach().clone(), moments_of(inputs, 0.1)
    for row, column in [(0, 0), (2, 3), (3, 5)]:
        free = torch.ones_like(wanted, dtype=torch.bool)
        free[row, column] = False
        expected = rise(exact(wanted, moments, free), wanted, moments)[row]
        torch.testing.assert_close(method.scores("a")[row, column].double(), expected, rtol=1e-4, atol=1e-6)


def test_layerwise_obs_ignores_masked_weights_moved_by_optimizer() -> None:
    linear, inputs = example(2, masked=9)
    masked = linear.weight.detach() == 0
    method = seen(LayerwiseObs(), linear, inputs)
    before = linear.weight.detach().clone()
    linear.weight.data[masked] = 5.0
    assert not method.scores("a")[masked].any()
    method.removed("a", torch.zeros_like(masked))
    torch.testing.assert_close(linear.weight.detach(), before)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 999), free=st.integers(0, 2**24 - 1), iterations=st.integers(1, 8))
def test_least_squares_lowers_error_and_converges(seed: int, free: Any, iterations: Any) -> None:
    linear, inputs = example(seed)
    wanted, moments = linear.weight.detach(), moments_of(inputs, 0.1)
    kept = torch.tensor([bool(free >> bit & 1) for bit in range(24)]).view(4, 6)
    found = least_squares(wanted, moments, kept, iterations=iterations)
    assert not found[~kept].any()
    best = rise(exact(wanted, moments, kept), wanted, moments)
    before, after = rise(wanted * kept, wanted, moments), rise(found, wanted, moments)
    slack = 1e-9 * (1 + before)
    assert bool((after <= before + slack).all()) and bool((after >= best - slack).all())
    if iterations >= 6:  # as many as a row has entries
        torch.testing.assert_close(after, best, rtol=1e-5, atol=1e-7)


def test_layerwise_obs_names_too_small_damping() -> None:
    linear, inputs = example(5, rows=2)
    method = seen(LayerwiseObs(damping=1e-30), linear, 1e3 * inputs)
    with pytest.raises(RecipeError, match=r"damping 1e-30 is too small for the inputs of a"):
        method.scores("a")


def test_layerwise_obs_weights_outputs_by_squared_gradients() -> None:
    linear, inputs = example(6)
    gradients = torch.randn(len(inputs), 4, generator=torch.Generator().manual_seed(0), **DOUBLE) * torch.arange(4)
    plain = seen(LayerwiseObs(batches=2), linear, inputs, inputs).scores("a")
    method = seen(LayerwiseObs(batches=2, output_fisher=True), linear, 3 * inputs, inputs, inputs, gradients=gradients)
    weighed = plain.double() * 2 * gradients.square().sum(0)[:, None]
    torch.testing.assert_close(method.scores("a").double(), weighed, rtol=1e-4, atol=1e-6)
    linear(inputs)  # an evaluation between two steps has no gradients
    method.observe(0.5, 0)
    torch.testing.assert_close(method.scores("a"), plain, rtol=1e-4, atol=1e-6)


def test_layerwise_obs_output_fisher_without_gradients() -> None:
    (first, inputs), (second, _) = example(6), example(7)
    plain, weighed = LayerwiseObs(), LayerwiseObs(output_fisher=True)
    for gradients in ((0, 0), (0, 1), (None, 1)):
        for method in (plain, weighed):
            method.prepare({"a": first, "b": second}, Pruning())
            outputs = first(inputs), second(inputs)
            sum(
                (size * found.sum() for size, found in zip(gradients, outputs, strict=True) if size is not None)
            ).backward()
            method.observe(0.0, 0)
        for name, size in zip("ab", gradients, strict=True):
            factor = 1 if gradients == (0, 0) else len(inputs) * (size or 0)
            torch.testing.assert_close(weighed.scores(name), plain.scores(name) * factor)


def test_layerwise_obs_uses_last_batches_before_update() -> None:
    linear, inputs = example(3)
    others = torch.full_like(inputs, 7.0)
    few = seen(LayerwiseObs(batches=2), linear, others, inputs[:20], inputs[20:])
    every = seen(LayerwiseObs(batches=3), linear, others, inputs[:20], inputs[20:])
    alone = seen(LayerwiseObs(batches=1), linear, inputs)
    torch.testing.assert_close(few.scores("a"), alone.scores("a"), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(every.scores("a"), alone.scores("a"))


def test_layerwise_obs_forgets_batches_of_earlier_update() -> None:
    linear, inputs = example(4)
    method = seen(LayerwiseObs(), linear, torch.full_like(inputs, 7.0))
    linear(inputs)
    method.observe(0.5, 0)
    torch.testing.assert_close(method.scores("a"), seen(LayerwiseObs(), linear, inputs).scores("a"))


class Attention(nn.Module):
    """Two matrices with the same inputs and a third with others."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        layer = nn.ModuleDict({"query": nn.Linear(6, 6), "key": nn.Linear(6, 6), "output": nn.Linear(6, 6)})
        self.layers = nn.ModuleList([layer])

    def forward(self, inputs: Any) -> Any:
        layer = self.layers[0]
        return layer["output"](torch.tanh(layer["query"](inputs) * layer["key"](inputs)))  # type: ignore[index]


def steps(network: Any, pruner: Any, numbers: Any) -> None:
    for step in numbers:
        network.zero_grad()
        inputs = torch.randn(30, 6, generator=torch.Generator().manual_seed(step))
        network(inputs).square().sum().backward()
        pruner.observe(step, 8)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.01 * parameter.grad
        pruner.after(step, 8)


@pytest.mark.parametrize("output_fisher", [False, True])
@pytest.mark.parametrize("stop_after", range(1, 8))
def test_layerwise_obs_resumes_between_batches_of_update(tmp_path: Path, stop_after: int, output_fisher: Any) -> None:
    options = {"output_fisher": output_fisher, "batches": 2}
    pruning = Pruning(
        method="layerwise-obs", sparsity=0.7, allocation="global", begin=0.3, end=0.9, updates=2, options=options
    )
    network, fresh = Attention(0), Attention(1)
    pruner, resumed = (
        Pruner(network, pruning, targets=matrices(network)),
        Pruner(fresh, pruning, targets=matrices(fresh)),
    )
    steps(network, pruner, range(1, stop_after + 1))
    pruner.save(tmp_path / "masks.safetensors")
    resumed.load(tmp_path / "masks.safetensors")
    fresh.load_state_dict(network.state_dict())
    for one, its in ((network, pruner), (fresh, resumed)):
        steps(one, its, range(stop_after + 1, 9))
        assert its.masks.sparsity() == pytest.approx(0.7, abs=0.01)
    for first, second in zip(network.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(first, second)


def test_layerwise_obs_sums_shared_inputs_once_and_removes_hooks() -> None:
    network = Attention(0)
    options = {"output_fisher": True}
    pruner = Pruner(
        network,
        Pruning(method="layerwise-obs", sparsity=0.5, end=0.5, updates=1, options=options),
        targets=matrices(network),
    )
    steps(network, pruner, range(1, 5))
    sums = [name for name in pruner.method.state() if name.startswith("moments/")]
    assert sums == ["moments/layers.0.query", "moments/layers.0.output"]
    steps(network, pruner, range(5, 9))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())


def test_layerwise_obs_keeps_outputs_closer_than_magnitude() -> None:
    found = {}
    inputs = torch.randn(200, 6) @ torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    for method in ("magnitude", "layerwise-obs"):
        network = Attention(0)
        wanted = network.layers[0]["query"](inputs).detach()  # type: ignore[index]
        pruner = Pruner(network, Pruning(method=method, sparsity=0.5, end=0.0, updates=1), targets=matrices(network))
        network(inputs)
        pruner.observe(1, 8)
        pruner.after(1, 8)
        found[method] = float((network.layers[0]["query"](inputs).detach() - wanted).square().mean())  # type: ignore[index]
    assert found["layerwise-obs"] < 0.8 * found["magnitude"]
