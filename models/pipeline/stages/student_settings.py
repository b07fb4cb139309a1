"""Student settings: the learning rate of a student whose recipe leaves it open."""

import math
from functools import partial
from pathlib import Path

from sparserve.models.distributed import everywhere
from sparserve.models.pipeline.estimate import Costs, duration
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.stages.augmentation import student_row_count
from sparserve.models.pipeline.stages.student import StudentLesson
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.training.tuning import rules
from sparserve.models.training.tuning.settings import read_settings
from sparserve.models.training.tuning.student_trials import (
    VALIDATION_ROWS,
    find_learning_rate,
    first_rate,
    judged_by,
    learning_rate_lines,
)

# Raised when a change of the code makes another result of the same inputs.
REVISION = 2


def student_settings_step(lesson: StudentLesson) -> Step:
    """Return the step that finds the student's learning rate by trials."""

    def build(folder: Path, context: Context) -> None:
        recipe = lesson.recipe
        everywhere(partial(find_learning_rate, folder, recipe, lesson.load(context)), context.progress)
        for line in learning_rate_lines(read_settings(folder), recipe):
            context.reporter.say(line)

    def estimate(costs: Costs) -> float:
        return trial_seconds(lesson, costs, rules.USUAL_TRIALS)

    inputs = {**lesson.inputs, "revision": lesson.revision(REVISION)}
    return Step("student settings", inputs, build, estimate, lesson.needs)


def trial_seconds(lesson: StudentLesson, costs: Costs, trials: int) -> float:
    """Return the expected seconds of so many trials."""
    steps, steps_per_epoch = _trial_steps(lesson.job)
    if not steps:
        return 0.0
    judged = min(VALIDATION_ROWS / max(lesson.job.row_count("validation"), 1), 1.0) * costs.validation
    trained = lesson.seconds(costs, steps / steps_per_epoch, validated=False)
    return trials * (trained + costs.forward(round(judged)))


def _trial_steps(job: Job) -> tuple[int, int]:
    """Return the steps of a trial, 0 if there are none, and those of an epoch."""
    student = job.recipe.student
    steps_per_epoch = math.ceil(student_row_count(job) / student.batch_size)
    return rules.trial_steps(round(student.epochs * steps_per_epoch)), steps_per_epoch


def student_search_line(lesson: StudentLesson, costs: Costs) -> str:
    """Return a sentence on the search and the time that it may take."""
    recipe, job = lesson.job.recipe, lesson.job
    rate = f"{first_rate(recipe, job.start.hidden_size):g}"
    steps, _ = _trial_steps(job)
    if not steps:
        return f"The student has the learning rate {rate}, without trials, as it has few steps"
    return (
        f"The student finds its learning rate: up to {rules.MOST_TRIALS} trials of {steps} steps around {rate}, "
        f"compared by {judged_by(recipe)} (at most {duration(trial_seconds(lesson, costs, rules.MOST_TRIALS))})"
    )
