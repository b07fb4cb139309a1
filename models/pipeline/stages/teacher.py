"""The dense teacher: the network that was given, or the checkpoint fine-tuned on the job's rows."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sparserve.models.distributed import everywhere
from sparserve.models.encoders.checkpoint import Checkpoint, adopt
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.training.teacher import train_teacher

# Raised when a change of the code makes another result of the same inputs.
REVISION = 1
COPY_SECONDS = 1.0


def teacher_step(job: Job, common: Mapping[str, Any]) -> Step:
    """Return the step that makes the dense teacher."""
    if job.teacher is not None:
        return _given_teacher_step(job.teacher, common)
    training = job.recipe.teacher

    def build(folder: Path, context: Context) -> None:
        work = partial(
            train_teacher,
            folder,
            checkpoint=job.checkpoint,
            rows=job.rows(job.checkpoint),
            training=training,
            seed=job.seed,
        )
        everywhere(work, context.progress)

    inputs = {
        **common,
        "checkpoint": job.checkpoint.digest,
        "training": training.model_dump(mode="json", exclude={"save_steps"}),
        "revision": [REVISION, 0],
    }
    return Step("teacher", inputs, build, lambda costs: costs.training(training.epochs, passes=3))


def _given_teacher_step(teacher: Checkpoint, common: Mapping[str, Any]) -> Step:
    def build(folder: Path, context: Context) -> None:
        adopt(folder, teacher)

    inputs = {"given": teacher.digest, "name": teacher.name, "libraries": common["libraries"]}
    return Step("given teacher", inputs, build, lambda costs: COPY_SECONDS)
