"""Figures of a network on held-out rows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sparserve.models.data.loading import load_dataset
from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.training.distillation import labels_loss
from sparserve.models.training.tuning.held_out import constant_loss, divergence, held_out_figures, held_out_logits


class Fixed(nn.Module):
    """Answers a row with the logits of its first word."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(logits)

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.table[input_ids[:, 1]])


def test_held_out_logits_are_in_the_order_of_the_rows(whole: Checkpoint, sentiment_csv: Path) -> None:
    split = TokenizedDataset(load_dataset(sentiment_csv), whole.tokenizer, 32).train
    table = torch.randn(whole.config.vocab_size, 2, generator=torch.Generator().manual_seed(0))
    rows = [5, 0, 70, 33]
    logits = held_out_logits(Fixed(table), split, rows, pad_token_id=0)
    assert torch.equal(logits, table[[int(split[row]["input_ids"][1]) for row in rows]])


def test_held_out_loss_does_not_depend_on_the_scale_of_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 2, generator=generator)
    labels = (logits.argmax(-1) + (torch.rand(50, generator=generator) < 0.2)) % 2
    figures = [held_out_figures(logits * scale, labels, multi_label=False) for scale in (1.0, 4.0)]
    assert figures[0].loss == pytest.approx(figures[1].loss, rel=1e-3)
    assert figures[0].score == figures[1].score


@pytest.mark.parametrize(
    ("labels", "columns", "multi_label"),
    [
        (torch.tensor([0, 0, 0, 2]), 3, False),
        (torch.tensor([1.0, 2.0, 4.5]), 1, False),
        (torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), 2, True),
        (torch.tensor([[1.0], [0.5], [0.0]]), 1, True),
    ],
)
def test_constant_loss_is_the_least_of_the_same_answer_to_every_row(
    labels: torch.Tensor, columns: int, *, multi_label: bool
) -> None:
    least = constant_loss(labels, columns, multi_label=multi_label)
    losses = [
        float(labels_loss(logits.expand(len(labels), columns), labels, multi_label=multi_label))
        for logits in torch.randn(500, columns, generator=torch.Generator().manual_seed(0)) * 3
    ]
    assert least <= min(losses) < 1.5 * least + 0.1


def test_divergence_is_zero_for_the_teacher_and_positive_for_others() -> None:
    half, sure = torch.tensor([[0.0, 0.0]]), torch.log(torch.tensor([[0.9, 0.1]]))
    assert divergence(half, sure, multi_label=False) == pytest.approx(0.5108256)  # 0.5 ln(0.5/0.9) + 0.5 ln(0.5/0.1)
    for columns, multi_label in ((3, True), (1, False), (1, True)):
        teacher = torch.linspace(-2, 2, 4 * columns).reshape(4, columns)
        assert divergence(teacher, teacher, multi_label=multi_label) == pytest.approx(0, abs=1e-6)
        assert divergence(teacher, teacher + 1, multi_label=multi_label) > 0.01
