"""The student: pruned while it learns from the teacher or from the labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sparserve.models.distributed import everywhere
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.pipeline.estimate import Costs
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.stages.augmentation import copies_of_training_rows, student_rows
from sparserve.models.pipeline.stages.bigger_teacher import target_logits
from sparserve.models.pipeline.stages.squeeze import SHAPE
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.pruning.registry import make_method
from sparserve.models.recipes.schema import ADAPTED, Recipe
from sparserve.models.training.student import StudentInputs, train_student
from sparserve.models.training.tuning.settings import read_settings

# Raised when a change of the code makes another result of the same inputs.
REVISION = 1


@dataclass(frozen=True)
class StudentLesson:
    """The network that a student starts from, and all that it learns from: the results of earlier steps."""

    job: Job
    rows: Mapping[str, Any]
    """The inputs of steps that decide the training rows."""
    teacher: Step
    augmentation: Step | None = None
    teacher_outputs: Step | None = None
    squeeze: Step | None = None
    targets: Step | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe of the training. A squeezed network has the student's shape already."""
        recipe = self.job.recipe
        if self.squeeze is None:
            return recipe
        return recipe.model_copy(update={"student": recipe.student.model_copy(update=dict.fromkeys(SHAPE))})

    @property
    def needs(self) -> tuple[Step, ...]:
        """The steps whose results are read."""
        steps = (self.teacher, self.augmentation, self.teacher_outputs, self.squeeze, self.targets)
        return tuple(step for step in steps if step is not None)

    @property
    def inputs(self) -> dict[str, Any]:
        """The values that decide the student's weights."""
        job, recipe = self.job, self.job.recipe
        learns = recipe.distillation is not None and recipe.student.epochs > 0
        # Stored outputs are computed in float32 and rounded to 16 bits; a live teacher computes in the student's
        # precision.
        live = {"teacher outputs": "live"} if learns and self.teacher_outputs is None else {}
        origin = self.squeeze or (self.teacher if recipe.student.start == "teacher" else None)
        return {
            **self.rows,
            **live,
            **({"targets": self.targets.key} if self.targets else {}),
            "start": origin.key if origin else job.checkpoint.digest,
            "teacher": self.teacher.key if learns else None,
            **_training_inputs(recipe),
        }

    def revision(self, own: int) -> list[int]:
        """Return the revision of a step on this lesson: its own, and that of the pruning method."""
        pruning = self.job.recipe.pruning
        return [own, make_method(pruning).revision if pruning else 0]

    def load(self, context: Context) -> StudentInputs:
        """Return the results of the earlier steps."""
        job = self.job
        teacher = context.checkpoint(self.teacher, job.teacher_or_checkpoint.name)
        rows = student_rows(job, job.start, self.augmentation, context)
        return StudentInputs(
            start=self._start(context, teacher),
            teacher=teacher,
            teacher_cache=context.result(self.teacher_outputs) if self.teacher_outputs else None,
            rows=rows,
            seed=job.seed,
            targets=target_logits(job, self.targets, len(rows.dataset.train), context),
        )

    def seconds(self, costs: Costs, epochs: float, *, validated: bool = True) -> float:
        """Return the expected seconds of a training of so many passes over the rows."""
        passes = 4 if self.job.recipe.distillation is not None and self.teacher_outputs is None else 3
        tokens = costs.student(copies_of_training_rows(self.job))
        return costs.training(epochs, passes=passes, tokens=tokens, validated=validated)

    def _start(self, context: Context, teacher: Checkpoint) -> Checkpoint:
        if self.squeeze is not None:
            return context.checkpoint(self.squeeze, self.job.checkpoint.name)
        return teacher if self.job.recipe.student.start == "teacher" else self.job.checkpoint


def student_step(lesson: StudentLesson, settings: Step | None = None) -> Step:
    """Return the step that trains the student, at the learning rate that a step finds if the recipe has none."""

    def build(folder: Path, context: Context) -> None:
        recipe = lesson.recipe
        if settings is not None:
            rate = read_settings(context.result(settings)).learning_rate
            recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update={"learning_rate": rate})})
        everywhere(partial(train_student, folder, recipe, lesson.load(context)), context.progress)

    inputs = {
        **lesson.inputs,
        **({"settings": settings.key} if settings else {}),
        "revision": lesson.revision(REVISION),
    }
    return Step(
        "student",
        inputs,
        build,
        lambda costs: lesson.seconds(costs, lesson.job.recipe.student.epochs),
        (*lesson.needs, settings) if settings else lesson.needs,
    )


def _training_inputs(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that decide a student's weights, not those for its interruption or storage."""
    trained = recipe.student.epochs > 0
    unused = {"calibration"} if trained else None
    return {
        "training": recipe.student.model_dump(mode="json", exclude={"save_steps", *ADAPTED}),
        "pruning": recipe.pruning.model_dump(mode="json", exclude=unused) if recipe.pruning else None,
        "distillation": recipe.distillation.model_dump(mode="json", exclude={"cache_bytes"})
        if recipe.distillation and trained
        else None,
    }
