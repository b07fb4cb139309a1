"""oBERT against the Optimal Brain Surgeon written out for one small matrix in 64-bit numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserve.models.errors import RecipeError
from sparserve.models.pruning.weights.obert import OBert
from tests.support.models.observing import observed

SHAPE = (4, 5)


def example(seed, count=12, masked=0):
    """A matrix, and gradients that bfloat16 holds exactly and that hang together within rows."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*SHAPE, generator=generator, dtype=torch.float64)
    weight.view(-1)[torch.randperm(20, generator=generator)[:masked]] = 0
    gradients = torch.randn(count, *SHAPE, generator=generator) + 2 * torch.randn(count, 4, 1, generator=generator)
    return weight, gradients.bfloat16().double()


def fisher(weight, gradients, damping):
    """The positions of the kept weights, and F over them."""
    kept = weight.flatten().nonzero().flatten()
    rows = gradients.flatten(1)[:, kept]
    scale = damping * rows.square().mean() + 1e-20
    return kept, rows.mT @ rows / len(rows) + scale * torch.eye(len(kept), dtype=torch.float64)


@pytest.mark.parametrize("masked", [0, 7])
def test_saliency_is_the_exact_rise_of_the_quadratic(masked):
    weight, gradients = example(1, masked=masked)
    method = OBert(fisher_block=20, damping=0.01)
    observed(method, weight, *gradients)
    kept, matrix = fisher(weight, gradients, 0.01)
    expected = torch.zeros(20, dtype=torch.float64)
    expected[kept] = weight.flatten()[kept].square() / (2 * torch.linalg.inv(matrix).diagonal())
    torch.testing.assert_close(method.scores("a").flatten(), expected)


@pytest.mark.parametrize("masked", [0, 7])
def test_update_is_the_optimal_one_and_costs_what_was_predicted(masked):
    weight, gradients = example(2, masked=masked)
    method = OBert(fisher_block=20, damping=0.01)
    linear = observed(method, weight, *gradients)
    kept, matrix = fisher(weight, gradients, 0.01)
    gone = torch.zeros(20, dtype=torch.bool)
    gone[kept[[1, 4, 5, 9]]] = True
    method.removed("a", gone.view(SHAPE))
    inverse = torch.linalg.inv(matrix)
    removed = gone[kept]
    multipliers = torch.linalg.solve(inverse[removed][:, removed], weight.flatten()[kept][removed])
    expected = -inverse[:, removed] @ multipliers
    delta = linear.weight.detach().flatten()[kept] - weight.flatten()[kept]
    torch.testing.assert_close(delta[~removed], expected[~removed])
    # What goes is left to the mask, and what was masked before stays at zero.
    assert not delta[removed].any()
    assert not linear.weight.detach().flatten()[weight.flatten() == 0].any()
    step = torch.where(removed, -weight.flatten()[kept], delta)
    predicted = 0.5 * weight.flatten()[kept][removed] @ multipliers
    torch.testing.assert_close(0.5 * step @ matrix @ step, predicted)


def test_a_single_weight_costs_its_saliency():
    weight, gradients = example(3)
    method = OBert(fisher_block=20)
    linear = observed(method, weight, *gradients)
    scores = method.scores("a").flatten()
    _, matrix = fisher(weight, gradients, method.damping)
    gone = torch.zeros(20, dtype=torch.bool)
    gone[7] = True
    method.removed("a", gone.view(SHAPE))
    step = (linear.weight.detach() * ~gone.view(SHAPE) - weight).flatten()
    torch.testing.assert_close(0.5 * step @ matrix @ step, scores[7])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 999),
    block=st.integers(1, 25),
    count=st.integers(1, 12),
    masked=st.integers(0, 20),
    gone=st.integers(0, 2**20 - 1),
)
def test_blocks_of_any_size_are_those_of_the_kept_weights(seed, block, count, masked, gone):
    weight, gradients = example(seed, count, masked)
    method = OBert(fisher_block=block, damping=0.1)
    linear = observed(method, weight, *gradients)
    dropped = torch.tensor([bool(gone >> bit & 1) for bit in range(20)]) & (weight.flatten() != 0)
    scores = method.scores("a").flatten()
    method.removed("a", dropped.view(SHAPE))
    after = linear.weight.detach().flatten()
    if masked == 20:
        assert not scores.any() and not after.any()
        return
    kept, matrix = fisher(weight, gradients, 0.1)
    for positions, part in zip(kept.split(block), torch.arange(len(kept)).split(block), strict=True):
        inverse = torch.linalg.inv(matrix[part][:, part])
        torch.testing.assert_close(scores[positions], weight.flatten()[positions].square() / (2 * inverse.diagonal()))
        removed = dropped[positions]
        before = weight.flatten()[positions]
        change = -inverse[:, removed] @ torch.linalg.solve(inverse[removed][:, removed], before[removed])
        torch.testing.assert_close(after[positions][~removed], (before + change)[~removed])


