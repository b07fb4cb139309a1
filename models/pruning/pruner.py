"""Apply a pruning method during training: update masks on schedule, and zero masked weights after every step."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.pruning.masks import Masks
from sparserve.models.pruning.registry import make_method
from sparserve.models.pruning.schedules import next_update, sparsity_at
from sparserve.models.recipes.schema import Pruning

MASKS = "masks.safetensors"
_MASK, _METHOD = "mask/", "method/"


class Pruner:
    """The masks of a model and the method that updates them, step by step."""

    def __init__(
        self,
        model: nn.Module,
        pruning: Pruning,
        *,
        keep_zeros: bool = False,
        targets: Mapping[str, nn.Linear] | None = None,
    ) -> None:
        """Prepare the method for the matrices `targets`, by default those of the encoder's layers."""
        self.pruning = pruning
        targets = encoder_linears(model) if targets is None else targets
        self.masks = Masks(targets, pruning.block, keep_zeros=keep_zeros)
        self.method = make_method(pruning)
        self.method.prepare(targets, pruning)
        for name, linear in targets.items():
            # Masked weights do not move, so their gradients must not count in the norm used for clipping.
            linear.weight.register_hook(partial(self.masks.masked, name))  # type: ignore[no-untyped-call]

    def observe(self, step: int, total_steps: int) -> None:
        """Pass the gradients to the method before the optimiser takes step `step` (1 to `total_steps`)."""
        steps_left = next_update(step, total_steps, self.pruning)
        self.method.observe((step - 1) / total_steps, steps_left)

    @torch.no_grad()
    def after(self, step: int, total_steps: int) -> None:
        """Update the masks if the schedule has an update after this step, then zero the masked weights."""
        sparsity = sparsity_at(step, total_steps, self.pruning)
        if sparsity is not None:
            scores = {name: self.method.scores(name) for name in self.masks.kept}
            newly_masked = self.masks.raise_sparsity(scores, sparsity, self.pruning.allocation)
            for name, mask in newly_masked.items():
                if mask.any():
                    self.method.removed(name, mask)
        self.masks.apply()

    def save(self, path: Path) -> None:
        """Write the masks and the method's state to a safetensors file."""
        state = {_MASK + name: value for name, value in self.masks.state().items()}
        state |= {_METHOD + name: value.contiguous() for name, value in self.method.state().items()}
        # Renamed at the end, so that a file with the final name is always complete.
        partial_path = path.with_suffix(".part")
        save_file(state, partial_path)
        partial_path.replace(path)

    def load(self, path: Path) -> None:
        """Resume from a file that `save` wrote for the same model and recipe."""
        state = load_file(path)
        for prefix, load_state in ((_MASK, self.masks.load_state), (_METHOD, self.method.load_state)):
            load_state({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})


class PruningCallback(TrainerCallback):  # type: ignore[misc]
    """Trainer callback that prunes the model during training; checkpoints include masks and scores."""

    def __init__(
        self, model: nn.Module, pruning: Pruning, *, resume_from: Path | None = None, keep_zeros: bool = False
    ) -> None:
        self.pruner = Pruner(model, pruning, keep_zeros=keep_zeros)
        if resume_from is not None:
            self.pruner.load(resume_from / MASKS)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the gradients to the method."""
        # The Trainer increments `global_step` only after the step.
        self.pruner.observe(state.global_step + 1, state.max_steps)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the masks if an update is due, then zero the masked weights."""
        self.pruner.after(state.global_step + 1, state.max_steps)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the masks with the checkpoint. They are equal in every process, so one process writes them."""
        if args.should_save:
            self.pruner.save(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / MASKS)
