"""Teacher settings: the training that the dense teacher gets where the recipe leaves it open."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sparserve.models.bundle.manifest import TrainingSettings
from sparserve.models.distributed import count, everywhere
from sparserve.models.pipeline.estimate import Costs, duration
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.training.teacher import MAX_EXTENSIONS, extension_epochs
from sparserve.models.training.tuning import rules
from sparserve.models.training.tuning.settings import read_settings
from sparserve.models.training.tuning.teacher_trials import (
    VALIDATION_ROWS,
    find_settings,
    settings_lines,
)

# Raised when a change of the code makes another result of the same inputs, or another training of the teacher: its key
# contains this step's.
WITHOUT_TRIALS = 6  # the revision for data of so few rows that no trial is made
REVISION = 8


def teacher_settings_step(job: Job, common: Mapping[str, Any]) -> Step:
    """Return the step that finds the teacher's training by trials."""

    def build(folder: Path, context: Context) -> None:
        rows = job.rows(job.checkpoint)
        everywhere(
            partial(find_settings, folder, checkpoint=job.checkpoint, rows=rows, seed=job.seed), context.progress
        )
        settings = found_settings(job, folder)
        usual_epochs = rules.epochs(len(rows.train), len(job.dataset.label_names), settings.batch_size)
        for line in settings_lines(settings, usual_epochs):
            context.reporter.say(line)

    def estimate(costs: Costs) -> float:
        batch, _ = planned_training(job, costs)
        rows = max(job.row_count("train"), 1)
        steps = _trial_steps(job, batch)
        if not steps:
            return 0.0
        tokens = steps * batch * costs.train / rows
        checked = min(VALIDATION_ROWS / max(job.row_count("validation"), 1), 1.0) * costs.validation
        return costs.forward(round(rules.USUAL_TRIALS * (3 * tokens + checked)))

    inputs = {**common, "checkpoint": job.checkpoint.digest, "revision": [_revision(job), 0]}
    return Step("teacher settings", inputs, build, estimate)


def _revision(job: Job) -> int:
    batch = rules.batch_size(len(job.dataset.train), 0.0, count())
    return REVISION if _trial_steps(job, batch) else WITHOUT_TRIALS


def _trial_steps(job: Job, batch: int) -> int:
    """Return the steps of a trial."""
    rows = max(job.row_count("train"), 1)
    return rules.trial_steps(rules.epochs(rows, len(job.dataset.label_names), batch) * math.ceil(rows / batch))


def found_settings(job: Job, folder: Path) -> TrainingSettings:
    """Return the settings that a step has found.

    A teacher that learns logits has no weights of labels. If it learns unlabelled rows as well, it passes over all of
    them as often as their number needs, which is less often.
    """
    settings = read_settings(folder)
    if job.teacher_learns_logits:
        settings = settings.model_copy(update={"class_weights": False})
    if learns_unlabeled(job):
        needed = rules.epochs(_learned_rows(job), len(job.dataset.label_names), settings.batch_size)
        settings = settings.model_copy(update={"epochs": min(settings.epochs, needed)})
    return settings


def learns_unlabeled(job: Job) -> bool:
    """Return True if the dense teacher learns unlabelled rows, to which a bigger teacher has answered."""
    return job.bigger_teacher is not None and job.unlabeled_split is not None


def planned_training(job: Job, costs: Costs) -> tuple[int, int]:
    """Return the batch size and the epochs that the rules give for the job's data, before any trial."""
    rows = job.row_count("train")
    batch = rules.batch_size(rows, costs.train / max(rows, 1), count())
    return batch, rules.epochs(_learned_rows(job), len(job.dataset.label_names), batch)


def _learned_rows(job: Job) -> int:
    unlabeled = job.unlabeled_rows(job.checkpoint) if learns_unlabeled(job) else None
    return job.row_count("train") + (0 if unlabeled is None else len(unlabeled))


def teacher_search_line(job: Job, costs: Costs) -> str:
    """Return a sentence on what the search and the training that follows may take."""
    batch, epochs = planned_training(job, costs)
    rate = rules.teacher_rate(job.checkpoint.hidden_size)
    if steps := _trial_steps(job, batch):
        found = f"up to {rules.MOST_TRIALS} trials of {steps} steps around the learning rate {rate:g}"
        longest = epochs if learns_unlabeled(job) else rules.slow_epochs(epochs)
        more = f" ({longest} if the trials learn nothing)" if longest > epochs else ""
    else:
        found = f"learning rate {rate:g}, without trials, as it has few steps"
        longest, more = epochs, ""
    most = longest + MAX_EXTENSIONS * extension_epochs(longest)
    return (
        f"The teacher finds its own training: {found}, then {epochs} epochs in batches of {batch}{more}, and up to "
        f"{most} (about {duration(costs.training(most, passes=3))}) while the score on validation still rises"
    )
