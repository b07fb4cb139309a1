"""Magnitude: a weight matters as much as it is large (Zhu & Gupta 2017, arXiv 1710.01878)."""

import torch

from sparserve.models.pruning.weights.method import PruningMethod


class Magnitude(PruningMethod):
    """Score |W|."""

    def scores(self, name: str) -> torch.Tensor:
        """|W|, same shape as the matrix [out, in]."""
        return self.targets[name].weight.detach().abs()
