"""When masks change: after the optimiser steps that the schedule names; and they are applied after every one."""

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
    """A model's masks and the method that decides them, step by step."""

    def __init__(self, model: nn.Module, pruning: Pruning, *, keep_zeros: bool = False) -> None:
        self.pruning = pruning
        targets = encoder_linears(model)
        self.masks = Masks(targets, pruning.block, keep_zeros=keep_zeros)
        self.method = make_method(pruning)
        self.method.prepare(targets, pruning)
        for name, linear in targets.items():
            # What is masked does not move: its gradient must not count in the norm that all gradients are clipped by.
            linear.weight.register_hook(partial(self.masks.masked, name))  # type: ignore[no-untyped-call]

    def observe(self, step: int, total_steps: int) -> None:
        """Let the method look at the gradients of optimiser step `step` (1 to `total_steps`), before it is taken."""
        until = next_update(step, total_steps, self.pruning)
        self.method.observe((step - 1) / total_steps, until)

    @torch.no_grad()
    def after(self, step: int, total_steps: int) -> None:
        """Update the masks if the schedule says so after this step, then zero what they mask."""
        sparsity = sparsity_at(step, total_steps, self.pruning)
        if sparsity is not None:
            scores = {name: self.method.scores(name) for name in self.masks.kept}
            gone = self.masks.raise_sparsity(scores, sparsity, self.pruning.allocation)
            for name, mask in gone.items():
                if mask.any():
                    self.method.removed(name, mask)
        self.masks.apply()

    def save(self, path: Path) -> None:
        """Write the masks and the method's state as a safetensors file."""
        state = {_MASK + name: value for name, value in self.masks.state().items()}
        state |= {_METHOD + name: value.contiguous() for name, value in self.method.state().items()}
        # Whoever finds the final name has all of the file.
        part = path.with_suffix(".part")
        save_file(state, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote for the same model and recipe."""
        state = load_file(path)
        for prefix, take in ((_MASK, self.masks.load_state), (_METHOD, self.method.load_state)):
            take({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})


class PruningCallback(TrainerCallback):  # type: ignore[misc]
    """Prunes a model while the Trainer trains it; masks and scores are part of every checkpoint."""

    def __init__(
        self, model: nn.Module, pruning: Pruning, *, resume_from: Path | None = None, keep_zeros: bool = False
    ) -> None:
        self.pruner = Pruner(model, pruning, keep_zeros=keep_zeros)
        if resume_from is not None:
            self.pruner.load(resume_from / MASKS)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the method the gradients."""
        # The Trainer counts the step only after it is taken.
        self.pruner.observe(state.global_step + 1, state.max_steps)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the masks if the schedule says so, then zero what they mask."""
        self.pruner.after(state.global_step + 1, state.max_steps)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the masks with the checkpoint; they are the same in every process."""
        if args.should_save:
            self.pruner.save(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / MASKS)
