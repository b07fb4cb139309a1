"""Magnitude: a weight matters as much as it is large (Zhu & Gupta 2017, arXiv 1710.01878)."""

from collections.abc import Mapping

import torch
from torch import nn


class Magnitude:
    """Score |W|."""

    def prepare(self, model: nn.Module, targets: Mapping[str, nn.Linear]) -> None:
        """Nothing to begin with: the weights are the scores."""

    def scores(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """|W|, same shape as `weight` [out, in]."""
        return weight.detach().abs()
