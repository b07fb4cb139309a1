"""The search for a teacher's training: rules give batch and epochs, trials on validation rows the rest.

A trial is the training that it decides about in a part of the steps, with the same warm-up and the same fall of the
learning rate: rates that are good with that fall look worse without it.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from sparserve.models.bundle.manifest import TrainingSettings
from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.distributed import count, is_main
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier
from sparserve.models.errors import TrainingError
from sparserve.models.files import write_atomically
from sparserve.models.recipes.schema import Training
from sparserve.models.training.checkpoints import on_device
from sparserve.models.training.trainer import TrainingRows, train
from sparserve.models.training.tuning import rules
from sparserve.models.training.tuning.climbing import EQUAL, Trial, climb
from sparserve.models.training.tuning.held_out import (
    DIVERGED,
    HeldOut,
    constant_loss,
    held_out_figures,
    held_out_logits,
)
from sparserve.models.training.tuning.settings import TRIALS, recorded, trial_lines, write_settings
from sparserve.models.training.tuning.trial_progress import TrialProgress
from sparserve.models.types import Loss, Progress

VALIDATION_ROWS = 1000
# Class weights must raise macro F1 by this much, and by this many times what they cost in accuracy.
WEIGHTS_GAIN, WEIGHTS_EXCHANGE = 0.01, 2.0


def find_settings(
    folder: Path, *, checkpoint: Checkpoint, rows: TokenizedDataset, seed: int, progress: Progress
) -> None:
    """Find the training of a teacher and write it to `folder`; trials that a killed run has finished are kept.

    A training that is too short for trials gets the usual learning rate for its width. If no trial has learned
    anything, the training needs more steps, and gets more epochs.

    Raises:
        TrainingError: the training diverges at every learning rate.
    """
    one_label = rows.dataset.problem_type == "single_label_classification" and rows.dataset.train.soft is None
    uneven = one_label and rules.are_uneven(label_counts(rows).tolist())
    trials = _Trials(folder, checkpoint, rows, seed, progress, weighted=uneven)
    rate = rules.teacher_rate(checkpoint.hidden_size)
    made: tuple[Trial, ...] = ()
    if trials.steps:
        rate, made = climb(rate, trials.steps, rules.MOST_TRIALS, lambda rate, _: trials.figures(rate).loss)
    if made and all(math.isinf(trial.loss) for trial in made):
        raise TrainingError("the training of the teacher diverges at every learning rate; is the checkpoint damaged?")
    weighted = False
    if made and uneven:
        weighted = weights_help(trials.figures(rate), trials.figures(rate, weighted=True))
    settings = TrainingSettings(
        learning_rate=rate,
        epochs=rules.slow_epochs(trials.epochs) if trials.learned_nothing(made) else trials.epochs,
        batch_size=trials.batch_size,
        class_weights=weighted,
        trials=recorded(made),
    )
    write_settings(folder, settings)


def settings_lines(settings: TrainingSettings, usual_epochs: int) -> list[str]:
    """Return the trials and the settings as lines for the user, for data of this size with so many epochs usually."""
    weights = ", class weights" if settings.class_weights else ""
    slow = ["  nothing was learned in so few steps: more epochs than usual"] if settings.epochs > usual_epochs else []
    rule = "" if settings.trials else " by the rule for its width (the training is too short for trials)"
    return [
        *trial_lines(settings.trials, "validation loss"),
        *slow,
        f"  teacher: learning rate {settings.learning_rate:g}{rule}, {settings.epochs:g} epochs (more while validation "
        f"rises), batches of {settings.batch_size}{weights}, fixed embeddings",
    ]


def teacher_training(learning_rate: float, *, epochs: float, batch_size: int) -> Training:
    """Return the training of a teacher, or a trial of it. Embeddings stay as they are, as those of most students do.

    On held-out rows of five small sets, at the rates that trials choose, fixed embeddings were as accurate as trained
    ones or better (-0.4 to +1.1 points), at up to a quarter less time. They need high rates: 150 labels lost 1.8 points
    at half of the best one.
    """
    return Training(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup=rules.TEACHER_WARMUP,
        freeze_embeddings=True,
    )


def weights_help(plain: HeldOut, weighted: HeldOut) -> bool:
    """Return True if class weights gain much more macro F1 than they lose in accuracy."""
    gain = weighted.macro_f1 - plain.macro_f1
    return gain >= max(WEIGHTS_GAIN, WEIGHTS_EXCHANGE * (plain.score - weighted.score))


def label_counts(rows: TokenizedDataset) -> npt.NDArray[np.int64]:
    """Return how many training rows have each label."""
    return np.bincount(rows.dataset.train.labels, minlength=len(rows.dataset.label_names))


def weighted_loss(rows: TokenizedDataset) -> Loss:
    """Return the cross-entropy in which a label weighs as one over the root of its number of training rows."""
    weights = torch.from_numpy(1 / np.sqrt(np.maximum(label_counts(rows), 1))).float()

    def loss(model: nn.Module, inputs: dict[str, torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
        logits = model(**{name: value for name, value in inputs.items() if name != "labels"}).logits
        return functional.cross_entropy(logits, inputs["labels"], weight=weights.to(logits.device))

    return loss


class _Trials:
    """Short trainings in a folder, one for each learning rate. With `weighted` one more has class weights."""

    def __init__(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        rows: TokenizedDataset,
        seed: int,
        progress: Progress,
        *,
        weighted: bool,
    ) -> None:
        self.folder, self.checkpoint, self.rows, self.seed = folder / TRIALS, checkpoint, rows, seed
        train_rows = len(rows.train)
        self.batch_size = rules.batch_size(train_rows, float(np.mean(rows.train.lengths)), count())
        self.epochs = rules.epochs(train_rows, len(rows.dataset.label_names), self.batch_size)
        self.steps_per_epoch = math.ceil(train_rows / self.batch_size)
        self.steps = rules.trial_steps(self.epochs * self.steps_per_epoch)
        self.progress = TrialProgress(progress, (rules.MOST_TRIALS + weighted) * self.steps)
        order = np.random.default_rng(seed).permutation(len(rows.validation))
        self.validation_rows = order[:VALIDATION_ROWS].tolist()

    def learned_nothing(self, made: Sequence[Trial]) -> bool:
        """Return True if trials were made, and none has a markedly lower loss than the same answer to every row."""
        labels, dataset = self.rows.validation.labels[self.validation_rows], self.rows.dataset
        columns = len(dataset.label_names)
        limit = (1 - EQUAL) * constant_loss(labels, columns, multi_label=dataset.multi_label)
        return bool(made) and min(trial.loss for trial in made) > limit

    def figures(self, rate: float, *, weighted: bool = False) -> HeldOut:
        """Return the figures after a trial, or those that an earlier run has recorded."""
        name = f"{rate:g}{'-weighted' if weighted else ''}"
        record = self.folder / f"{name}.json"
        progress = self.progress.of(name, self.steps, f"learning rate {rate:g}{', class weights' if weighted else ''}")
        if not record.is_file():
            figures = self._trained(self.folder / name, rate, progress, weighted=weighted)
            if is_main():
                write_atomically(record, json.dumps(asdict(figures)))
            return figures
        return HeldOut(**json.loads(record.read_bytes()))

    def _trained(self, folder: Path, rate: float, progress: Progress, *, weighted: bool) -> HeldOut:
        dataset = self.rows.dataset
        model = load_classifier(self.checkpoint.folder, dataset.label_names, dataset.problem_type, seed=self.seed)
        training = teacher_training(rate, epochs=self.steps / self.steps_per_epoch, batch_size=self.batch_size)
        try:
            train(
                model,
                training,
                TrainingRows(self.rows.train, None, self.checkpoint.pad_token_id, dataset.multi_label),
                seed=self.seed,
                folder=folder,
                progress=progress,
                loss=weighted_loss(self.rows) if weighted else None,
                keep_best=False,
            )
        except TrainingError:
            return DIVERGED
        logits = held_out_logits(
            on_device(model).eval(),
            self.rows.validation,
            self.validation_rows,
            pad_token_id=self.checkpoint.pad_token_id,
        )
        labels = self.rows.validation.labels[self.validation_rows]
        return held_out_figures(logits, labels, multi_label=dataset.multi_label)
