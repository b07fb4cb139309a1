"""Teacher outputs: all that the teacher says about the training rows, stored for the student."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparserve.models.data.tokenization import TokenizedSplit
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.stages.augmentation import copies_of_training_rows, student_rows
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.recipes.schema import Distillation
from sparserve.models.training.student import required_outputs
from sparserve.models.training.teacher import cache_teacher
from sparserve.models.training.teacher_outputs import cache_bytes

# Raised when a change of the code makes another result of the same inputs.
REVISION = 1


def teacher_outputs_fit(job: Job) -> bool:
    """Return True if the student learns from a teacher whose outputs may be stored. Tokenises the training rows."""
    distillation = job.recipe.distillation
    if distillation is None or not job.recipe.student.epochs:
        return False
    config: Any = job.teacher_or_checkpoint.config

    def needed(rows: TokenizedSplit) -> int:
        return cache_bytes(
            rows,
            required_outputs(distillation),
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
        )

    total = needed(job.rows(job.checkpoint).train) * copies_of_training_rows(job)
    if (unlabeled := job.unlabeled_rows(job.checkpoint)) is not None:
        total += needed(unlabeled)
    return total <= distillation.cache_bytes


def teacher_outputs_step(
    job: Job, distillation: Distillation, rows: Mapping[str, Any], teacher: Step, augmentation: Step | None
) -> Step:
    """Return the step that stores the teacher's outputs. `rows` are the inputs that decide the training rows."""
    wanted = required_outputs(distillation)

    def build(folder: Path, context: Context) -> None:
        cache_teacher(
            folder,
            teacher=context.checkpoint(teacher, job.teacher_or_checkpoint.name),
            rows=student_rows(job, job.teacher_or_checkpoint, augmentation, context),
            wanted=wanted,
            progress=context.progress,
        )

    inputs = {
        **rows,
        "teacher": teacher.key,
        "wanted": {"hidden": wanted.hidden, "attention": wanted.attention},
        "revision": [REVISION, 0],
    }
    needs = (teacher, augmentation) if augmentation else (teacher,)
    copies = copies_of_training_rows(job)
    return Step("teacher outputs", inputs, build, lambda costs: costs.forward(costs.student(copies)), needs)
