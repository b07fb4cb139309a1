"""When masks change: after the optimiser steps that the schedule names; and they are applied after every one."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from models.pruning.masks import Masks
from models.pruning.protocol import METHODS, PruningMethod
from models.pruning.schedules import sparsity_at
from models.pruning.targets import encoder_linears
from models.recipe import Pruning

MASKS = "masks.safetensors"


class PruningCallback(TrainerCallback):  # type: ignore[misc]
    """Prunes a model while the Trainer trains it; the masks are part of every checkpoint."""

    def __init__(self, model: nn.Module, pruning: Pruning, *, resume_from: Path | None = None) -> None:
        self.pruning = pruning
        self.targets = encoder_linears(model)
        self.masks = Masks(self.targets)
        self.method: PruningMethod = METHODS[pruning.method]()
        self.method.prepare(model, self.targets)
        if resume_from is not None:
            self.masks.load(resume_from / MASKS)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the masks if the schedule says so, then zero what they mask."""
        # The Trainer counts the step only after this event.
        sparsity = sparsity_at(state.global_step + 1, state.max_steps, self.pruning)
        if sparsity is not None:
            scores = {name: self.method.scores(name, linear.weight) for name, linear in self.targets.items()}
            self.masks.raise_sparsity(scores, sparsity, self.pruning.allocation)
        self.masks.apply()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the masks with the checkpoint."""
        self.masks.save(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / MASKS)
