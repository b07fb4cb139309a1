"""The losses between teacher and student: pure functions on tensors.

Shapes: logits [batch, labels]; hidden states [batch, length, hidden] for the embedding output and every layer;
attention scores [batch, heads, length, length] before the softmax, for every layer; attention mask [batch, length],
1 for tokens and 0 for padding. Source: Xu et al. 2021 (SparseBERT), arXiv 2104.08682, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from models.recipe import Distillation


@dataclass(frozen=True)
class NetworkOutputs:
    """What a network computed for a batch; `hidden` and `attention` are empty where no loss needs them."""

    logits: torch.Tensor
    hidden: Sequence[torch.Tensor] = ()
    attention: Sequence[torch.Tensor] = ()


def logits_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0, *, multi_label: bool = False
) -> torch.Tensor:
    """Soft cross-entropy of the logits at temperature T, times T^2 so that its gradient keeps its size.

    Hinton et al. 2015, arXiv 1503.02531, section 2. Multi-label tasks take the binary cross-entropy of each label.
    """
    if multi_label:
        targets = torch.sigmoid(teacher / temperature)
        return functional.binary_cross_entropy_with_logits(student / temperature, targets) * temperature**2
    targets = functional.softmax(teacher / temperature, dim=-1)
    return -(targets * functional.log_softmax(student / temperature, dim=-1)).sum(-1).mean() * temperature**2


def hidden_loss(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], attention_mask: torch.Tensor
) -> torch.Tensor:
    """Squared error of the hidden states, the mean over real tokens and features, summed over layers."""
    real = attention_mask.unsqueeze(-1).to(student[0].dtype)
    count = real.sum() * student[0].shape[-1]
    errors = [((s - t).square() * real).sum() / count for s, t in zip(student, teacher, strict=True)]
    return torch.stack(errors).sum()


def attention_loss(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], attention_mask: torch.Tensor
) -> torch.Tensor:
    """Squared error of the pre-softmax scores, the mean over heads and pairs of real tokens, summed over layers."""
    mask = attention_mask.to(student[0].dtype)
    real = (mask.unsqueeze(1) * mask.unsqueeze(2)).unsqueeze(1)
    count = real.sum() * student[0].shape[1]
    errors = [((s - t).square() * real).sum() / count for s, t in zip(student, teacher, strict=True)]
    return torch.stack(errors).sum()


def distillation_loss(
    student: NetworkOutputs,
    teacher: NetworkOutputs,
    attention_mask: torch.Tensor,
    weights: Distillation,
    *,
    multi_label: bool = False,
) -> torch.Tensor:
    """Weighted sum of the losses of SparseBERT: attention, hidden states and logits (Xu et al. 2021, equation 5)."""
    loss = student.logits.new_zeros(())
    if weights.logits:
        soft = logits_loss(student.logits, teacher.logits, weights.temperature, multi_label=multi_label)
        loss = loss + weights.logits * soft
    if weights.hidden:
        loss = loss + weights.hidden * hidden_loss(student.hidden, teacher.hidden, attention_mask)
    if weights.attention:
        loss = loss + weights.attention * attention_loss(student.attention, teacher.attention, attention_mask)
    return loss
