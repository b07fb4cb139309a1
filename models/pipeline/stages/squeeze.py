"""The squeeze: whole units leave the network that the student starts from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.pruning.registry import make_unit_method
from sparserve.models.recipes.schema import Squeeze
from sparserve.models.training.student import squeeze_student

# Raised when a change of the code makes another result of the same inputs.
REVISION = 1
SECONDS = 90.0
SHAPE = ("layers", "hidden_size", "intermediate_size", "heads")


def squeeze_step(job: Job, squeeze: Squeeze, common: Mapping[str, Any], teacher: Step) -> Step:
    """Return the step that squeezes the start network, shrunk to the student's shape first."""
    from_teacher = job.recipe.student.start == "teacher"

    def build(folder: Path, context: Context) -> None:
        squeeze_student(
            folder,
            recipe=job.recipe,
            squeeze=squeeze,
            start=context.checkpoint(teacher, job.teacher_or_checkpoint.name) if from_teacher else job.checkpoint,
            rows=job.rows(job.start),
            seed=job.seed,
            progress=context.progress,
        )

    inputs = {
        **common,
        "start": teacher.key if from_teacher else job.checkpoint.digest,
        "shape": {name: getattr(job.recipe.student, name) for name in SHAPE},
        "squeeze": squeeze,
        "revision": [REVISION, make_unit_method(squeeze).revision],
    }
    return Step("squeeze", inputs, build, lambda costs: SECONDS, (teacher,))
