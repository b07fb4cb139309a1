"""Layer-wise Optimal Brain Surgeon: score weights by the change of their layer's output without them.

Hassibi & Stork 1993, applied to the least-squares problem of each layer as in Frantar & Alistarh 2022 (Optimal Brain
Compression, arXiv 2208.11580, section 3). With `output_fisher` the outputs are weighted by the loss gradients: the
Kronecker-factored Fisher matrix of Martens & Grosse 2015 (K-FAC, arXiv 1503.05671, section 3) with a diagonal factor
for the outputs. Van der Ouderaa et al. 2023 (arXiv 2312.17244) prune language models with the full matrix.
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
    """Second-order pruning from layer inputs; gradients serve only to compare outputs and layers.

    Let x [in] be the inputs of a matrix W [out, in] and H = E[x x'] + lambda I. Replacing W by V changes the output by
    tr (V - W) H (V - W)', in the mean over tokens.

    Score: W_ij^2 / [H^-1]_jj, the rise of that error without one weight if all others of its row can compensate. Once
    some are masked they cannot, and the true rise is larger. It would need, for each row, the inverse of H without the
    masked columns, which takes longer than all other work and gives nearly the same ranking.

    Update, for a final mask: each row of V is the least-squares solution with zeros at masked entries. It starts from
    the masked W and takes `iterations` steps of conjugate gradients, for all rows together (Meng et al. 2024, ALPS,
    arXiv 2406.07831, section 3.3).

    Inputs are those of the last `batches` steps before a mask update, in the network that is being pruned. Padding
    counts; length buckets keep it small. lambda is `damping` times the mean of x^2, so the scale of the inputs does not
    matter. Without any inputs the score is W^2 and there is no update.

    `output_fisher`: let g [out] be the loss gradient at the outputs of a token, independent of x. Then the loss rises
    by half of sum_i E[g_i^2] (V_i - W_i) H (V_i - W_i)'. Scores are multiplied by E[g_i^2] of the same batches. This
    makes them comparable between the rows of a matrix and between matrices, which `pruning.allocation` `global` needs.
    The update of a row does not change. The gradients are those of the training loss (the empirical Fisher), not of
    targets drawn from the model: outputs with larger loss gradients get more weight. A student that starts as a copy of
    its teacher has no distillation gradient yet, so set `pruning.begin` above 0. If no matrix has a gradient, all
    outputs weigh the same. If only one matrix has none, its weights score 0.

    Blocks of `pruning.block` rank by the mean score of their weights, as if the weights left one by one; their update
    is exact.
    """

    _input_moments: dict[str, torch.Tensor]  # sums of E[x x'] over batches, by the first matrix with these inputs
    _owner: dict[str, str]  # that first matrix, by matrix
    _fisher: dict[str, torch.Tensor]  # sums of g^2 [out] over batches and tokens, by matrix
    _batch_count: int  # batches in the sums
    _updated: bool  # True if masks were updated after the last batch

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
        """Start to record the inputs of the matrices [out, in]."""
        super().prepare(targets, pruning)
        self._inputs: dict[str, torch.Tensor] = {}  # of the last forward pass
        self._kept = {name: linear.weight.detach() != 0 for name, linear in targets.items()}
        self._handles = [
            linear.register_forward_pre_hook(self._record_inputs(name)) for name, linear in targets.items()
        ]
        self._squares: dict[str, torch.Tensor] = {}  # of the last backward pass
        self._records_gradients = True  # False while the gradients of the next step cannot be of use
        if self.output_fisher:
            self._handles += [
                linear.register_forward_hook(self._record_gradients(name)) for name, linear in targets.items()
            ]
        self._reset()

    @torch.no_grad()
    def observe(self, progress: float, next_update: int | None) -> None:
        """Add the inputs of the step to the sums if the next mask update is near enough to use them."""
        if next_update is None:
            while self._handles:
                self._handles.pop().remove()
        self._records_gradients = next_update is not None and next_update <= self.batches
        if next_update is None or next_update >= self.batches:
            self._inputs, self._squares = {}, {}
            self._reset()
            return
        if self._updated:
            self._reset()
        owners: dict[int, str] = {}
        for name, inputs in self._inputs.items():
            # Query, key and value share one input tensor, hence one sum.
            self._owner[name] = owner = owners.setdefault(id(inputs), name)
            if owner == name:
                rows = inputs.reshape(-1, inputs.shape[-1]).float()
                self._input_moments[name] = self._input_moments.get(name, 0) + mean(rows.T @ rows / len(rows))
        for name in self.targets:  # the same order in every process; that of the backward pass may differ
            if name in self._squares:
                self._fisher[name] = self._fisher.get(name, 0) + mean(self._squares[name])
        self._inputs, self._squares = {}, {}
        self._batch_count += 1
        self._updated = next_update == 0
        if self._updated:
            # The optimiser also moves masked weights until the masks are applied: they are all zero only now.
            self._kept = {name: linear.weight != 0 for name, linear in self.targets.items()}

    @torch.no_grad()
    def scores(self, name: str) -> torch.Tensor:
        """Return the rise of the error without each weight, after the update of its row, [out, in]; 0 if masked.

        Raises:
            RecipeError: the damping is too small for these inputs: H is not positive definite in float32.
        """
        H = self._hessian(name)
        squares = (self.targets[name].weight * self._kept[name]).square()
        if H is None:
            return squares
        factor, failed = torch.linalg.cholesky_ex(H)
        if int(failed):
            raise RecipeError(
                f"pruning.options.damping {self.damping:g} is too small for the inputs of {name}. "
                "Raise it; 0.01 is usual."
            )
        rise = squares / torch.cholesky_inverse(factor).diagonal()
        if not any(squares.any() for squares in self._fisher.values()):
            return rise
        return rise * self._fisher[name][:, None] if name in self._fisher else rise * 0

    @torch.no_grad()
    def removed(self, name: str, newly_masked: torch.Tensor) -> None:
        """Change the weights that stay so that the output of the layer changes least."""
        H, weight = self._hessian(name), self.targets[name].weight
        if H is None:
            return
        W = (weight * self._kept[name]).to(H.dtype)
        weight.copy_(least_squares(W, H, self._kept[name] & ~newly_masked, iterations=self.iterations))

    def state(self) -> dict[str, torch.Tensor]:
        """Return the sums of g^2 [out] and of x x' [in, in] since the last update, and the owners of the inputs."""
        names = list(self.targets)
        owners = [names.index(self._owner[name]) if name in self._owner else -1 for name in names]
        sums = {f"moments/{name}": moments for name, moments in self._input_moments.items()}
        sums |= {f"fisher/{name}": squares for name, squares in self._fisher.items()}
        return sums | {
            "owners": torch.tensor(owners),
            "seen": torch.tensor([self._batch_count, self._updated]),
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore the sums."""
        names = list(self.targets)
        self._owner = {
            name: names[owner] for name, owner in zip(names, state["owners"].tolist(), strict=True) if owner >= 0
        }
        self._input_moments, self._fisher = (
            {
                name: state[f"{kind}/{name}"].to(linear.weight.device)
                for name, linear in self.targets.items()
                if f"{kind}/{name}" in state
            }
            for kind in ("moments", "fisher")
        )
        self._batch_count, updated = state["seen"].tolist()
        self._updated = bool(updated)

    def _record_inputs(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        names = list(self.targets)
        first, last = names[0], names[-1]

        def record(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if name == first and last in self._inputs:
                self._inputs = {}  # a new forward pass
            # The first call has the texts. DeBERTa's linears project a table of positions, too.
            self._inputs.setdefault(name, arguments[0])

        return record

    def _record_gradients(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], None]:
        def record(gradient: torch.Tensor) -> None:
            # Summed immediately: the output gradients of all layers together would take gigabytes.
            self._squares[name] = gradient.reshape(-1, gradient.shape[-1]).float().square().sum(0)

        def register(module: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
            if self._records_gradients and output.requires_grad and arguments[0] is self._inputs[name]:
                output.register_hook(record)  # type: ignore[no-untyped-call]

        return register

    def _reset(self) -> None:
        self._input_moments, self._fisher, self._owner, self._batch_count, self._updated = {}, {}, {}, 0, False

    def _hessian(self, name: str) -> torch.Tensor | None:
        """Return H [in, in] of a matrix, or None without inputs."""
        if name not in self._owner:
            return None
        moments = self._input_moments[self._owner[name]] / self._batch_count
        damping = self.damping * moments.diagonal().mean() + torch.finfo(moments.dtype).tiny
        H: torch.Tensor = moments + damping * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
        return H


def least_squares(W: torch.Tensor, H: torch.Tensor, free: torch.Tensor, *, iterations: int) -> torch.Tensor:
    """Return V [out, in], zero except where `free`, that approximately minimises tr (V - W) H (V - W)'.

    W is [out, in]; H is [in, in] and positive definite. Runs conjugate gradients for each row, preconditioned by the
    diagonal of H, starting from W with zeros at entries that are not free. No iteration raises the error of a row.
    After as many iterations as a row has free entries its V is exact.
    """
    V = W * free
    residual = (W - V) @ H * free
    preconditioner = 1 / H.diagonal()
    direction = residual * preconditioner
    rho = (residual * direction).sum(1, keepdim=True)
    # Keeps the quotients finite for a row that is solved, whose residual is 0.
    tiny = torch.finfo(W.dtype).tiny
    for _ in range(iterations):
        H_direction = direction @ H * free
        step_length = rho / (direction * H_direction).sum(1, keepdim=True).clamp(min=tiny)
        V = V + step_length * direction
        residual = residual - step_length * H_direction
        preconditioned = residual * preconditioner
        rho, previous_rho = (residual * preconditioned).sum(1, keepdim=True), rho
        direction = preconditioned + rho / previous_rho.clamp(min=tiny) * direction
    return V
