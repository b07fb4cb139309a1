"""Movement pruning: keep the weights that training moves away from zero (Sanh et al. 2020, arXiv 2005.07683)."""

from collections.abc import Mapping

import torch
from torch import nn

from sparserve.models.errors import RecipeError
from sparserve.models.pruning.weights.method import PruningMethod
from sparserve.models.recipes.schema import Pruning

# Weight of |W| in the score, as a fraction of one step of S: of weights with equal S, the smallest is pruned first.
_TIE_BREAK = 1e-3


class Movement(PruningMethod):
    """Scores S, one per weight W, learned together with the weights.

    S starts at 0 and follows the straight-through gradient dL/dS = dL/dW' W of the masked weights W' (section 4), by
    Adam with `learning_rate`. One difference from the paper: masks never regrow, so a masked weight is 0 and its S
    receives no gradient. Adam's first step has the same length for every weight, so S ranks them only after some tens
    of steps: set `pruning.begin` well above 0.
    """

    def __init__(self, learning_rate: float = 1e-2) -> None:
        if not learning_rate > 0:
            raise ValueError(f"learning_rate is {learning_rate}; it must be above 0")
        self.learning_rate = learning_rate

    def prepare(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:
        """Start with S = 0 for every matrix [out, in]."""
        super().prepare(targets, pruning)
        self.importance = {name: nn.Parameter(torch.zeros_like(linear.weight)) for name, linear in targets.items()}
        self._optimizer = torch.optim.Adam(list(self.importance.values()), lr=self.learning_rate)

    @torch.no_grad()
    def observe(self, progress: float, next_update: int | None) -> None:
        """Update S by one step, until the masks are final."""
        if next_update is None:
            return
        for name, linear in self.targets.items():
            if linear.weight.grad is not None:
                self.importance[name].grad = self.gradient(name, linear.weight, linear.weight.grad)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def gradient(self, name: str, weight: torch.Tensor, weight_gradient: torch.Tensor) -> torch.Tensor:
        """Return dL/dS of the matrix `name`, from W [out, in] and dL/dW' [out, in]."""
        return weight_gradient * weight

    def scores(self, name: str) -> torch.Tensor:
        """Return S [out, in], with |W| as the tie-break."""
        weight = self.targets[name].weight.detach()
        return self.importance[name].detach() + _TIE_BREAK * self.learning_rate * weight.abs()

    def state(self) -> dict[str, torch.Tensor]:
        """Return S and Adam's moments of every matrix."""
        result = {f"S/{name}": value.detach() for name, value in self.importance.items()}
        for name, value in self.importance.items():
            result |= {f"{key}/{name}": moment for key, moment in self._optimizer.state.get(value, {}).items()}
        return result

    @torch.no_grad()
    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore S and Adam's moments."""
        for name, value in self.importance.items():
            value.copy_(state[f"S/{name}"])
            if f"step/{name}" in state:
                moments = {key: state[f"{key}/{name}"] for key in ("exp_avg", "exp_avg_sq")}
                self._optimizer.state[value] = {key: moment.to(value, copy=True) for key, moment in moments.items()}
                # Adam keeps its step count on the CPU, wherever the weights are.
                self._optimizer.state[value]["step"] = state[f"step/{name}"].clone()


class SoftMovement(Movement):
    """Scores S under an L1 penalty on sigmoid(S), ranked over all matrices together.

    The loss gains `penalty` times the mean of sigmoid(S) over all target weights (section 4; 400 in the authors'
    examples). The paper masks weights whose sigmoid(S) is below one threshold tau for the whole network. Here the
    schedule's sparsity determines tau, so the requested sparsity is met exactly. S and sigmoid(S) rank alike.
    """

    def __init__(self, learning_rate: float = 1e-2, penalty: float = 400.0) -> None:
        super().__init__(learning_rate)
        if penalty < 0:
            raise ValueError(f"penalty is {penalty}; it must not be negative")
        self.penalty = penalty

    def check(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:
        """Check that the recipe ranks all matrices together.

        Raises:
            RecipeError: the recipe gives every matrix the same sparsity.
        """
        if pruning.allocation != "global":
            raise RecipeError(
                "pruning.allocation: soft-movement has one threshold for all matrices. "
                "Set it to global, or use the method movement."
            )

    def prepare(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:
        """Start with S = 0 for every matrix [out, in]."""
        super().prepare(targets, pruning)
        self._total = sum(linear.weight.numel() for linear in targets.values())

    def gradient(self, name: str, weight: torch.Tensor, weight_gradient: torch.Tensor) -> torch.Tensor:
        """Return dL/dS with the penalty's gradient, from W [out, in] and dL/dW' [out, in]."""
        soft = torch.sigmoid(self.importance[name])
        return super().gradient(name, weight, weight_gradient) + self.penalty / self._total * soft * (1 - soft)
