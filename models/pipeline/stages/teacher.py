"""The dense teacher: the network that was given, or the checkpoint fine-tuned on the job's rows."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sparserve.models.bundle.manifest import TrainingSettings
from sparserve.models.distributed import everywhere
from sparserve.models.encoders.checkpoint import Checkpoint, adopt
from sparserve.models.pipeline.estimate import Costs
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.stages.augmentation import student_rows
from sparserve.models.pipeline.stages.bigger_teacher import target_logits
from sparserve.models.pipeline.stages.teacher_settings import found_settings, learns_unlabeled, planned_training
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.training.target_logits import TargetLogits, logits_only
from sparserve.models.training.teacher import train_found_teacher, train_teacher

# Raised when a change of the code makes another result of the same inputs.
REVISION = 1
FOUND_WITH_UNLABELED = 2  # the revision of a found training that passes over unlabelled rows as well
COPY_SECONDS = 1.0


def teacher_step(job: Job, common: Mapping[str, Any], settings: Step | None, targets: Step | None = None) -> Step:
    """Return the step that makes the dense teacher, with the settings that a step finds if the recipe has none.

    It learns the logits of a bigger teacher if there are such `targets`.
    """
    if job.teacher is not None:
        return _given_teacher_step(job.teacher, common)
    if settings is not None:
        return _found_teacher_step(job, common, settings, targets)
    training = job.recipe.teacher
    assert training is not None

    def build(folder: Path, context: Context) -> None:
        work = partial(
            train_teacher,
            folder,
            checkpoint=job.checkpoint,
            training=training,
            seed=job.seed,
            **_lesson(job, targets, context),
        )
        everywhere(work, context.progress)

    inputs = {
        **common,
        "checkpoint": job.checkpoint.digest,
        "training": training.model_dump(mode="json", exclude={"save_steps"}),
        "revision": [REVISION, 0],
        **_lesson_inputs(job, targets),
    }
    return Step(
        "teacher",
        inputs,
        build,
        lambda costs: costs.training(training.epochs, passes=3, tokens=costs.student(1) if targets else None),
        (targets,) if targets else (),
    )


def training_of(plan_settings: Step | None, job: Job, context: Context) -> TrainingSettings | None:
    """Return the settings of the teacher's training, fixed or found; None if the teacher was given."""
    if job.teacher is not None:
        return None
    if plan_settings is not None:
        return found_settings(job, context.result(plan_settings))
    training = job.recipe.teacher
    assert training is not None
    return TrainingSettings(
        learning_rate=training.learning_rate, epochs=training.epochs, batch_size=training.batch_size
    )


def _lesson(job: Job, targets: Step | None, context: Context) -> dict[str, Any]:
    """Return the rows that the dense teacher learns from and, if it learns logits, these and the losses.

    The logits are those of a bigger teacher, also to unlabelled rows, or the soft labels of the data.
    """
    rows = job.rows(job.checkpoint) if targets is None else student_rows(job, job.checkpoint, None, context)
    logits = target_logits(job, targets, len(rows.dataset.train), context)
    if logits is None:
        return {"rows": rows}
    return {"rows": rows, "targets": TargetLogits(logits), "losses": logits_only(job.recipe.distillation)}


def _lesson_inputs(job: Job, targets: Step | None) -> dict[str, Any]:
    if not job.teacher_learns_logits:
        return {}
    losses = logits_only(job.recipe.distillation)
    learned = {"temperature": losses.temperature, "labels": losses.labels}
    return learned if targets is None else learned | {"targets": targets.key}


def _found_teacher_step(job: Job, common: Mapping[str, Any], settings: Step, targets: Step | None) -> Step:
    def build(folder: Path, context: Context) -> None:
        work = partial(
            train_found_teacher,
            folder,
            checkpoint=job.checkpoint,
            settings=found_settings(job, context.result(settings)),
            seed=job.seed,
            **_lesson(job, targets, context),
        )
        everywhere(work, context.progress)

    def estimate(costs: Costs) -> float:
        epochs = planned_training(job, costs)[1]
        return costs.training(epochs, passes=3, tokens=costs.student(1) if targets else None)

    inputs = {
        **common,
        "checkpoint": job.checkpoint.digest,
        "settings": settings.key,
        "revision": [FOUND_WITH_UNLABELED if learns_unlabeled(job) else REVISION, 0],
        **_lesson_inputs(job, targets),
    }
    return Step("teacher", inputs, build, estimate, (settings, targets) if targets else (settings,))


def _given_teacher_step(teacher: Checkpoint, common: Mapping[str, Any]) -> Step:
    def build(folder: Path, context: Context) -> None:
        adopt(folder, teacher)

    inputs = {"given": teacher.digest, "name": teacher.name, "libraries": common["libraries"]}
    return Step("given teacher", inputs, build, lambda costs: COPY_SECONDS)
