"""Target logits by row, from a bigger teacher or from soft labels, in place of the dense teacher's."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from sparserve.models.recipes.schema import Distillation
from sparserve.models.training.distillation import NetworkOutputs
from sparserve.models.training.teacher_outputs import TeacherSource

LEAST_PROBABILITY = 1e-4  # of a label in soft labels: the logit of 0 would be infinite


@dataclass(frozen=True)
class TargetLogits:
    """A teacher whose logits [rows, labels] are given; NaN in a row that has none.

    Those rows, and all hidden states and attention scores, are answered by the teacher `inner`.
    """

    logits: npt.NDArray[np.float32]
    inner: TeacherSource | None = None

    def outputs(self, rows: torch.Tensor, inputs: dict[str, torch.Tensor]) -> NetworkOutputs:
        """Return the outputs for these rows [batch]."""
        given = torch.from_numpy(self.logits[rows.cpu().numpy()]).to(rows.device)
        if self.inner is None:
            return NetworkOutputs(given)
        outputs = self.inner.outputs(rows, inputs)
        known = given.isfinite().all(-1, keepdim=True)
        return replace(outputs, logits=torch.where(known, given, outputs.logits.float()))


def logits_only(distillation: Distillation | None) -> Distillation:
    """Return the losses that need no hidden states: logits at the recipe's temperature, and the recipe's labels."""
    losses = distillation or Distillation()
    return Distillation(
        logits=losses.logits or 1.0,
        temperature=losses.temperature,
        labels=losses.labels,
        hidden=0.0,
        attention=0.0,
    )


def logits_of(probabilities: npt.NDArray[np.float32], *, multi_label: bool) -> npt.NDArray[np.float32]:
    """Return the logits that have these probabilities [rows, labels] after the softmax, or the sigmoid of each."""
    p = probabilities.clip(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY if multi_label else 1)
    logits = np.log(p) - np.log1p(-p) if multi_label else np.log(p)
    return np.asarray(logits, dtype=np.float32)
