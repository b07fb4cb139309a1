"""Base class of the weight-pruning methods: a score for each weight of each target matrix."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from sparserve.models.recipes.schema import Pruning


class PruningMethod(ABC):
    """Importance scores: as sparsity rises, the weights with the lowest scores become zero.

    A method only scores. `encoders.layers.encoder_linears` selects the matrices, `schedules` the sparsity, and
    `pruner.PruningCallback` or `one_shot.prune_once` the time. The keyword arguments of the constructor are the
    `pruning.options` of the recipe.
    """

    revision: ClassVar[int] = 1  # raised when the same recipe gives another network than before

    def check(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:  # noqa: B027 - optional
        """Check that the method can carry out this recipe. The matrices may be on the device `meta`.

        Raises:
            RecipeError: the recipe asks for something that the method cannot do.
        """

    def prepare(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:
        """Set up for the matrices [out, in] by name. Called once, before the first step.

        Raises:
            RecipeError: the recipe asks for something that the method cannot do.
        """
        self.check(targets, pruning)
        self.targets = dict(targets)
        self.pruning = pruning

    def observe(self, progress: float, next_update: int | None) -> None:  # noqa: B027 - optional
        """Read the gradients of a step, `weight.grad`, before the optimiser does. A method may add a penalty to them.

        `progress` is the fraction of all steps done before this one. `next_update` is the number of steps until masks
        change (0: after this step), or None if they do not change again. Masked weights are 0.
        """

    @abstractmethod
    def scores(self, name: str) -> torch.Tensor:
        """Return the importance of every entry of the target matrix `name`, [out, in]."""

    def removed(self, name: str, newly_masked: torch.Tensor) -> None:  # noqa: B027 - optional
        """Compensate for the weights that are about to become zero: `newly_masked` [out, in] is True there.

        A method may change the weights that stay. Called without gradients, after all masks are final.
        """

    def state(self) -> dict[str, torch.Tensor]:
        """Return the state that a resumed run needs besides weights and masks."""
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:  # noqa: B027 - optional
        """Restore a state that `state` returned. Called after `prepare`."""
