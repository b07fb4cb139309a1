"""Masks: which entries of the target matrices are kept; a weight once masked never comes back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn


class Masks:
    """One boolean mask [out, in] a target matrix; True is kept."""

    def __init__(self, targets: Mapping[str, nn.Linear]) -> None:
        self._targets = dict(targets)
        self.kept = {name: torch.ones_like(linear.weight, dtype=torch.bool) for name, linear in targets.items()}

    @torch.no_grad()
    def raise_sparsity(
        self, scores: Mapping[str, torch.Tensor], sparsity: float, allocation: Literal["uniform", "global"]
    ) -> None:
        """Mask the lowest scores until `sparsity` of the entries are zero: in every matrix, or over all of them.

        Entries that are masked already stay masked and count first. Exact to one weight, ties broken by position.
        """
        if allocation == "uniform":
            for name, mask in self.kept.items():
                mask.copy_(_keep_highest(scores[name].flatten(), mask.flatten(), sparsity).view_as(mask))
            return
        every_score = torch.cat([scores[name].flatten() for name in self.kept])
        every_mask = torch.cat([mask.flatten() for mask in self.kept.values()])
        kept = _keep_highest(every_score, every_mask, sparsity)
        parts = torch.split(kept, [mask.numel() for mask in self.kept.values()])
        for mask, part in zip(self.kept.values(), parts, strict=True):
            mask.copy_(part.view_as(mask))

    @torch.no_grad()
    def apply(self) -> None:
        """Set the masked weights to zero."""
        for name, mask in self.kept.items():
            self._targets[name].weight.mul_(mask)

    def sparsity(self) -> float:
        """Fraction of masked entries over all targets."""
        total = sum(mask.numel() for mask in self.kept.values())
        return 1 - sum(int(mask.sum()) for mask in self.kept.values()) / total

    def save(self, path: Path) -> None:
        """Write the masks as a safetensors file."""
        save_file({name: mask.to(torch.uint8).contiguous() for name, mask in self.kept.items()}, path)

    def load(self, path: Path) -> None:
        """Take up the masks of a file; the targets must be the same."""
        stored = load_file(path)
        if stored.keys() != self.kept.keys():
            raise ValueError(f"{path} holds the masks of other matrices than this model's")
        for name, mask in self.kept.items():
            mask.copy_(stored[name].to(torch.bool))


def _keep_highest(scores: torch.Tensor, kept: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Mask [n] without the round(sparsity n) lowest scores, and without what was masked already."""
    dropped = round(sparsity * scores.numel())
    if dropped == 0:
        return kept
    scores = scores.masked_fill(~kept, -torch.inf)
    threshold = scores.kthvalue(dropped).values
    result = scores > threshold
    # Of the scores that equal the threshold, the first ones go: the same scores always give the same mask.
    ties = (scores == threshold).nonzero().flatten()
    result[ties[dropped - int((scores < threshold).sum()) :]] = True
    return result & kept
