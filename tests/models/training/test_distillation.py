from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sparserve.models.encoders.layer_mapping import hidden_state_mapping, uniform_choice
from sparserve.models.errors import RecipeError
from sparserve.models.recipes.schema import Distillation
from sparserve.models.training.distillation import (
    NetworkOutputs,
    attention_loss,
    cosine_loss,
    distillation_loss,
    hidden_loss,
    logits_loss,
    make_projection,
)


def random_outputs(
    seed: int, batch: int = 3, length: int = 5, *, layers: int = 2, width: int = 8, heads: int = 2
) -> NetworkOutputs:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    hidden = [draw(batch, length, width) for _ in range(layers + 1)]  # type: ignore[no-untyped-call]
    return NetworkOutputs(draw(batch, 4), hidden, [draw(batch, heads, length, length) for _ in range(layers)])  # type: ignore[no-untyped-call]


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def test_logits_loss_of_one_number_is_the_squared_error() -> None:
    student, teacher = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [1.0]])
    assert logits_loss(student, teacher, 4.0).item() == 2.0


def test_logits_loss_is_cross_entropy_for_certain_teacher() -> None:
    student = torch.randn(6, 3)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    teacher = functional.one_hot(labels, 3).float() * 1e4
    assert logits_loss(student, teacher).item() == pytest.approx(
        functional.cross_entropy(student, labels).item(), rel=1e-5
    )


@settings(deadline=None, max_examples=25)
@given(temperature=st.floats(0.5, 8), multi_label=st.booleans())
def test_logits_loss_is_minimal_for_equal_logits(temperature: float, multi_label: bool) -> None:
    teacher = torch.randn(4, 3)
    student = teacher.clone().requires_grad_(True)
    logits_loss(student, teacher, temperature, multi_label=multi_label).backward()  # type: ignore[no-untyped-call]
    assert student.grad.abs().max().item() < 1e-5


@settings(deadline=None, max_examples=20)
@given(
    layers=st.integers(1, 4),
    width=st.sampled_from([3, 8]),
    lengths=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    noise=st.floats(-1e4, 1e4),
)
def test_losses_ignore_padding(layers: Any, width: Any, lengths: Any, noise: Any) -> None:
    teacher, student = random_outputs(0, layers=4), random_outputs(1, layers=layers, width=width)
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).long()
    padding = 1 - mask
    spoiled = NetworkOutputs(
        student.logits,
        [h + noise * padding.unsqueeze(-1) for h in student.hidden],
        [a + noise * (1 - mask[:, None, None, :] * mask[:, None, :, None]) for a in student.attention],
    )
    projection = make_projection(3, 8, dimensions=(1, 4, 6)) if width == 3 else None
    losses = [
        [
            hidden_loss(outputs.hidden, teacher.hidden, mask, projection),
            cosine_loss(outputs.hidden, teacher.hidden, mask, projection),
            attention_loss(outputs.attention, teacher.attention, mask),
        ]
        for outputs in (student, spoiled)
    ]
    assert torch.equal(*(torch.stack(each) for each in losses))


def test_distillation_loss_is_zero_for_teacher_itself() -> None:
    teacher = random_outputs(0)
    everything = Distillation(logits=0, hidden=1, attention=1, cosine=1)
    assert distillation_loss(teacher, teacher, MASK, everything).item() == pytest.approx(0, abs=1e-6)


def test_losses_without_padding_are_summed_mse() -> None:
    teacher, student, full = random_outputs(0), random_outputs(1), torch.ones(3, 5, dtype=torch.int64)
    expected = sum(functional.mse_loss(s, t) for s, t in zip(student.hidden, teacher.hidden, strict=True))
    assert hidden_loss(student.hidden, teacher.hidden, full).item() == pytest.approx(expected.item(), rel=1e-5)
    expected = sum(functional.mse_loss(s, t) for s, t in zip(student.attention, teacher.attention, strict=True))
    assert attention_loss(student.attention, teacher.attention, full).item() == pytest.approx(expected.item(), rel=1e-5)


def test_distillation_loss_is_weighted_sum() -> None:
    teacher, student = random_outputs(0), random_outputs(1)
    loss = lambda **weights: distillation_loss(student, teacher, MASK, Distillation(**weights)).item()  # noqa: E731
    names = ("logits", "hidden", "attention", "cosine")
    parts = [loss(**{**dict.fromkeys(names, 0), name: 1}) for name in names]  # type: ignore[no-untyped-call]
    expected = 2 * parts[0] + 3 * parts[1] + 5 * parts[2] + 7 * parts[3]
    assert min(parts) > 0
    assert loss(logits=2, hidden=3, attention=5, cosine=7) == pytest.approx(expected, rel=1e-5)  # type: ignore[no-untyped-call]


def test_cosine_loss_ignores_length_and_is_2_for_opposites() -> None:
    teacher = random_outputs(0)
    assert cosine_loss([3 * h for h in teacher.hidden], teacher.hidden, MASK).item() == pytest.approx(0, abs=1e-6)
    assert cosine_loss([-h for h in teacher.hidden], teacher.hidden, MASK).item() == pytest.approx(2, abs=1e-6)


