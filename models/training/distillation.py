"""The losses between teacher and student: pure functions on tensors.

Shapes: logits [batch, labels]; hidden states [batch, length, hidden] for the embedding output and every layer;
attention scores [batch, heads, length, length] before the softmax, for every layer; attention mask [batch, length],
1 for tokens and 0 for padding. Source: Xu et al. 2021 (SparseBERT), arXiv 2104.08682, section 3. A student with fewer
layers imitates the teacher's layers of `layer_mapping`; a narrower one is projected to the teacher's width first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from sparserve.models.encoders.layer_mapping import hidden_state_mapping, uniform_choice
from sparserve.models.errors import RecipeError
from sparserve.models.recipes.schema import Distillation


@dataclass(frozen=True)
class NetworkOutputs:
    """What a network computed for a batch; `hidden` and `attention` are empty where no loss needs them."""

    logits: torch.Tensor
    hidden: Sequence[torch.Tensor] = ()
    attention: Sequence[torch.Tensor] = ()


def make_projection(student_width: int, teacher_width: int, *, dimensions: Sequence[int] | None = None) -> nn.Linear:
    """A learned projection [teacher_width, student_width] of hidden states, one for all layers, without a bias.

    TinyBERT, Jiao et al. 2020, arXiv 1909.10351, equation 8. It has to be trained with the student. Where it is known
    which of the teacher's dimensions the student began with (`small_students.kept_dimensions`), it begins by putting
    each in its place and leaves the others at zero; else it is drawn at random, N(0, 0.02^2).

    Raises:
        ValueError: `dimensions` are not as many as the student has, or beyond the teacher's.
    """
    projection = nn.Linear(student_width, teacher_width, bias=False)
    if dimensions is None:
        nn.init.normal_(projection.weight, std=0.02)
        return projection
    if len(dimensions) != student_width or max(dimensions) >= teacher_width:
        raise ValueError(f"give {student_width} dimensions below {teacher_width}: one for each of the student's")
    nn.init.zeros_(projection.weight)
    with torch.no_grad():
        projection.weight[list(dimensions), list(range(student_width))] = 1.0
    return projection


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
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    attention_mask: torch.Tensor,
    projection: nn.Module | None = None,
    *,
    relative: bool = False,
) -> torch.Tensor:
    """Squared error of the hidden states, the mean over real tokens and features, summed over the student's layers.

    With `relative` each layer's error is divided by the mean square of the teacher's states there, so that a weight
    means the same for networks whose states differ in size, as those of MiniLM and MPNet do.

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
    """1 - cosine of the hidden states, the mean over real tokens and over the student's layers; between 0 and 2.

    Sanh et al. 2019 (DistilBERT), arXiv 1910.01108, section 3, there of the last layer.

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
    """Squared error of the pre-softmax scores, the mean over heads and real pairs, summed over the student's layers.

    Raises:
        RecipeError: a layer of the student has another number of heads than the teacher's.
        ValueError: the student has more layers than the teacher.
    """
    mask = attention_mask.float()
    real = (mask.unsqueeze(1) * mask.unsqueeze(2)).unsqueeze(1)
    errors = []
    for layer, imitated in enumerate(uniform_choice(len(teacher), len(student))):
        s, t = student[layer], teacher[imitated]
        if s.shape[1] != t.shape[1]:
            raise RecipeError(
                f"layer {layer} of the student has {s.shape[1]} attention heads and the teacher's {t.shape[1]}: their "
                "scores cannot be compared; set distillation.attention to 0, or keep all heads"
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
    """Weighted sum of the losses: attention, hidden states and logits (Xu et al. 2021, equation 5), and the cosine.

    `projection` takes the hidden states of a narrower student to the teacher's width (`make_projection`).

    Raises:
        RecipeError: the attention is to be imitated by a student with another number of heads.
        ValueError: a narrower student without projection, or one with more layers than the teacher.
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
    """Each hidden state of the student, at the teacher's width, with the teacher's that it imitates."""
    for state, index in zip(student, hidden_state_mapping(len(student) - 1, len(teacher) - 1), strict=True):
        projected = state if projection is None else projection(state)
        if projected.shape[-1] != teacher[index].shape[-1]:
            raise ValueError(
                f"hidden states of width {projected.shape[-1]} cannot imitate those of width "
                f"{teacher[index].shape[-1]}: give the projection of make_projection"
            )
        yield projected, teacher[index]
