"""PLATON: score weights by an upper confidence bound of their sensitivity (Zhang et al. 2022, arXiv 2206.12562)."""

from collections.abc import Mapping

import torch
from torch import nn

from sparserve.models.pruning.weights.method import PruningMethod
from sparserve.models.recipes.schema import Pruning


class Platon(PruningMethod):
    """Score I-bar U-bar of the weights W and their gradients g (algorithm 1).

    Every step smooths the sensitivity I = |W g| and its uncertainty U = |I - I-bar|: I-bar becomes
    beta1 I-bar + (1 - beta1) I, then U-bar becomes beta2 U-bar + (1 - beta2) U. In the paper masked weights can come
    back; here masks never regrow.
    """

    def __init__(self, beta1: float = 0.85, beta2: float = 0.95) -> None:
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 0 and below 1")
        self.beta1 = beta1
        self.beta2 = beta2

    def prepare(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:
        """Start with I-bar = U-bar = 0 for every matrix [out, in]."""
        super().prepare(targets, pruning)
        self.sensitivity = {name: torch.zeros_like(linear.weight.detach()) for name, linear in targets.items()}
        self.uncertainty = {name: torch.zeros_like(linear.weight.detach()) for name, linear in targets.items()}

    @torch.no_grad()
    def observe(self, progress: float, next_update: int | None) -> None:
        """Update I-bar and U-bar with the sensitivity of this step, until the masks are final."""
        if next_update is None:
            return
        for name, linear in self.targets.items():
            if linear.weight.grad is None:
                continue
            sensitivity = (linear.weight * linear.weight.grad).abs()
            smoothed = self.sensitivity[name].lerp_(sensitivity, 1 - self.beta1)
            self.uncertainty[name].lerp_((sensitivity - smoothed).abs_(), 1 - self.beta2)

    def scores(self, name: str) -> torch.Tensor:
        """Return I-bar U-bar, [out, in]."""
        return self.sensitivity[name] * self.uncertainty[name]

    def state(self) -> dict[str, torch.Tensor]:
        """Return I-bar and U-bar of every matrix."""
        return {f"I/{name}": value for name, value in self.sensitivity.items()} | {
            f"U/{name}": value for name, value in self.uncertainty.items()
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore I-bar and U-bar."""
        for name in self.targets:
            self.sensitivity[name].copy_(state[f"I/{name}"])
            self.uncertainty[name].copy_(state[f"U/{name}"])
