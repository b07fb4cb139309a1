"""Distillation losses between teacher and student: pure functions on tensors.

Shapes: logits [batch, labels]; hidden states [batch, length, hidden] for the embedding output and every layer;
attention scores [batch, heads, length, length] before the softmax, for every layer; attention mask [batch, length],
1 for tokens and 0 for padding. Source: Xu et al. 2021 (SparseBERT), arXiv 2104.08682, section 3. A student with fewer
layers imitates the layers that `layer_mapping` selects. The hidden states of a narrower student are projected to the
teacher's width first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from sparserve.models.data.dataset import UNLABELED
from sparserve.models.encoders.layer_mapping import hidden_state_mapping, uniform_choice
from sparserve.models.errors import RecipeError
from sparserve.models.recipes.schema import Distillation


@dataclass(frozen=True)
class NetworkOutputs:
    """Outputs of a network for a batch. `hidden` and `attention` are empty if no loss needs them."""

    logits: torch.Tensor
    hidden: Sequence[torch.Tensor] = ()
    attention: Sequence[torch.Tensor] = ()


def make_projection(student_width: int, teacher_width: int, *, dimensions: Sequence[int] | None = None) -> nn.Linear:
    """Return a learned projection [teacher_width, student_width] of hidden states, for all layers, without bias.

    TinyBERT, Jiao et al. 2020, arXiv 1909.10351, equation 8. It is trained together with the student. With `dimensions`
    (the teacher's dimensions that the student started from, `encoders.shrinking.kept_dimensions`) it starts as the
    embedding into these dimensions; otherwise as random numbers from N(0, 0.02^2).

    Raises:
        ValueError: the number of `dimensions` is not the student's width, or one is outside the teacher's width.
    """
    projection = nn.Linear(student_width, teacher_width, bias=False)
    if dimensions is None:
        nn.init.normal_(projection.weight, std=0.02)
        return projection
    if len(dimensions) != student_width or max(dimensions) >= teacher_width:
        raise ValueError(f"expected {student_width} dimensions below {teacher_width}, one for each of the student's")
    nn.init.zeros_(projection.weight)
    with torch.no_grad():
        projection.weight[list(dimensions), list(range(student_width))] = 1.0
    return projection


def logits_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0, *, multi_label: bool = False
) -> torch.Tensor:
    """Return the soft cross-entropy of the logits at temperature T, times T^2 to keep the scale of the gradient.

    Hinton et al. 2015, arXiv 1503.02531, section 2. Multi-label tasks use the binary cross-entropy of each label, a
    regression (one logit) the squared error.
    """
    if student.shape[-1] == 1 and not multi_label:
        return functional.mse_loss(student, teacher)
    if multi_label:
        targets = torch.sigmoid(teacher / temperature)
        return functional.binary_cross_entropy_with_logits(student / temperature, targets) * temperature**2
    targets = functional.softmax(teacher / temperature, dim=-1)
    return -(targets * functional.log_softmax(student / temperature, dim=-1)).sum(-1).mean() * temperature**2


def labels_loss(student: torch.Tensor, labels: torch.Tensor, *, multi_label: bool = False) -> torch.Tensor:
    """Return the cross-entropy with the gold labels, the mean over all rows; a row without a label counts 0.

    A regression (one logit) has the squared error.
    """
    if student.shape[-1] == 1 and not multi_label:
        return functional.mse_loss(student.squeeze(-1), labels)
    if multi_label:
        labelled = (labels != UNLABELED).to(student.dtype)
        return functional.binary_cross_entropy_with_logits(student, labels.clamp(min=0), weight=labelled)
    return functional.cross_entropy(student, labels, ignore_index=UNLABELED, reduction="sum") / len(labels)


def hidden_loss(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    attention_mask: torch.Tensor,
    projection: nn.Module | None = None,
    *,
    relative: bool = False,
) -> torch.Tensor:
    """Return the mean squared error of the hidden states over real tokens and features, summed over student layers.

    With `relative` the error of each layer is divided by the mean square of the teacher's states. A weight then means
    the same for networks whose states differ in scale, such as MiniLM and MPNet.

    Raises:
        ValueError: the student is narrower and there is no projection, or it has more layers than the teacher.
    """
    real = attention_mask.unsqueeze(-1).float()
    count = real.sum() * teacher[0].shape[-1]
    errors = []
    for s, t in _hidden_pairs(student, teacher, projection):
        error = ((s - t).square() * real).sum()
        errors.append(error / (t.square() * real).sum() if relative else error / count)
    return torch.stack(errors).sum()


def cosine_loss(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    attention_mask: torch.Tensor,
    projection: nn.Module | None = None,
) -> torch.Tensor:
    """Return 1 - cosine of the hidden states, the mean over real tokens and student layers; between 0 and 2.

    Sanh et al. 2019 (DistilBERT), arXiv 1910.01108, section 3, which uses the last layer only.

    Raises:
        ValueError: the student is narrower and there is no projection, or it has more layers than the teacher.
    """
    real = attention_mask.float()
    pairs = _hidden_pairs(student, teacher, projection)
    return torch.stack(
        [((1 - functional.cosine_similarity(s, t, dim=-1)) * real).sum() / real.sum() for s, t in pairs]
    ).mean()


def attention_loss(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], attention_mask: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared error of the pre-softmax scores over heads and real pairs, summed over student layers.

    Raises:
        RecipeError: a layer of the student has another number of heads than that of the teacher.
        ValueError: the student has more layers than the teacher.
    """
    mask = attention_mask.float()
    real = (mask.unsqueeze(1) * mask.unsqueeze(2)).unsqueeze(1)
    errors = []
    for layer, teacher_layer in enumerate(uniform_choice(len(teacher), len(student))):
        s, t = student[layer], teacher[teacher_layer]
        if s.shape[1] != t.shape[1]:
            raise RecipeError(
                f"layer {layer} of the student has {s.shape[1]} attention heads but that of the teacher {t.shape[1]}, "
                "so their scores cannot be compared. Set distillation.attention to 0, or keep all heads."
            )
        errors.append(((s - t).square() * real).sum() / (real.sum() * t.shape[1]))
    return torch.stack(errors).sum()


def distillation_loss(
    student: NetworkOutputs,
    teacher: NetworkOutputs,
    attention_mask: torch.Tensor,
    weights: Distillation,
    *,
    multi_label: bool = False,
    projection: nn.Module | None = None,
) -> torch.Tensor:
    """Return the weighted sum of the losses: attention, hidden states, logits (Xu et al. 2021, equation 5) and cosine.

    `projection` maps the hidden states of a narrower student to the teacher's width (`make_projection`).

    Raises:
        RecipeError: there is an attention loss, but student and teacher have different numbers of heads.
        ValueError: the student is narrower and there is no projection, or it has more layers than the teacher.
    """
    loss = student.logits.new_zeros(())
    if weights.logits:
        soft = logits_loss(student.logits, teacher.logits, weights.temperature, multi_label=multi_label)
        loss = loss + weights.logits * soft
    if weights.hidden:
        loss = loss + weights.hidden * hidden_loss(
            student.hidden, teacher.hidden, attention_mask, projection, relative=weights.hidden_relative
        )
    if weights.cosine:
        loss = loss + weights.cosine * cosine_loss(student.hidden, teacher.hidden, attention_mask, projection)
    if weights.attention:
        loss = loss + weights.attention * attention_loss(student.attention, teacher.attention, attention_mask)
    return loss


def _hidden_pairs(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], projection: nn.Module | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield each hidden state of the student, at the teacher's width, with the teacher's state that it imitates."""
    for state, index in zip(student, hidden_state_mapping(len(student) - 1, len(teacher) - 1), strict=True):
        projected = state if projection is None else projection(state)
        if projected.shape[-1] != teacher[index].shape[-1]:
            raise ValueError(
                f"hidden states of width {projected.shape[-1]} cannot be compared with those of width "
                f"{teacher[index].shape[-1]}; pass a projection from make_projection"
            )
        yield projected, teacher[index]
