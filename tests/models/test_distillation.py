import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from models.distillation import NetworkOutputs, attention_loss, distillation_loss, hidden_loss, logits_loss
from models.recipe import Distillation


def random_outputs(seed: int, batch: int = 3, length: int = 5) -> NetworkOutputs:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    hidden = [draw(batch, length, 8) for _ in range(3)]
    return NetworkOutputs(draw(batch, 4), hidden, [draw(batch, 2, length, length) for _ in range(2)])


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def test_logits_loss_is_cross_entropy_for_a_certain_teacher():
    student = torch.randn(6, 3)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    teacher = functional.one_hot(labels, 3).float() * 1e4
    assert logits_loss(student, teacher).item() == pytest.approx(
        functional.cross_entropy(student, labels).item(), rel=1e-5
    )


@settings(deadline=None, max_examples=25)
@given(temperature=st.floats(0.5, 8), multi_label=st.booleans())
def test_logits_loss_is_least_when_the_student_is_the_teacher(temperature, multi_label):
    teacher = torch.randn(4, 3)
    student = teacher.clone().requires_grad_(True)
    logits_loss(student, teacher, temperature, multi_label=multi_label).backward()
    assert student.grad.abs().max().item() < 1e-5


def test_padding_does_not_count():
    teacher, student = random_outputs(0), random_outputs(1)
    spoiled = NetworkOutputs(
        student.logits,
        [h + 100 * (1 - MASK).unsqueeze(-1) for h in student.hidden],
        [a + 100 * (1 - MASK)[:, None, None, :] + 100 * (1 - MASK)[:, None, :, None] for a in student.attention],
    )
    assert torch.equal(
        hidden_loss(spoiled.hidden, teacher.hidden, MASK), hidden_loss(student.hidden, teacher.hidden, MASK)
    )
    assert torch.equal(
        attention_loss(spoiled.attention, teacher.attention, MASK),
        attention_loss(student.attention, teacher.attention, MASK),
    )


def test_without_padding_they_are_mean_squared_errors_summed_over_layers():
    teacher, student, full = random_outputs(0), random_outputs(1), torch.ones(3, 5, dtype=torch.int64)
    expected = sum(functional.mse_loss(s, t) for s, t in zip(student.hidden, teacher.hidden, strict=True))
    assert hidden_loss(student.hidden, teacher.hidden, full).item() == pytest.approx(expected.item(), rel=1e-5)
    expected = sum(functional.mse_loss(s, t) for s, t in zip(student.attention, teacher.attention, strict=True))
    assert attention_loss(student.attention, teacher.attention, full).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_is_the_weighted_sum():
    teacher, student = random_outputs(0), random_outputs(1)
    loss = lambda **weights: distillation_loss(student, teacher, MASK, Distillation(**weights)).item()  # noqa: E731
    parts = [
        loss(logits=1, hidden=0, attention=0),
        loss(logits=0, hidden=1, attention=0),
        loss(logits=0, hidden=0, attention=1),
    ]
    assert loss(logits=2, hidden=3, attention=5) == pytest.approx(2 * parts[0] + 3 * parts[1] + 5 * parts[2], rel=1e-5)
