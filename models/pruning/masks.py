"""Masks: which entries of the target matrices are kept; a weight once masked never comes back."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from sparserve.models.errors import RecipeError, TrainingError

Block = tuple[int, int]


class Masks:
    """One boolean mask [out, in] a target matrix; True is kept. Blocks of `block` entries are masked as one.

    With `keep_zeros` the blocks that are all zeros are masked from the beginning: those of a network pruned earlier.
    Its zeros in other blocks are held at zero, too.
    """

    def __init__(self, targets: Mapping[str, nn.Linear], block: Block = (1, 1), *, keep_zeros: bool = False) -> None:
        self._targets = dict(targets)
        self.block = block
        for name, linear in targets.items():
            if any(size % step for size, step in zip(linear.weight.shape, block, strict=True)):
                shape = "x".join(map(str, linear.weight.shape))
                raise RecipeError(
                    f"pruning.block: {name} is {shape}, which blocks of {block[0]}x{block[1]} do not fill; "
                    "give a block whose sides divide every matrix's"
                )
        self.kept = {name: torch.ones_like(linear.weight, dtype=torch.bool) for name, linear in targets.items()}
        self._held: dict[str, torch.Tensor] = {}  # False where an entry is held at zero, whatever becomes of its block
        if keep_zeros:
            for name, linear in targets.items():
                filled = linear.weight.detach() != 0
                self.kept[name] = expand(pool(filled.float(), block) > 0, block)
                if not torch.equal(self.kept[name], filled):
                    self._held[name] = filled

    @torch.no_grad()
    def raise_sparsity(
        self, scores: Mapping[str, torch.Tensor], sparsity: float, allocation: Literal["uniform", "global"]
    ) -> dict[str, torch.Tensor]:
        """Mask the lowest scores until `sparsity` of the entries are zero: in every matrix, or over all of them.

        Entries that are masked already stay masked and count first. Exact to one weight (one block, whose score is
        its entries' mean), ties broken by position. Returned is what became masked now, True in each [out, in].

        Raises:
            TrainingError: a kept weight's score is not a number.
        """
        for name, mask in self.kept.items():
            if scores[name][mask].isnan().any():
                raise TrainingError(f"the scores of {name} are not all numbers: lower the learning rate in the recipe")
        before = {name: mask.clone() for name, mask in self.kept.items()}
        pooled = {name: pool(scores[name], self.block).flatten() for name in self.kept}
        kept = {name: mask[:: self.block[0], :: self.block[1]].flatten() for name, mask in self.kept.items()}
        if allocation == "uniform":
            chosen = [_keep_highest(pooled[name], kept[name], sparsity) for name in kept]
        else:
            every = _keep_highest(torch.cat(list(pooled.values())), torch.cat(list(kept.values())), sparsity)
            chosen = list(torch.split(every, [part.numel() for part in kept.values()]))
        for mask, part in zip(self.kept.values(), chosen, strict=True):
            mask.copy_(expand(part.view(mask.shape[0] // self.block[0], -1), self.block))
        return {name: before[name] & ~mask for name, mask in self.kept.items()}

    @torch.no_grad()
    def apply(self) -> None:
        """Set the masked weights to zero, and those held at zero."""
        for name, linear in self._targets.items():
            linear.weight.copy_(self.masked(name, linear.weight))

    def masked(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Values [out, in] of a matrix's entries, such as gradients, with zeros where weights are to be zero."""
        values = values * self.kept[name]
        return values * self._held[name] if name in self._held else values

    def sparsity(self) -> float:
        """Fraction of masked entries over all targets."""
        total = sum(mask.numel() for mask in self.kept.values())
        return 1 - sum(int(mask.sum()) for mask in self.kept.values()) / total

    def state(self) -> dict[str, torch.Tensor]:
        """The masks as bytes, by the matrices' names."""
        return {name: mask.to(torch.uint8).contiguous() for name, mask in self.kept.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up masks; the targets must be the same.

        Raises:
            ValueError: they are the masks of other matrices.
        """
        if state.keys() != self.kept.keys():
            raise ValueError("these are the masks of other matrices than this model's")
        for name, mask in self.kept.items():
            mask.copy_(state[name].to(torch.bool))


def pool(values: torch.Tensor, block: Block) -> torch.Tensor:
    """Mean of every block: [out, in] -> [out / rows, in / columns]."""
    if block == (1, 1):
        return values
    rows, columns = block
    return values.view(values.shape[0] // rows, rows, -1, columns).mean((1, 3))


def expand(values: torch.Tensor, block: Block) -> torch.Tensor:
    """Every entry to a block of its own: [out / rows, in / columns] -> [out, in]."""
    return values.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


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
