"""What every pruning method of single weights is: a score for each weight of each target matrix."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from sparserve.models.recipes.schema import Pruning


class PruningMethod(ABC):
    """A score of importance: where sparsity rises, the weights with the lowest scores become zero.

    What is pruned is decided by `targets.encoder_linears`, how much by `schedules`, and when by
    `callback.PruningCallback` or `one_shot.prune_once`: a method knows only how to score. Its constructor's keyword
    arguments are the recipe's `pruning.options`.
    """

    revision: ClassVar[int] = 1  # raised when the same recipe gives another network than before

    def prepare(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:
        """Begin: called once, before the first step, with the matrices [out, in] by name.

        Raises:
            RecipeError: the recipe asks for what the method or these matrices cannot do.
        """
        self.targets = dict(targets)
        self.pruning = pruning

    def observe(self, progress: float, next_update: int | None) -> None:  # noqa: B027 - most methods have no need of it
        """Look at the gradients of a step, `weight.grad`, before the optimiser uses them; a penalty may add to them.

        `progress` is the fraction of all steps done before this one; `next_update` how many steps remain until masks
        change (0: after this step), None when they change no more. Masked weights are 0.
        """

    @abstractmethod
    def scores(self, name: str) -> torch.Tensor:
        """Importance of every entry of the target matrix `name`, same shape [out, in]."""

    def removed(self, name: str, gone: torch.Tensor) -> None:  # noqa: B027 - most methods have no need of it
        """Make up for weights about to be zeroed: `gone` [out, in] is True where this update's mask newly drops one.

        A method may change the weights that stay; called without gradients, after every mask is decided.
        """

    def state(self) -> dict[str, torch.Tensor]:
        """What must be saved to go on after an interruption, beyond weights and masks."""
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:  # noqa: B027 - most methods have no need of it
        """Take up what `state` gave; called after `prepare`."""
