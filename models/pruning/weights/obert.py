"""oBERT: a weight matters as much as the loss rises without it, the others making up for it (Kurtic et al. 2022)."""

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.functional import pad

from sparserve.models.errors import RecipeError
from sparserve.models.pruning.weights.method import PruningMethod
from sparserve.models.recipes.schema import Pruning

# Blocks whose Fisher matrices exist at a time: at 50 weights a block and 64-bit numbers, 20 MB.
_BLOCKS_AT_A_TIME = 1024
# Far below any gradient's square: without gradients F is a multiple of the identity, and the ranking that of |w|.
_LEAST_DAMPING = 1e-20


class OBert(PruningMethod):
    """Second-order pruning of the Optimal BERT Surgeon (arXiv 2203.07259, section 3).

    The loss near the weights w is taken as a quadratic with the block-diagonal empirical Fisher matrix
    F = lambda I + 1/m sum g g^T of m gradients g, where a block is `fisher_block` consecutive kept weights of a matrix.
    Score: w_i^2 / (2 [F^-1]_ii), the rise of the loss without weight i. Update, for the set Q of a block's weights that
    go together: delta = -F^-1[:, Q] (F^-1[Q, Q])^-1 w_Q, the least rise with w_Q at zero.

    The gradients are those of the last `gradients` steps before an update of the masks, fewer where fewer were taken or
    where they would fill more than `memory_bytes` at 2 bytes a weight; with none at all the score ranks by |w| and
    delta is 0. lambda is `damping` times the mean of g^2 over the matrix, so that a constant scale of the
    loss does not change the ranking within it; gradients are seen as the optimiser gets them, after clipping. Blocks of
    `pruning.block` go by the mean of their weights' scores, as if they left one by one; the update is exact for them.
    """

    def __init__(
        self, fisher_block: int = 50, gradients: int = 64, damping: float = 0.1, memory_bytes: float = 4e9
    ) -> None:
        for name, value in (("fisher_block", fisher_block), ("gradients", gradients)):
            if value < 1 or value != int(value):
                raise ValueError(f"{name} is {value}; it must be a whole number of at least 1")
        if not damping > 0:
            raise ValueError(f"damping is {damping}; it must be above 0")
        self.fisher_block = int(fisher_block)
        self.gradients = int(gradients)
        self.damping = damping
        self.memory_bytes = memory_bytes

    def prepare(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:
        """Begin without gradients of the matrices [out, in].

        Raises:
            RecipeError: not even one gradient fits into the memory allowed.
        """
        super().prepare(targets, pruning)
        one = sum(2 * linear.weight.numel() for linear in targets.values())
        self.most = min(self.gradients, int(self.memory_bytes // one))
        if self.most < 1:
            raise RecipeError(
                f"pruning.options.memory_bytes: {self.memory_bytes:g} is less than the {one} bytes of one gradient"
            )
        self._rings: dict[str, torch.Tensor] = {}
        self._seen = 0
        self._kept = {name: linear.weight.detach().flatten() != 0 for name, linear in targets.items()}

    @torch.no_grad()
    def observe(self, progress: float, next_update: int | None) -> None:
        """Keep the gradient if the next update of the masks is close enough to use it."""
        if next_update is None or next_update >= self.most:
            self._rings, self._seen = {}, 0
            return
        for name, linear in self.targets.items():
            weight = linear.weight
            if name not in self._rings:
                self._rings[name] = weight.new_zeros(self.most, weight.numel(), dtype=torch.bfloat16)
            row = self._rings[name][self._seen % self.most]
            row.copy_(weight.grad.flatten()) if weight.grad is not None else row.zero_()
            if next_update == 0:
                # The optimiser moves masked weights, too, until masks are applied again: only now are they all zero.
                self._kept[name] = weight.flatten() != 0
        self._seen += 1

    @torch.no_grad()
    def scores(self, name: str) -> torch.Tensor:
        """Rise of the loss without each weight, the others updated, [out, in]; 0 for masked ones."""
        weight = self.targets[name].weight
        result = torch.zeros_like(weight).flatten()
        for index, fisher in self._blocks(name):
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(fisher))
            diagonal = inverse.diagonal(dim1=-2, dim2=-1).flatten()[: len(index)]
            result[index] = (weight.flatten()[index].double().square() / (2 * diagonal)).to(result.dtype)
        return result.view_as(weight)

    @torch.no_grad()
    def removed(self, name: str, gone: torch.Tensor) -> None:
        """Add delta to the weights that stay.

        With K what stays of a block, delta_K = F[K, K]^-1 F[K, Q] w_Q: the same as the paper's, without the inverses.
        """
        weight = self.targets[name].weight
        flat = weight.flatten()
        for index, fisher in self._blocks(name):
            removed = self._pad(torch.where(gone.flatten()[index], flat[index], 0).double())
            stays = self._pad(~gone.flatten()[index])
            right = (fisher @ removed[..., None]) * stays[..., None]
            # Rows and columns of Q become those of the identity, so that blocks with different K are solved at once.
            fisher *= stays[:, :, None] & stays[:, None, :]
            fisher.diagonal(dim1=-2, dim2=-1).masked_fill_(~stays, 1)
            delta = torch.cholesky_solve(right, torch.linalg.cholesky(fisher)).flatten()[: len(index)]
            flat[index] += delta.to(flat.dtype)
        weight.copy_(flat.view_as(weight))

    def state(self) -> dict[str, torch.Tensor]:
        """The gradients in use, bfloat16 [m, out * in] a matrix, and how many have been seen."""
        filled = min(self._seen, self.most)
        return {f"gradients/{name}": ring[:filled] for name, ring in self._rings.items()} | {
            "seen": torch.tensor(self._seen)
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up the gradients."""
        self._seen = int(state["seen"])
        self._rings = {}
        for name, linear in self.targets.items():
            if f"gradients/{name}" in state:
                rows = state[f"gradients/{name}"].to(linear.weight.device)
                self._rings[name] = pad(rows, (0, 0, 0, self.most - len(rows)))

    def _blocks(self, name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Positions of kept weights in the flat matrix [n], and their F [ceil(n / block), block, block], part by part.

        F is the identity times lambda where the last block has no weights.
        """
        kept = self._kept[name].nonzero().flatten()
        gradients = self._rings[name][: min(self._seen, self.most)] if self._seen else None
        damping = _LEAST_DAMPING
        if gradients is not None:
            damping += self.damping * float(gradients.float().square_().mean(0)[kept].mean())
        for index in torch.split(kept, _BLOCKS_AT_A_TIME * self.fisher_block):
            rows = kept.new_zeros(1, len(index)) if gradients is None else gradients[:, index]
            # Transposed while numbers take two bytes: that moves a quarter of the memory.
            blocks = self._pad(rows).transpose(0, 1).contiguous().double()
            fisher = blocks.mT @ blocks / len(rows)
            fisher.diagonal(dim1=-2, dim2=-1).add_(damping)
            yield index, fisher

    def _pad(self, values: torch.Tensor) -> torch.Tensor:
        """Cut the last dimension into blocks, the last one filled up with zeros: [..., n] -> [..., blocks, block]."""
        filled = pad(values, (0, -values.shape[-1] % self.fisher_block))
        return filled.view(*values.shape[:-1], filled.shape[-1] // self.fisher_block, self.fisher_block)
