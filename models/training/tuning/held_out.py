"""Figures of a network on held-out rows, by which trials are compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sklearn.metrics import f1_score
from torch import nn

from sparserve.models.data.tokenization import Collator, TokenizedSplit
from sparserve.models.evaluation.calibration import fit_temperature
from sparserve.models.training.distillation import labels_loss, logits_loss
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
def held_out_logits(model: nn.Module, split: TokenizedSplit, rows: Sequence[int], *, pad_token_id: int) -> torch.Tensor:
    """Return the logits [rows, labels] of a network in eval mode, in the order of these rows of a split."""
    device, collate = next(model.parameters()).device, Collator(pad_token_id)
    order = sorted(range(len(rows)), key=lambda place: (split.lengths[rows[place]], rows[place]))
    outputs = []
    for begin in range(0, len(order), BATCH_ROWS):
        batch = collate([split[rows[place]] for place in order[begin : begin + BATCH_ROWS]])
        inputs = {name: value.to(device) for name, value in batch.items() if name not in ("row", "labels")}
        outputs.append(model(**inputs).logits.float().cpu())
    sorted_logits = torch.cat(outputs)
    logits = torch.empty_like(sorted_logits)
    logits[order] = sorted_logits
    return logits


def held_out_figures(logits: torch.Tensor, labels: torch.Tensor, *, multi_label: bool) -> HeldOut:
    """Return the figures of logits [rows, labels] for the labels of these rows."""
    loss = float(labels_loss(logits, labels, multi_label=multi_label))
    if not math.isfinite(loss):
        return DIVERGED
    if not multi_label and logits.shape[-1] > 1 and labels.ndim == 1:
        # Early in a training of many classes, high rates have lower losses by larger logits alone.
        temperature = fit_temperature(logits.numpy(), labels.numpy())
        loss = float(labels_loss(logits / temperature, labels, multi_label=False))
    value = score(logits.numpy(), labels.numpy(), multi_label=multi_label)
    if multi_label or logits.shape[-1] == 1:
        return HeldOut(loss, value, value)
    macro_f1 = f1_score(labels.numpy(), logits.numpy().argmax(-1), average="macro", zero_division=0)
    return HeldOut(loss, value, float(macro_f1))


def constant_loss(labels: torch.Tensor, columns: int, *, multi_label: bool) -> float:
    """Return the least loss on labels of a network whose logits [columns] are the same for every row."""
    if multi_label:
        logits = torch.logit(labels.float().mean(0), eps=1e-6)
    elif columns == 1:
        logits = labels.mean()
    else:
        logits = torch.log(torch.bincount(labels, minlength=columns).clamp(min=1e-6) / len(labels))
    return float(labels_loss(logits.expand(len(labels), columns), labels, multi_label=multi_label))


def divergence(teacher: torch.Tensor, student: torch.Tensor, *, multi_label: bool) -> float:
    """Return KL(teacher || student) of logits [rows, labels] in nats, the mean over rows.

    For multi-label tasks it is the mean over labels, too; for one score it is the squared error.
    """
    cross_entropy = logits_loss(student, teacher, multi_label=multi_label)
    return float(cross_entropy - logits_loss(teacher, teacher, multi_label=multi_label))
