"""The search for a student's learning rate: trials of the whole recipe in a fraction of its steps.

A trial has the recipe's schedules of learning rate and sparsity, compressed, so that pruning is complete and recovery
has had its share when it is judged. The judge is the divergence from the teacher on validation rows: it separates rates
that the accuracy of so few rows cannot separate. The best rate falls with the number of steps, so a trial runs at a
higher rate than the one that it stands for.
"""

import json
import math
import shutil
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from sparserve.models.bundle.manifest import TrainingSettings
from sparserve.models.distributed import is_main, wait
from sparserve.models.encoders.checkpoint import load_classifier
from sparserve.models.errors import TrainingError
from sparserve.models.files import write_atomically
from sparserve.models.recipes.schema import Recipe
from sparserve.models.training.checkpoints import on_device
from sparserve.models.training.student import StudentInputs, train_student
from sparserve.models.training.tuning import rules
from sparserve.models.training.tuning.climbing import Trial, climb
from sparserve.models.training.tuning.held_out import divergence, held_out_figures, held_out_logits
from sparserve.models.training.tuning.settings import TRIALS, recorded, trial_lines, write_settings
from sparserve.models.training.tuning.trial_progress import TrialProgress
from sparserve.models.types import Progress

VALIDATION_ROWS = 1000
# Mask updates of a trial: few, because each may take as long as several steps.
LEAST_UPDATES = 3


def find_learning_rate(folder: Path, recipe: Recipe, inputs: StudentInputs, *, progress: Progress) -> None:
    """Find the learning rate of a student and write it to `folder`; trials that a killed run has finished are kept.

    A training that is too short for trials gets the rule's rate.

    Raises:
        TrainingError: the training diverges at every learning rate.
    """
    student = recipe.student
    steps = max(round(student.epochs * math.ceil(len(inputs.rows.train) / student.batch_size)), 1)
    trial_steps = rules.trial_steps(steps)
    rate = first_rate(recipe, inputs.start.hidden_size)
    made: tuple[Trial, ...] = ()
    if trial_steps:
        whole = TrialProgress(progress, rules.MOST_TRIALS * trial_steps)
        trials = _Trials(folder / TRIALS, recipe, inputs, steps, whole)
        rate, made = climb(rate, trial_steps, rules.MOST_TRIALS, trials.loss)
        if all(math.isinf(trial.loss) for trial in made):
            raise TrainingError("the training of the student diverges at every learning rate; is the teacher damaged?")
    write_settings(
        folder,
        TrainingSettings(
            learning_rate=rate, epochs=student.epochs, batch_size=student.batch_size, trials=recorded(made)
        ),
    )


def first_rate(recipe: Recipe, width: int) -> float:
    """Return the learning rate that a recipe's student usually needs, if it starts from a network of this width."""
    pruned = recipe.pruning is not None and recipe.pruning.sparsity > 0
    width = recipe.student.hidden_size or width
    return rules.student_rate(width, pruned=pruned, distilled=recipe.imitates_teacher)


def learning_rate_lines(settings: TrainingSettings, recipe: Recipe) -> list[str]:
    """Return the trials and the rate as lines for the user."""
    found = f"  student: learning rate {settings.learning_rate:g}"
    if not settings.trials:
        return [f"{found}, by the rule for its width: the training is too short for trials"]
    return [*trial_lines(settings.trials, judged_by(recipe)), found]


def judged_by(recipe: Recipe) -> str:
    """Return the name of the figure that compares the trials of a recipe."""
    return "divergence from the teacher" if recipe.imitates_teacher else "validation loss"


class _Trials:
    """Short trainings in a folder, one for each learning rate."""

    def __init__(
        self, folder: Path, recipe: Recipe, inputs: StudentInputs, steps: int, progress: TrialProgress
    ) -> None:
        """Prepare trials of a training of so many steps."""
        self.folder, self.recipe, self.inputs, self.steps, self.progress = folder, recipe, inputs, steps, progress
        self.rows = inputs.rows
        order = np.random.default_rng(inputs.seed).permutation(len(self.rows.validation))
        self.validation_rows: list[int] = order[:VALIDATION_ROWS].tolist()

    def loss(self, rate: float, steps: int) -> float:
        """Return the loss after a trial, or the one that an earlier run has recorded; infinite if it diverged."""
        record, folder = self.folder / f"{rate:g}.json", self.folder / f"{rate:g}"
        progress = self.progress.of(folder.name, steps, f"learning rate {rate:g}")
        if not record.is_file():
            trained = self._train(folder, rate, steps, progress)
            wait()
            if is_main():
                write_atomically(record, json.dumps(self._judge(folder) if trained else math.inf))
                shutil.rmtree(folder, ignore_errors=True)
            wait()
        return float(json.loads(record.read_bytes()))

    def _train(self, folder: Path, rate: float, steps: int, progress: Progress) -> bool:
        """Train a student for so many steps; return False if the training diverged."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            train_student(
                folder,
                shortened(
                    self.recipe,
                    steps,
                    rows=len(self.rows.train),
                    learning_rate=rules.trial_rate(rate, self.steps, steps),
                ),
                self.inputs,
                progress=progress,
                validate=False,
            )
        except TrainingError:
            return False
        return True

    def _judge(self, folder: Path) -> float:
        logits = self._logits(folder)
        if not bool(logits.isfinite().all()):
            return math.inf
        if self.recipe.imitates_teacher:
            return divergence(self.teacher_logits, logits, multi_label=self.rows.dataset.multi_label)
        labels = self.rows.validation.labels[self.validation_rows]
        return held_out_figures(logits, labels, multi_label=self.rows.dataset.multi_label).loss

    @cached_property
    def teacher_logits(self) -> torch.Tensor:
        """Logits [rows, labels] of the dense teacher, to the validation rows that judge."""
        return self._logits(self.inputs.teacher.folder)

    def _logits(self, network: Path) -> torch.Tensor:
        dataset = self.rows.dataset
        model = on_device(load_classifier(network, dataset.label_names, dataset.problem_type)).eval()
        pad_token_id = self.inputs.start.pad_token_id
        return held_out_logits(model, self.rows.validation, self.validation_rows, pad_token_id=pad_token_id)


def shortened(recipe: Recipe, steps: int, *, rows: int, learning_rate: float) -> Recipe:
    """Return the recipe for so many steps on `rows` training rows: the same fractions of them, and fewer updates."""
    student = recipe.student
    steps_per_epoch = math.ceil(rows / student.batch_size)
    epochs = steps / steps_per_epoch
    changes: dict[str, object] = {
        "student": student.model_copy(update={"epochs": epochs, "learning_rate": learning_rate})
    }
    if recipe.pruning is not None:
        updates = recipe.pruning.updates
        fewer = max(round(updates * epochs / student.epochs), min(LEAST_UPDATES, updates))
        changes["pruning"] = recipe.pruning.model_copy(update={"updates": fewer})
    return recipe.model_copy(update=changes)
