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
from sparserve.models.training.tuning.held_out import held_out_figures


class Fixed(nn.Module):
    """Answers a row with the logits of its first word, times a scale."""

    def __init__(self, logits: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.table = nn.Parameter(logits * scale)

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.table[input_ids[:, 1]])


def test_held_out_loss_does_not_depend_on_the_scale_of_logits(whole: Checkpoint, sentiment_csv: Path) -> None:
    split = TokenizedDataset(load_dataset(sentiment_csv), whole.tokenizer, 32).train
    logits = torch.randn(whole.config.vocab_size, 2, generator=torch.Generator().manual_seed(0))
    figures = [
        held_out_figures(Fixed(logits, scale), split, range(len(split)), pad_token_id=0, multi_label=False)
        for scale in (1.0, 4.0)
    ]
    assert figures[0].loss == pytest.approx(figures[1].loss, rel=1e-3)
    assert figures[0].score == figures[1].score
