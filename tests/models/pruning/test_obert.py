"""oBERT against the Optimal Brain Surgeon for one small matrix in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserve.models.errors import RecipeError
from sparserve.models.pruning.weights.obert import OBert
from tests.support.models.observing import observed

SHAPE = (4, 5)


def example(seed: int, count: Any = 12, masked: Any = 0) -> Any:
    """Return a matrix, and gradients that are exact in bfloat16 and correlated within rows."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*SHAPE, generator=generator, dtype=torch.float64)
    weight.view(-1)[torch.randperm(20, generator=generator)[:masked]] = 0
    gradients = torch.randn(count, *SHAPE, generator=generator) + 2 * torch.randn(count, 4, 1, generator=generator)
    return weight, gradients.bfloat16().double()


def fisher(weight: Any, gradients: Any, damping: Any) -> Any:
    """Return the positions of the kept weights and their F."""
    kept = weight.flatten().nonzero().flatten()
    rows = gradients.flatten(1)[:, kept]
    scale = damping * rows.square().mean() + 1e-20
    return kept, rows.mT @ rows / len(rows) + scale * torch.eye(len(kept), dtype=torch.float64)


@pytest.mark.parametrize("masked", [0, 7])
def test_obert_saliency_is_exact_rise_of_quadratic(masked: Any) -> None:
    weight, gradients = example(1, masked=masked)
    method = OBert(fisher_block=20, damping=0.01)
    observed(method, weight, *gradients)
    kept, matrix = fisher(weight, gradients, 0.01)
    expected = torch.zeros(20, dtype=torch.float64)
    expected[kept] = weight.flatten()[kept].square() / (2 * torch.linalg.inv(matrix).diagonal())
    torch.testing.assert_close(method.scores("a").flatten(), expected)


@pytest.mark.parametrize("masked", [0, 7])
def test_obert_update_is_optimal_and_costs_as_predicted(masked: Any) -> None:
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


def test_obert_single_weight_costs_its_saliency() -> None:
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
def test_obert_blocks_consist_of_kept_weights(seed: int, block: Any, count: Any, masked: Any, gone: Any) -> None:
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
    for positions, part in zip(kept.split(block), torch.arange(len(kept)).split(block), strict=True):  # type: ignore[no-untyped-call]
        inverse = torch.linalg.inv(matrix[part][:, part])
        saliency = weight.flatten()[positions].square() / (2 * inverse.diagonal())
        torch.testing.assert_close(scores[positions], saliency, rtol=1e-6, atol=1e-6)
        removed = dropped[positions]
        before = weight.flatten()[positions]
        change = -inverse[:, removed] @ torch.linalg.solve(inverse[removed][:, removed], before[removed])
        torch.testing.assert_close(after[positions][~removed], (before + change)[~removed])


def test_obert_chunks_give_same_scores() -> None:
    weight, gradients = example(4, masked=3)
    whole, parts = OBert(fisher_block=2), OBert(fisher_block=2)
    observed(whole, weight, *gradients)
    observed(parts, weight, *gradients)
    expected = whole.scores("a")
    parts.chunk_blocks = 3
    torch.testing.assert_close(parts.scores("a"), expected)


def test_obert_without_gradients_ranks_by_magnitude() -> None:
    weight, _ = example(5)
    method = OBert(fisher_block=6)
    linear = observed(method, weight)
    scores = method.scores("a").flatten()
    assert torch.equal(scores.argsort(), weight.abs().flatten().argsort())
    method.removed("a", weight.abs() < 0.5)
    assert torch.equal(linear.weight, weight)


def test_obert_uses_last_gradients_only() -> None:
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


def test_obert_drops_gradients_far_from_update() -> None:
    weight, gradients = example(7)
    method = OBert(gradients=4)
    linear = observed(method, weight, *gradients)
    linear.weight.grad = gradients[0].clone()
    method.observe(0.5, 4)
    assert method.state().keys() == {"seen"}
    method.observe(0.5, None)
    assert method.state().keys() == {"seen"}


def test_obert_respects_memory_limit() -> None:
    weight, gradients = example(8)
    method = OBert(memory_bytes=3 * 2 * 20 + 39)
    observed(method, weight, *gradients)
    assert method.state()["gradients/a"].shape == (3, 20)
    with pytest.raises(RecipeError, match=r"memory_bytes is 39, less than the 40 bytes of one gradient"):
        observed(OBert(memory_bytes=39), weight, *gradients)


def test_obert_ignores_masked_weights_moved_by_optimizer() -> None:
    weight, gradients = example(9, masked=6)
    method = OBert(fisher_block=20)
    linear = observed(method, weight, *gradients)
    expected = method.scores("a")
    linear.weight.data[weight == 0] = 3.0
    assert torch.equal(method.scores("a"), expected)


def test_obert_excludes_weights_masked_by_earlier_update() -> None:
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