def test_many_blocks_are_taken_part_by_part():
    weight, gradients = example(4, masked=3)
    whole, parts = OBert(fisher_block=2), OBert(fisher_block=2)
    observed(whole, weight, *gradients)
    observed(parts, weight, *gradients)
    expected = whole.scores("a")
    parts.chunk_blocks = 3
    torch.testing.assert_close(parts.scores("a"), expected)


def test_without_gradients_the_smallest_weights_go_and_nothing_else_changes():
    weight, _ = example(5)
    method = OBert(fisher_block=6)
    linear = observed(method, weight)
    scores = method.scores("a").flatten()
    assert torch.equal(scores.argsort(), weight.abs().flatten().argsort())
    method.removed("a", weight.abs() < 0.5)
    assert torch.equal(linear.weight, weight)


def test_only_the_last_gradients_count():
    weight, gradients = example(6, count=11)
    few, last = OBert(fisher_block=20, gradients=4), OBert(fisher_block=20, gradients=4)
    # The first seven steps are too far from the update; then the ring is overwritten by a nearer update's.
    observed(few, weight, *gradients)
    observed(last, weight, *gradients[-4:])
    assert torch.equal(few.scores("a"), last.scores("a"))
    for method in (few, last):
        for gradient in gradients[:6]:
            method.targets["a"].weight.grad = gradient.clone()
            method.observe(0.0, 0)
    assert few.state()["gradients/a"].shape == (4, 20)
    kept, matrix = fisher(weight, gradients[2:6], few.damping)
    expected = weight.flatten()[kept].square() / (2 * torch.linalg.inv(matrix).diagonal())
    torch.testing.assert_close(few.scores("a").flatten(), expected)


def test_gradients_are_let_go_while_no_update_is_near():
    weight, gradients = example(7)
    method = OBert(gradients=4)
    linear = observed(method, weight, *gradients)
    linear.weight.grad = gradients[0].clone()
    method.observe(0.5, 4)
    assert method.state().keys() == {"seen"}
    method.observe(0.5, None)
    assert method.state().keys() == {"seen"}


def test_gradients_fit_into_the_memory_allowed():
    weight, gradients = example(8)
    method = OBert(memory_bytes=3 * 2 * 20 + 39)
    observed(method, weight, *gradients)
    assert method.state()["gradients/a"].shape == (3, 20)
    with pytest.raises(RecipeError, match=r"memory_bytes is 39, less than the 40 bytes of one gradient"):
        observed(OBert(memory_bytes=39), weight, *gradients)


def test_what_the_optimiser_does_to_masked_weights_does_not_count():
    weight, gradients = example(9, masked=6)
    method = OBert(fisher_block=20)
    linear = observed(method, weight, *gradients)
    expected = method.scores("a")
    linear.weight.data[weight == 0] = 3.0
    assert torch.equal(method.scores("a"), expected)


def test_weights_that_an_update_masked_are_out_of_the_next_ones():
    weight, gradients = example(10)
    method = OBert(fisher_block=20, gradients=12, damping=0.01)
    linear = observed(method, weight, *gradients)
    linear.weight.data[0] = 0
    linear.weight.grad = gradients[0].clone()
    method.observe(0.5, 0)
    # The ring holds twelve: the first was overwritten by itself.
    kept, matrix = fisher(linear.weight.detach(), gradients, 0.01)
    expected = linear.weight.detach().flatten()[kept].square() / (2 * torch.linalg.inv(matrix).diagonal())
    torch.testing.assert_close(method.scores("a").flatten()[kept], expected)
