"""oBERT: score weights by the rise of the loss without them, after an optimal update (Kurtic et al. 2022)."""

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.functional import pad

from sparserve.models.errors import RecipeError
from sparserve.models.pruning.weights.method import PruningMethod
from sparserve.models.recipes.schema import Pruning

# Far below the square of any gradient. Without gradients F is a multiple of the identity and the ranking that of |w|.
_MIN_DAMPING = 1e-20


class OBert(PruningMethod):
    """Second-order pruning of the Optimal BERT Surgeon (arXiv 2203.07259, section 3).

    Near the weights w the loss is approximated by a quadratic with the block-diagonal empirical Fisher matrix
    F = lambda I + 1/m sum g g^T of m gradients g. A block is `fisher_block` consecutive kept weights of a matrix.
    Score: w_i^2 / (2 [F^-1]_ii), the rise of the loss without weight i. Update for the set Q of weights that leave a
    block together: delta = -F^-1[:, Q] (F^-1[Q, Q])^-1 w_Q, which has the smallest rise with w_Q at zero.

    The gradients are those of the last `gradients` steps before a mask update, or fewer if there were fewer steps or
    if they would need more than `memory_bytes` at 2 bytes per weight. Without any gradient the score ranks by |w| and
    delta is 0. lambda is `damping` times the mean of g^2 over the matrix, so that the scale of the loss does not change
    the ranking within a matrix. Gradients are read as the optimiser gets them, after clipping. Blocks of
    `pruning.block` rank by the mean score of their weights, as if the weights left one by one; their update is exact.
    """

    chunk_blocks: int = 1024  # Fisher matrices in memory: 20 MB in float64 with 50 weights per block

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

    def check(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:
        """Check that at least one gradient of the matrices [out, in] fits in `memory_bytes`.

        Raises:
            RecipeError: it does not.
        """
        gradient_bytes = _gradient_bytes(targets)
        if self.memory_bytes < gradient_bytes:
            raise RecipeError(
                f"pruning.options.memory_bytes is {self.memory_bytes:g}, less than the {gradient_bytes} bytes of one "
                "gradient. Raise it."
            )

    def prepare(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:
        """Start without gradients of the matrices [out, in]."""
        super().prepare(targets, pruning)
        self.capacity = min(self.gradients, int(self.memory_bytes // _gradient_bytes(targets)))
        self._rings: dict[str, torch.Tensor] = {}
        self._seen = 0
        self._kept = {name: linear.weight.detach().flatten() != 0 for name, linear in targets.items()}

    @torch.no_grad()
    def observe(self, progress: float, next_update: int | None) -> None:
        """Store the gradient if the next mask update is near enough to use it."""
        if next_update is None or next_update >= self.capacity:
            self._rings, self._seen = {}, 0
            return
        for name, linear in self.targets.items():
            weight = linear.weight
            if name not in self._rings:
                self._rings[name] = weight.new_zeros(self.capacity, weight.numel(), dtype=torch.bfloat16)
            row = self._rings[name][self._seen % self.capacity]
            row.copy_(weight.grad.flatten()) if weight.grad is not None else row.zero_()
            if next_update == 0:
                # The optimiser also moves masked weights until the masks are applied: they are all zero only now.
                self._kept[name] = weight.flatten() != 0
        self._seen += 1

    @torch.no_grad()
    def scores(self, name: str) -> torch.Tensor:
        """Return the rise of the loss without each weight, after the update, [out, in]; 0 for masked weights."""
        weight = self.targets[name].weight
        result = torch.zeros_like(weight).flatten()
        for index, fisher in self._blocks(name):
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(fisher))
            diagonal = inverse.diagonal(dim1=-2, dim2=-1).flatten()[: len(index)]
            result[index] = (weight.flatten()[index].double().square() / (2 * diagonal)).to(result.dtype)
        return result.view_as(weight)

    @torch.no_grad()
    def removed(self, name: str, newly_masked: torch.Tensor) -> None:
        """Add delta to the weights that stay.

        For the kept weights K of a block, delta_K = F[K, K]^-1 F[K, Q] w_Q. This equals the paper's delta and needs no
        inverse.
        """
        weight = self.targets[name].weight
        flat = weight.flatten()
        for index, fisher in self._blocks(name):
            w_q = self._pad(torch.where(newly_masked.flatten()[index], flat[index], 0).double())
            stays = self._pad(~newly_masked.flatten()[index])
            right_side = (fisher @ w_q[..., None]) * stays[..., None]
            # Rows and columns of Q become those of the identity, so that blocks with different K are solved together.
            fisher *= stays[:, :, None] & stays[:, None, :]
            fisher.diagonal(dim1=-2, dim2=-1).masked_fill_(~stays, 1)
            delta = torch.cholesky_solve(right_side, torch.linalg.cholesky(fisher)).flatten()[: len(index)]
            flat[index] += delta.to(flat.dtype)
        weight.copy_(flat.view_as(weight))

    def state(self) -> dict[str, torch.Tensor]:
        """Return the stored gradients, bfloat16 [m, out * in] per matrix, and the number of gradients read."""
        filled = min(self._seen, self.capacity)
        return {f"gradients/{name}": ring[:filled] for name, ring in self._rings.items()} | {
            "seen": torch.tensor(self._seen)
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore the gradients."""
        self._seen = int(state["seen"])
        self._rings = {}
        for name, linear in self.targets.items():
            if f"gradients/{name}" in state:
                rows = state[f"gradients/{name}"].to(linear.weight.device)
                self._rings[name] = pad(rows, (0, 0, 0, self.capacity - len(rows)))

    def _blocks(self, name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield, in chunks, the positions [n] of kept weights and their F [ceil(n / block), block, block].

        Positions are those of the flat matrix. F is lambda I beyond the end of the last block.
        """
        kept = self._kept[name].nonzero().flatten()
        gradients = self._rings[name][: min(self._seen, self.capacity)] if self._seen else None
        damping = _MIN_DAMPING
        if gradients is not None:
            damping += self.damping * float(gradients.float().square_().mean(0)[kept].mean())
        for index in torch.split(kept, self.chunk_blocks * self.fisher_block):
            rows = kept.new_zeros(1, len(index)) if gradients is None else gradients[:, index]
            # Transposed in bfloat16, which moves a quarter of the memory that float64 would.
            blocks = self._pad(rows).transpose(0, 1).contiguous().double()
            fisher = blocks.mT @ blocks / len(rows)
            fisher.diagonal(dim1=-2, dim2=-1).add_(damping)
            yield index, fisher

    def _pad(self, values: torch.Tensor) -> torch.Tensor:
        """Split the last dimension into blocks and pad the last block with 0: [..., n] -> [..., blocks, block]."""
        padded = pad(values, (0, -values.shape[-1] % self.fisher_block))
        return padded.view(*values.shape[:-1], padded.shape[-1] // self.fisher_block, self.fisher_block)


def _gradient_bytes(targets: Mapping[str, nn.Linear]) -> int:
    """Return the bytes of one bfloat16 gradient of all matrices."""
    return sum(2 * linear.weight.numel() for linear in targets.values())
