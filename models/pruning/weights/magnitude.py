"""Magnitude pruning: remove the smallest weights (Zhu & Gupta 2017, arXiv 1710.01878)."""

import torch

from sparserve.models.pruning.weights.method import PruningMethod


class Magnitude(PruningMethod):
    """Score |W|."""

    def scores(self, name: str) -> torch.Tensor:
        """Return |W|, [out, in]."""
        return self.targets[name].weight.detach().abs()
