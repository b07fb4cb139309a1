"""Layer-wise Optimal Brain Surgeon against the least-squares problems it solves, written out in 64-bit numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparserve.models.errors import RecipeError
from sparserve.models.pruning.pruner import Pruner
from sparserve.models.pruning.weights.layerwise_obs import LayerwiseObs, least_squares
from sparserve.models.recipes.schema import Pruning

DOUBLE = {"dtype": torch.float64}


def seen(method, linear, *batches, gradients=None):
    """The method, prepared for one matrix, after these inputs [rows, in]; masks change after the last.

    `gradients` [rows, out] are the loss's, at the outputs of each batch.
    """
    method.prepare({"a": linear}, Pruning())
    for left, batch in reversed(list(enumerate(reversed(batches)))):
        outputs = linear(batch)
        if gradients is not None:
            outputs.backward(gradients[: len(batch)])
        method.observe(0.0, left)
    return method


def example(seed, rows=40, features=6, outputs=4, masked=0):
    """A matrix and inputs whose features hang together."""
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(features, outputs, **DOUBLE)
    linear.weight.data = torch.randn(outputs, features, generator=generator, **DOUBLE)
    linear.weight.data.view(-1)[torch.randperm(features * outputs, generator=generator)[:masked]] = 0
    mixing = torch.randn(features, features, generator=generator, **DOUBLE)
    return linear, torch.randn(rows, features, generator=generator, **DOUBLE) @ mixing


def moments_of(inputs, damping):
    matrix = (inputs.mT @ inputs / len(inputs)).float().double()
    return matrix + damping * matrix.diagonal().mean() * torch.eye(len(matrix), **DOUBLE)


def rise(found, wanted, moments):
    return ((found - wanted) @ moments @ (found - wanted).mT).diagonal()


def exact(wanted, moments, free):
    """Each row by the normal equations of its free entries."""
    found = torch.zeros_like(wanted)
    for row, columns in enumerate(free):
        found[row, columns] = torch.linalg.solve(moments[columns][:, columns], (moments @ wanted[row])[columns])
    return found


def test_a_score_is_the_rise_without_that_weight_when_its_row_makes_up_for_it():
    linear, inputs = example(1)
    method = seen(LayerwiseObs(damping=0.1), linear, inputs)
    wanted, moments = linear.weight.detach().clone(), moments_of(inputs, 0.1)
    for row, column in [(0, 0), (2, 3), (3, 5)]:
        free = torch.ones_like(wanted, dtype=torch.bool)
        free[row, column] = False
        expected = rise(exact(wanted, moments, free), wanted, moments)[row]
        torch.testing.assert_close(method.scores("a")[row, column].double(), expected, rtol=1e-4, atol=1e-6)


def test_masked_weights_that_the_optimiser_moved_count_for_nothing():
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
def test_what_stays_makes_up_for_what_goes(seed, free, iterations):
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


def test_damping_that_is_too_small_is_named():
    linear, inputs = example(5, rows=2)
    method = seen(LayerwiseObs(damping=1e-30), linear, 1e3 * inputs)
    with pytest.raises(RecipeError, match=r"damping 1e-30 is too small for the inputs of a"):
        method.scores("a")


def test_outputs_are_weighed_by_the_squares_of_the_gradients_of_the_batches_that_count():
    linear, inputs = example(6)
    gradients = torch.randn(len(inputs), 4, generator=torch.Generator().manual_seed(0), **DOUBLE) * torch.arange(4)
    plain = seen(LayerwiseObs(batches=2), linear, inputs, inputs).scores("a")
    method = seen(LayerwiseObs(batches=2, output_fisher=True), linear, 3 * inputs, inputs, inputs, gradients=gradients)
    weighed = plain.double() * 2 * gradients.square().sum(0)[:, None]
    torch.testing.assert_close(method.scores("a").double(), weighed, rtol=1e-4, atol=1e-6)
    linear(inputs)  # an evaluation between two steps has no gradients
    method.observe(0.5, 0)
    torch.testing.assert_close(method.scores("a"), plain, rtol=1e-4, atol=1e-6)


def test_without_any_gradient_outputs_weigh_the_same_and_one_without_does_not_matter():
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


def test_only_the_last_batches_before_an_update_count():
    linear, inputs = example(3)
    others = torch.full_like(inputs, 7.0)
    few = seen(LayerwiseObs(batches=2), linear, others, inputs[:20], inputs[20:])
    every = seen(LayerwiseObs(batches=3), linear, others, inputs[:20], inputs[20:])
    alone = seen(LayerwiseObs(batches=1), linear, inputs)
    torch.testing.assert_close(few.scores("a"), alone.scores("a"), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(every.scores("a"), alone.scores("a"))


def test_batches_of_an_earlier_update_do_not_count():
    linear, inputs = example(4)
    method = seen(LayerwiseObs(), linear, torch.full_like(inputs, 7.0))
    linear(inputs)
    method.observe(0.5, 0)
    torch.testing.assert_close(method.scores("a"), seen(LayerwiseObs(), linear, inputs).scores("a"))


class Attention(nn.Module):
    """Two matrices with the same inputs and a third with others."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        layer = nn.ModuleDict({"query": nn.Linear(6, 6), "key": nn.Linear(6, 6), "output": nn.Linear(6, 6)})
        self.layers = nn.ModuleList([layer])

    def forward(self, inputs):
        layer = self.layers[0]
        return layer["output"](torch.tanh(layer["query"](inputs) * layer["key"](inputs)))


def steps(network, pruner, numbers):
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
def test_an_interruption_between_the_batches_of_an_update_changes_nothing(tmp_path, stop_after, output_fisher):
    options = {"output_fisher": output_fisher, "batches": 2}
    pruning = Pruning(
        method="layerwise-obs", sparsity=0.7, allocation="global", begin=0.3, end=0.9, updates=2, options=options
    )
    network, fresh = Attention(0), Attention(1)
    pruner, resumed = Pruner(network, pruning), Pruner(fresh, pruning)
    steps(network, pruner, range(1, stop_after + 1))
    pruner.save(tmp_path / "masks.safetensors")
    resumed.load(tmp_path / "masks.safetensors")
    fresh.load_state_dict(network.state_dict())
    for one, its in ((network, pruner), (fresh, resumed)):
        steps(one, its, range(stop_after + 1, 9))
        assert its.masks.sparsity() == pytest.approx(0.7, abs=0.01)
    for first, second in zip(network.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(first, second)


def test_equal_inputs_are_summed_once_and_nothing_is_looked_at_after_the_last_update():
    network = Attention(0)
    options = {"output_fisher": True}
    pruner = Pruner(network, Pruning(method="layerwise-obs", sparsity=0.5, end=0.5, updates=1, options=options))
    steps(network, pruner, range(1, 5))
    sums = [name for name in pruner.method.state() if name.startswith("moments/")]
    assert sums == ["moments/layers.0.query", "moments/layers.0.output"]
    steps(network, pruner, range(5, 9))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())


def test_layers_answer_closer_to_what_they_did_than_by_magnitude():
    found = {}
    inputs = torch.randn(200, 6) @ torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    for method in ("magnitude", "layerwise-obs"):
        network = Attention(0)
        wanted = network.layers[0]["query"](inputs).detach()
        pruner = Pruner(network, Pruning(method=method, sparsity=0.5, end=0.0, updates=1))
        network(inputs)
        pruner.observe(1, 8)
        pruner.after(1, 8)
        found[method] = float((network.layers[0]["query"](inputs).detach() - wanted).square().mean())
    assert found["layerwise-obs"] < 0.8 * found["magnitude"]
