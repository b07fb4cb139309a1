"""Boolean masks over the target matrices. A masked weight never comes back."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from sparserve.models.errors import RecipeError, TrainingError

Block = tuple[int, int]


class Masks:
    """One boolean mask [out, in] per target matrix; True means kept. Each block of `block` entries is masked as a unit.

    With `keep_zeros`, the zeros of a previously pruned network stay zero. Blocks without any nonzero entry start
    masked; zeros in all other blocks are held at zero.
    """

    def __init__(self, targets: Mapping[str, nn.Linear], block: Block = (1, 1), *, keep_zeros: bool = False) -> None:
        self._targets = dict(targets)
        self.block = block
        check_block(targets, block)
        self.kept = {name: torch.ones_like(linear.weight, dtype=torch.bool) for name, linear in targets.items()}
        self._held: dict[str, torch.Tensor] = {}  # False: the entry is held at zero, even in a kept block
        if keep_zeros:
            for name, linear in targets.items():
                nonzero = linear.weight.detach() != 0
                self.kept[name] = expand(pool(nonzero.float(), block) > 0, block)
                if not torch.equal(self.kept[name], nonzero):
                    self._held[name] = nonzero

    @torch.no_grad()
    def raise_sparsity(
        self, scores: Mapping[str, torch.Tensor], sparsity: float, allocation: Literal["uniform", "global"]
    ) -> dict[str, torch.Tensor]:
        """Mask the lowest scores until the fraction `sparsity` of the entries is masked.

        The fraction holds for every matrix (`uniform`) or for all matrices together (`global`). Entries that are
        already masked stay masked and count first. The result is exact to one weight, or to one block, whose score is
        the mean of its entries. Ties are broken by position.

        Returns:
            The newly masked entries of each matrix: True in [out, in].

        Raises:
            TrainingError: the score of a kept weight is not a number.
        """
        for name, mask in self.kept.items():
            if scores[name][mask].isnan().any():
                raise TrainingError(f"some scores of {name} are not numbers. Lower the learning rate in the recipe.")
        before = {name: mask.clone() for name, mask in self.kept.items()}
        pooled = {name: pool(scores[name], self.block).flatten() for name in self.kept}
        kept = {name: mask[:: self.block[0], :: self.block[1]].flatten() for name, mask in self.kept.items()}
        if allocation == "uniform":
            block_masks = [_keep_highest(pooled[name], kept[name], sparsity) for name in kept]
        else:
            joined = _keep_highest(torch.cat(list(pooled.values())), torch.cat(list(kept.values())), sparsity)
            block_masks = list(torch.split(joined, [part.numel() for part in kept.values()]))
        for mask, block_mask in zip(self.kept.values(), block_masks, strict=True):
            mask.copy_(expand(block_mask.view(mask.shape[0] // self.block[0], -1), self.block))
        return {name: before[name] & ~mask for name, mask in self.kept.items()}

    @torch.no_grad()
    def apply(self) -> None:
        """Set the masked weights and the weights held at zero to 0."""
        for name, linear in self._targets.items():
            linear.weight.copy_(self.masked(name, linear.weight))

    def masked(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Return `values` [out, in] of a matrix, such as gradients, with 0 at every weight that must be zero."""
        values = values * self.kept[name]
        return values * self._held[name] if name in self._held else values

    def sparsity(self) -> float:
        """Return the fraction of masked entries over all targets."""
        total = sum(mask.numel() for mask in self.kept.values())
        return 1 - sum(int(mask.sum()) for mask in self.kept.values()) / total

    def state(self) -> dict[str, torch.Tensor]:
        """Return the masks as uint8, by matrix name."""
        return {name: mask.to(torch.uint8).contiguous() for name, mask in self.kept.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore saved masks of the same targets.

        Raises:
            ValueError: the masks belong to other matrices.
        """
        if state.keys() != self.kept.keys():
            raise ValueError("the saved masks belong to other matrices than this model has")
        for name, mask in self.kept.items():
            mask.copy_(state[name].to(torch.bool))


def check_block(targets: Mapping[str, nn.Linear], block: Block) -> None:
    """Check that blocks of `block` entries tile every target matrix.

    Raises:
        RecipeError: a side of the block does not divide a side of a matrix.
    """
    for name, linear in targets.items():
        if any(size % side for size, side in zip(linear.weight.shape, block, strict=True)):
            shape = "x".join(map(str, linear.weight.shape))
            raise RecipeError(
                f"pruning.block: blocks of {block[0]}x{block[1]} do not tile {name}, which is {shape}. "
                "Use a block whose sides divide the sides of every matrix."
            )


def pool(values: torch.Tensor, block: Block) -> torch.Tensor:
    """Return the mean of every block: [out, in] -> [out / rows, in / columns]."""
    if block == (1, 1):
        return values
    rows, columns = block
    return values.view(values.shape[0] // rows, rows, -1, columns).mean((1, 3))


def expand(values: torch.Tensor, block: Block) -> torch.Tensor:
    """Repeat every entry over its block: [out / rows, in / columns] -> [out, in]."""
    return values.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


def _keep_highest(scores: torch.Tensor, kept: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Return a mask [n] that drops the round(sparsity n) lowest scores; masked entries stay masked and count first."""
    dropped = round(sparsity * scores.numel())
    if dropped == 0:
        return kept
    scores = scores.masked_fill(~kept, -torch.inf)
    threshold = scores.kthvalue(dropped).values
    result = scores > threshold
    # Among scores equal to the threshold the first are dropped, so that equal scores always give the same mask.
    ties = (scores == threshold).nonzero().flatten()
    result[ties[dropped - int((scores < threshold).sum()) :]] = True
    return result & kept
