"""Reweighted group Lasso: a penalty that shrinks blocks, small ones most (Li et al. 2020, arXiv 2009.08065)."""

from collections.abc import Mapping

import torch
from torch import nn

from sparserve.models.errors import RecipeError
from sparserve.models.pruning.masks import expand, pool
from sparserve.models.pruning.weights.method import PruningMethod
from sparserve.models.recipes.schema import Pruning


class GroupLasso(PruningMethod):
    """Score ||W_b||, the norm of the block b (shape `pruning.block`) that contains the weight.

    Until the masks are final the loss gains `penalty` times the sum of gamma_b ||W_b||: the gradient gains
    penalty gamma_b W / ||W_b||, after clipping. The weights gamma_b = 1 / (||W_b|| + epsilon) are recomputed
    `refreshes` times, evenly up to `pruning.end`. The paper prunes blocks after the penalised training; set
    `pruning.begin` above 0 for that. The paper's rows within blocks of c columns are blocks of 1 x c here; its columns
    are blocks of r x 1.

    Example of the scale: with gradients that are noise of norm 1 over ten million weights of standard deviation 0.05,
    300 steps at a learning rate of 1e-3 and the default penalty shrink the smallest tenth of the 1x4 blocks to 0.6 of
    their norms and the median block to 0.95. Ten times the penalty empties nearly all blocks.
    """

    def __init__(self, penalty: float = 1e-6, epsilon: float = 1e-3, refreshes: int = 10) -> None:
        if penalty < 0:
            raise ValueError(f"penalty is {penalty}; it must not be negative")
        if not epsilon > 0:
            raise ValueError(f"epsilon is {epsilon}; it must be above 0")
        if refreshes < 1:
            raise ValueError(f"refreshes is {refreshes}; it must be at least 1")
        self.penalty = penalty
        self.epsilon = epsilon
        self.refreshes = refreshes

    def check(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:
        """Check that blocks have more than one weight.

        Raises:
            RecipeError: the recipe has blocks of a single weight.
        """
        if pruning.block == (1, 1):
            raise RecipeError(
                "pruning.block: group-lasso needs blocks of several weights. "
                "Set it to [1, 4], or use the method magnitude."
            )

    def prepare(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:
        """Compute gamma from the initial weights."""
        super().prepare(targets, pruning)
        self._refresh(0)

    @torch.no_grad()
    def observe(self, progress: float, next_update: int | None) -> None:
        """Add the gradient of the penalty to the gradients of the weights; recompute gamma when due."""
        if next_update is None:
            return
        period = int(self.refreshes * progress / self.pruning.end) if self.pruning.end else 0
        if period > self._period:
            self._refresh(period)
        for name, linear in self.targets.items():
            if linear.weight.grad is not None:
                # A masked block is all zeros: without the clamp, 0 / 0 would give nan.
                norm = self._norm(name).clamp(min=torch.finfo(linear.weight.dtype).tiny)
                factor = self.penalty * self._gamma[name] / norm
                linear.weight.grad.addcmul_(expand(factor, self.pruning.block), linear.weight)

    def scores(self, name: str) -> torch.Tensor:
        """Return ||W_b||, equal within a block, [out, in]."""
        return expand(self._norm(name), self.pruning.block)

    def state(self) -> dict[str, torch.Tensor]:
        """Return gamma of every block and the number of its refresh."""
        return {f"gamma/{name}": gamma for name, gamma in self._gamma.items()} | {"period": torch.tensor(self._period)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore gamma."""
        self._period = int(state["period"])
        for name, gamma in self._gamma.items():
            gamma.copy_(state[f"gamma/{name}"])

    @torch.no_grad()
    def _refresh(self, period: int) -> None:
        self._period = period
        self._gamma = {name: 1 / (self._norm(name) + self.epsilon) for name in self.targets}

    def _norm(self, name: str) -> torch.Tensor:
        """Return ||W_b|| of every block, [out / rows, in / columns]."""
        rows, columns = self.pruning.block
        squares: torch.Tensor = self.targets[name].weight.detach().square()
        return (pool(squares, self.pruning.block) * (rows * columns)).sqrt()
