"""Figures of a network on held-out rows, by which trials are compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sklearn.metrics import f1_score
from torch import nn

from sparserve.models.data.tokenization import Collator, TokenizedSplit
from sparserve.models.evaluation.calibration import fit_temperature
from sparserve.models.training.distillation import labels_loss
from sparserve.models.training.trainer import score

BATCH_ROWS = 64


@dataclass(frozen=True)
class HeldOut:
    """Loss on the labels, the score that compares epochs (`trainer.score`) and macro F1, on held-out rows.

    The loss of a single-label task is the one at its best temperature. A network without one label per text has no
    other macro F1 than its score.
    """

    loss: float
    score: float
    macro_f1: float


DIVERGED = HeldOut(math.inf, 0.0, 0.0)


@torch.inference_mode()
def held_out_figures(
    model: nn.Module, split: TokenizedSplit, rows: Sequence[int], *, pad_token_id: int, multi_label: bool
) -> HeldOut:
    """Return the figures of a network in eval mode on these rows of a split."""
    device, collate = next(model.parameters()).device, Collator(pad_token_id)
    order = sorted(rows, key=lambda row: (split.lengths[row], row))
    outputs, labels = [], []
    for begin in range(0, len(order), BATCH_ROWS):
        batch = collate([split[row] for row in order[begin : begin + BATCH_ROWS]])
        del batch["row"]
        labels.append(batch.pop("labels"))
        outputs.append(model(**{name: value.to(device) for name, value in batch.items()}).logits.float().cpu())
    logits, truth = torch.cat(outputs), torch.cat(labels)
    loss = float(labels_loss(logits, truth, multi_label=multi_label))
    if not math.isfinite(loss):
        return DIVERGED
    if not multi_label and logits.shape[-1] > 1 and truth.ndim == 1:
        # Early in a training of many classes, high rates have lower losses by larger logits alone.
        temperature = fit_temperature(logits.numpy(), truth.numpy())
        loss = float(labels_loss(logits / temperature, truth, multi_label=False))
    value = score(logits.numpy(), truth.numpy(), multi_label=multi_label)
    if multi_label or logits.shape[-1] == 1:
        return HeldOut(loss, value, value)
    macro_f1 = f1_score(truth.numpy(), logits.numpy().argmax(-1), average="macro", zero_division=0)
    return HeldOut(loss, value, float(macro_f1))
