"""The student: pruned while it learns from the teacher or from the labels."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sparserve.models.distributed import everywhere
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.stages.augmentation import copies_of_training_rows, student_rows
from sparserve.models.pipeline.stages.bigger_teacher import target_logits
from sparserve.models.pipeline.stages.squeeze import SHAPE
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.pruning.registry import make_method
from sparserve.models.recipes.schema import Recipe
from sparserve.models.training.student import train_student

# Raised when a change of the code makes another result of the same inputs.
REVISION = 1


def student_step(
    job: Job,
    rows: Mapping[str, Any],
    *,
    teacher: Step,
    augmentation: Step | None,
    teacher_outputs: Step | None,
    squeeze: Step | None,
    targets: Step | None = None,
) -> Step:
    """Return the step that trains the student. `rows` are the inputs that decide the training rows."""
    recipe = job.recipe
    from_teacher = recipe.student.start == "teacher"
    learns = recipe.distillation is not None and recipe.student.epochs > 0

    def start(context: Context) -> Checkpoint:
        if squeeze is not None:
            return context.checkpoint(squeeze, job.checkpoint.name)
        return context.checkpoint(teacher, job.teacher_or_checkpoint.name) if from_teacher else job.checkpoint

    def build(folder: Path, context: Context) -> None:
        rows_of_student = student_rows(job, job.start, augmentation, context)
        work = partial(
            train_student,
            folder,
            recipe=recipe if squeeze is None else _without_shape(recipe),
            start=start(context),
            teacher=context.checkpoint(teacher, job.teacher_or_checkpoint.name),
            teacher_cache=context.result(teacher_outputs) if teacher_outputs else None,
            rows=rows_of_student,
            seed=job.seed,
            targets=target_logits(job, targets, len(rows_of_student.dataset.train), context),
        )
        everywhere(work, context.progress)

    # Stored outputs are computed in float32 and rounded to 16 bits; a live teacher computes in the student's precision.
    live = {"teacher outputs": "live"} if learns and teacher_outputs is None else {}
    origin = squeeze or (teacher if from_teacher else None)
    inputs = {
        **rows,
        **live,
        **({"targets": targets.key} if targets else {}),
        "start": origin.key if origin else job.checkpoint.digest,
        "teacher": teacher.key if learns else None,
        **_training_inputs(recipe),
        "revision": [REVISION, make_method(recipe.pruning).revision if recipe.pruning else 0],
    }
    passes = 4 if recipe.distillation is not None and teacher_outputs is None else 3
    copies = copies_of_training_rows(job)
    return Step(
        "student",
        inputs,
        build,
        lambda costs: costs.training(recipe.student.epochs, passes=passes, tokens=costs.student(copies)),
        tuple(step for step in (teacher, augmentation, teacher_outputs, squeeze, targets) if step is not None),
    )


def _training_inputs(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that decide a student's weights, not those for its interruption or storage."""
    trained = recipe.student.epochs > 0
    unused = {"calibration"} if trained else None
    return {
        "training": recipe.student.model_dump(mode="json", exclude={"save_steps"}),
        "pruning": recipe.pruning.model_dump(mode="json", exclude=unused) if recipe.pruning else None,
        "distillation": recipe.distillation.model_dump(mode="json", exclude={"cache_bytes"})
        if recipe.distillation and trained
        else None,
    }


def _without_shape(recipe: Recipe) -> Recipe:
    """Return the recipe for a squeezed network, which has the student's shape already."""
    return recipe.model_copy(update={"student": recipe.student.model_copy(update=dict.fromkeys(SHAPE))})
