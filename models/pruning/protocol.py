"""What every pruning method is: a score for each weight of each target matrix."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import nn

from models.pruning.magnitude import Magnitude


class PruningMethod(Protocol):
    """A score of importance: where sparsity rises, the weights with the lowest scores become zero.

    What is pruned is decided by `targets.encoder_linears`, how much by `schedules`, and when by
    `callback.PruningCallback`: a method knows only how to score.
    """

    def prepare(self, model: nn.Module, targets: Mapping[str, nn.Linear]) -> None:
        """Begin: called once, before the first step; a method may register hooks or parameters."""

    def scores(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Importance of every entry of the target matrix `name`, same shape as `weight` [out, in]."""


METHODS: Mapping[str, Callable[[], PruningMethod]] = {"magnitude": Magnitude}
