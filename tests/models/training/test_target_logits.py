"""Target logits by row, in place of a teacher's."""

import numpy as np
import pytest
import torch

from sparserve.models.training.distillation import NetworkOutputs
from sparserve.models.training.target_logits import TargetLogits, logits_of


class Fixed:
    """A teacher whose logits are the row numbers."""

    def outputs(self, rows: torch.Tensor, inputs: dict[str, torch.Tensor]) -> NetworkOutputs:
        return NetworkOutputs(torch.stack([rows, rows], dim=1).float(), [torch.ones(1)])


def test_target_logits_replace_those_of_the_teacher_where_they_are_known() -> None:
    targets = TargetLogits(np.asarray([[7, 8], [np.nan, np.nan], [9, 6]], dtype=np.float32), Fixed())
    outputs = targets.outputs(torch.tensor([2, 1]), {})
    assert outputs.logits.tolist() == [[9, 6], [1, 1]]
    assert len(outputs.hidden) == 1
    alone = TargetLogits(targets.logits).outputs(torch.tensor([0]), {})
    assert alone.logits.tolist() == [[7, 8]] and not alone.hidden


@pytest.mark.parametrize("multi_label", [False, True])
def test_logits_of_have_the_probabilities(multi_label: bool) -> None:
    given = np.asarray([[0.2, 0.8], [0.5, 0.5], [0.0, 1.0]], dtype=np.float32)
    logits = torch.from_numpy(logits_of(given, multi_label=multi_label))
    back = logits.sigmoid() if multi_label else logits.softmax(1)
    np.testing.assert_allclose(back.numpy(), given, atol=2e-4)
