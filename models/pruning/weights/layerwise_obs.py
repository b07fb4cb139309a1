"""Layer-wise Optimal Brain Surgeon: a weight matters as much as its layer's output changes without it.

Hassibi & Stork 1993, applied to each layer's least-squares problem as in Frantar & Alistarh 2022 (Optimal Brain
Compression, arXiv 2208.11580, section 3). With `output_fisher` the outputs are weighed by what the loss makes of them:
the Kronecker-factored Fisher matrix of Martens & Grosse 2015 (K-FAC, arXiv 1503.05671, section 3) with a diagonal
factor of the outputs, as van der Ouderaa et al. 2023 prune language models by the whole one (arXiv 2312.17244).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sparserve.models.distributed import mean
from sparserve.models.errors import RecipeError
from sparserve.models.pruning.weights.method import PruningMethod
from sparserve.models.recipes.schema import Pruning


class LayerwiseObs(PruningMethod):
    """Second-order pruning that looks at a layer's inputs, and at gradients only to compare layers.

    For inputs x [in] of a matrix W [out, in] another matrix V changes its output by tr (V - W) H (V - W)', in the mean
    over tokens, with H = E[x x'] + lambda I. Score: W_ij^2 / [H^-1]_jj, the rise without one weight when all others of
    its row can make up for it. Once some are masked they cannot, and the rise is larger: the exact one needs, for each
    row, the inverse of H without their columns, which takes longer than all else and ranks weights much alike. Update,
    for a mask that is decided: each row of V is the least-squares solution with zeros where the mask has them, from the
    masked W by `iterations` steps of conjugate gradients, all rows at once (Meng et al. 2024, ALPS, arXiv 2406.07831,
    section 3.3).

    The inputs are those of the last `batches` steps before an update of the masks, in the network that is being pruned;
    padding counts, of which length buckets leave little. lambda is `damping` times the mean of x^2, so that a scale of
    the inputs changes nothing. Where no inputs were seen, the ranking is that of |W|, and nothing is made up for.

    `output_fisher`: with g [out] the loss's gradient at the outputs of a token, and g independent of x, the loss rises
    by half of sum_i E[g_i^2] (V_i - W_i) H (V_i - W_i)'. Scores are multiplied by E[g_i^2] of the same batches, which
    makes them comparable among the rows of a matrix and among matrices: what `pruning.allocation` `global` needs. The
    update of a row is the same. That is the Fisher matrix where targets are drawn from the model; these gradients are
    of the training's own loss (the empirical Fisher), so that outputs count the more, the further they are from what
    is asked of them. While the loss is at its least there are no gradients to go by: begin later. Where there were
    none at all, all outputs weigh the same; where only a matrix had none, its weights do not matter.

    Blocks of `pruning.block` go by the mean of their weights' scores, as if they left one by one; the update is theirs.
    """

    _moments: dict[str, torch.Tensor]  # sums over batches of E[x x'], by the first matrix that has these inputs
    _owner: dict[str, str]  # that first matrix, by matrix
    _fisher: dict[str, torch.Tensor]  # sums over batches and tokens of g^2 [out], by matrix
    _seen: int  # batches
    _updated: bool  # whether masks have been updated after the last of them

    def __init__(
        self, batches: int = 8, damping: float = 0.01, iterations: int = 10, output_fisher: bool = False
    ) -> None:
        for name, value in (("batches", batches), ("iterations", iterations)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not damping > 0:
            raise ValueError(f"damping is {damping}; it must be above 0")
        self.batches = batches
        self.damping = damping
        self.iterations = iterations
        self.output_fisher = output_fisher

    def prepare(self, targets: Mapping[str, nn.Linear], pruning: Pruning) -> None:
        """Begin to look at what the matrices [out, in] are given."""
        super().prepare(targets, pruning)
        self._inputs: dict[str, torch.Tensor] = {}  # of the last forward pass
        self._kept = {name: linear.weight.detach() != 0 for name, linear in targets.items()}
        self._handles = [linear.register_forward_pre_hook(self._see(name)) for name, linear in targets.items()]
        self._squares: dict[str, torch.Tensor] = {}  # of the last backward pass
        self._looks = True  # whether the next step's gradients may be of use
        if self.output_fisher:
            self._handles += [linear.register_forward_hook(self._see_output(name)) for name, linear in targets.items()]
        self._forget()

    @torch.no_grad()
    def observe(self, progress: float, next_update: int | None) -> None:
        """Count the step's inputs if the next update of the masks is close enough to use them."""
        if next_update is None:
            while self._handles:
                self._handles.pop().remove()
        self._looks = next_update is not None and next_update <= self.batches
        if next_update is None or next_update >= self.batches:
            self._inputs, self._squares = {}, {}
            self._forget()
            return
        if self._updated:
            self._forget()
        owners: dict[int, str] = {}
        for name, inputs in self._inputs.items():
            # Query, key and value are given the same tensor: one sum serves all three.
            self._owner[name] = owner = owners.setdefault(id(inputs), name)
            if owner == name:
                rows = inputs.reshape(-1, inputs.shape[-1]).float()
                self._moments[name] = self._moments.get(name, 0) + mean(rows.T @ rows / len(rows))
        for name in self.targets:  # in this order in every process, whatever the order of the backward pass
            if name in self._squares:
                self._fisher[name] = self._fisher.get(name, 0) + mean(self._squares[name])
        self._inputs, self._squares = {}, {}
        self._seen += 1
        self._updated = next_update == 0
        if self._updated:
            # The optimiser moves masked weights, too, until masks are applied again: only now are they all zero.
            self._kept = {name: linear.weight != 0 for name, linear in self.targets.items()}

    @torch.no_grad()
    def scores(self, name: str) -> torch.Tensor:
        """Rise of the error without each weight, all others of its row updated, [out, in]; 0 for masked ones.

        Raises:
            RecipeError: the damping is too small for these inputs: H is not positive definite in 32-bit numbers.
        """
        moments = self._damped(name)
        squares = (self.targets[name].weight * self._kept[name]).square()
        if moments is None:
            return squares
        factor, failed = torch.linalg.cholesky_ex(moments)
        if int(failed):
            raise RecipeError(
                f"pruning.options.damping {self.damping:g} is too small for the inputs of {name}: "
                "raise it, 0.01 is usual"
            )
        rise = squares / torch.cholesky_inverse(factor).diagonal()
        if not any(squares.any() for squares in self._fisher.values()):
            return rise
        return rise * self._fisher[name][:, None] if name in self._fisher else rise * 0

    @torch.no_grad()
    def removed(self, name: str, gone: torch.Tensor) -> None:
        """Move the weights that stay to where the layer's output is closest to what it was."""
        moments, weight = self._damped(name), self.targets[name].weight
        if moments is None:
            return
        before = (weight * self._kept[name]).to(moments.dtype)
        weight.copy_(least_squares(before, moments, self._kept[name] & ~gone, iterations=self.iterations))

    def state(self) -> dict[str, torch.Tensor]:
        """Sums of g^2 [out] and of products of inputs [in, in] since the last update, and whose inputs they are."""
        names = list(self.targets)
        owners = [names.index(self._owner[name]) if name in self._owner else -1 for name in names]
        sums = {f"moments/{name}": moments for name, moments in self._moments.items()}
        sums |= {f"fisher/{name}": squares for name, squares in self._fisher.items()}
        return sums | {
            "owners": torch.tensor(owners),
            "seen": torch.tensor([self._seen, self._updated]),
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up the sums."""
        names = list(self.targets)
        self._owner = {
            name: names[owner] for name, owner in zip(names, state["owners"].tolist(), strict=True) if owner >= 0
        }
        self._moments, self._fisher = (
            {
                name: state[f"{kind}/{name}"].to(linear.weight.device)
                for name, linear in self.targets.items()
                if f"{kind}/{name}" in state
            }
            for kind in ("moments", "fisher")
        )
        self._seen, updated = state["seen"].tolist()
        self._updated = bool(updated)

    def _see(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def see(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            self._inputs[name] = arguments[0]

        return see

    def _see_output(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], None]:
        def count(gradient: torch.Tensor) -> None:
            # Summed at once: the gradients of all layers' outputs together would fill gigabytes.
            self._squares[name] = gradient.reshape(-1, gradient.shape[-1]).float().square().sum(0)

        def see(module: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
            if self._looks and output.requires_grad:
                output.register_hook(count)  # type: ignore[no-untyped-call]

        return see

    def _forget(self) -> None:
        self._moments, self._fisher, self._owner, self._seen, self._updated = {}, {}, {}, 0, False

    def _damped(self, name: str) -> torch.Tensor | None:
        """H of a matrix's inputs [in, in]; None where there were none."""
        if name not in self._owner:
            return None
        moments = self._moments[self._owner[name]] / self._seen
        damping = self.damping * moments.diagonal().mean() + torch.finfo(moments.dtype).tiny
        damped: torch.Tensor = moments + damping * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
        return damped


def least_squares(wanted: torch.Tensor, moments: torch.Tensor, free: torch.Tensor, *, iterations: int) -> torch.Tensor:
    """The V [out, in], zero but where `free`, that comes close to the least tr (V - W) H (V - W)'.

    W is `wanted` [out, in], H `moments` [in, in], positive definite. Conjugate gradients for each row, preconditioned
    by H's diagonal, from W with zeros where it is not free; no step raises a row's error. After as many iterations as
    a row has free entries its V is exact.
    """
    found = wanted * free
    residual = (wanted - found) @ moments * free
    scale = 1 / moments.diagonal()
    direction = residual * scale
    size = (residual * direction).sum(1, keepdim=True)
    # A row that is solved has nothing left to go by.
    least = torch.finfo(wanted.dtype).tiny
    for _ in range(iterations):
        curved = direction @ moments * free
        length = size / (direction * curved).sum(1, keepdim=True).clamp(min=least)
        found = found + length * direction
        residual = residual - length * curved
        preconditioned = residual * scale
        size, before = (residual * preconditioned).sum(1, keepdim=True), size
        direction = preconditioned + size / before.clamp(min=least) * direction
    return found