@given(total=st.integers(1, 48), data=st.data())
def test_uniform_choice_is_ordered_and_even(total: Any, data: Any) -> None:
    kept = data.draw(st.integers(1, total))
    chosen = uniform_choice(total, kept)
    gaps = [later - earlier for earlier, later in zip((-1, *chosen), chosen, strict=False)]
    assert len(chosen) == kept and chosen[-1] == total - 1
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


def test_layer_mapping_matches_papers() -> None:
    assert uniform_choice(12, 4) == (2, 5, 8, 11)  # TinyBERT
    assert uniform_choice(12, 6) == (1, 3, 5, 7, 9, 11)  # DistilBERT
    assert uniform_choice(6, 4) == (1, 2, 4, 5)
    assert hidden_state_mapping(4, 12) == (0, 3, 6, 9, 12)


@pytest.mark.parametrize("kept", [0, 7])
def test_uniform_choice_rejects_invalid_count(kept: Any) -> None:
    with pytest.raises(ValueError, match=f"{kept} of 6"):
        uniform_choice(6, kept)


def test_losses_use_mapped_layers_of_deeper_teacher() -> None:
    teacher = random_outputs(0, layers=6)
    student = NetworkOutputs(
        teacher.logits, [teacher.hidden[index] for index in (0, 2, 4, 6)], [teacher.attention[i] for i in (1, 3, 5)]
    )
    assert hidden_loss(student.hidden, teacher.hidden, MASK).item() == 0
    assert attention_loss(student.attention, teacher.attention, MASK).item() == 0
    other = NetworkOutputs(teacher.logits, teacher.hidden[:4], teacher.attention[:3])
    assert hidden_loss(other.hidden, teacher.hidden, MASK).item() > 1
    assert attention_loss(other.attention, teacher.attention, MASK).item() > 1


def test_projection_is_trained_with_narrow_student() -> None:
    teacher, student = random_outputs(0, layers=4), random_outputs(1, layers=2, width=3)
    hidden = [h.requires_grad_(True) for h in student.hidden]
    projection = make_projection(3, 8)
    weights = Distillation(attention=0, cosine=1)
    narrow = NetworkOutputs(student.logits, hidden)
    distillation_loss(narrow, teacher, MASK, weights, projection=projection).backward()  # type: ignore[no-untyped-call]
    assert projection.weight.grad.abs().min().item() > 0
    assert all(state.grad.abs().max().item() > 0 for state in hidden)


def test_make_projection_embeds_known_dimensions() -> None:
    teacher = random_outputs(0)
    narrow = [state[..., [0, 3, 5]] for state in teacher.hidden]
    projection = make_projection(3, 8, dimensions=(0, 3, 5))
    projected = [projection(state) for state in narrow]
    for state, full in zip(projected, teacher.hidden, strict=True):
        assert torch.equal(state[..., [0, 3, 5]], full[..., [0, 3, 5]])
        assert state[..., [1, 2, 4, 6, 7]].abs().max().item() == 0
    everything = make_projection(8, 8, dimensions=range(8))
    assert hidden_loss(teacher.hidden, teacher.hidden, MASK, everything).item() == 0


def test_make_projection_is_random_without_dimensions() -> None:
    torch.manual_seed(0)
    assert make_projection(64, 96).weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("dimensions", [(0, 1), (0, 1, 8)])
def test_make_projection_rejects_wrong_dimensions(dimensions: Any) -> None:
    with pytest.raises(ValueError, match="expected 3 dimensions below 8"):
        make_projection(3, 8, dimensions=dimensions)


@pytest.mark.parametrize("loss", [hidden_loss, cosine_loss])
def test_losses_reject_narrow_student_without_projection(loss: Any) -> None:
    with pytest.raises(ValueError, match="make_projection"):
        loss(random_outputs(1, width=3).hidden, random_outputs(0).hidden, MASK)


def test_attention_loss_rejects_fewer_heads() -> None:
    student, teacher = random_outputs(1, heads=1), random_outputs(0)
    with pytest.raises(RecipeError, match=r"distillation\.attention to 0"):
        distillation_loss(student, teacher, MASK, Distillation())


def test_hidden_loss_is_exact_in_mixed_precision() -> None:
    # bfloat16 cannot count the tokens of a batch: 257 is 256 there.
    states, mask = [torch.ones(1, 257, 4).bfloat16()], torch.ones(1, 257)
    assert hidden_loss(states * 2, [torch.zeros(1, 257, 4)] * 2, mask).item() == 2


@settings(deadline=None)
@given(scale=st.floats(0.01, 100))
def test_hidden_loss_relative_is_scale_independent(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = [torch.randn(2, 3, 4, generator=generator) for _ in range(3)]
    student = [state + 0.1 * torch.randn(2, 3, 4, generator=generator) for state in teacher]
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    expected = hidden_loss(student, teacher, mask, relative=True)
    scaled = hidden_loss([scale * s for s in student], [scale * t for t in teacher], mask, relative=True)
    torch.testing.assert_close(scaled, expected)
    absolute = hidden_loss(student, teacher, mask)
    assert not torch.isclose(absolute, expected)
