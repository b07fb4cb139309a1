"""Student settings: the learning rate of a student whose recipe leaves it open."""

from functools import partial
from pathlib import Path

from sparserve.models.distributed import everywhere
from sparserve.models.pipeline.estimate import Costs, duration
from sparserve.models.pipeline.stages.augmentation import copies_of_training_rows
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
    student, rows = lesson.job.recipe.student, lesson.job.row_count("train") * copies_of_training_rows(lesson.job)
    steps_per_epoch = max(round(rows / student.batch_size), 1)
    epochs = rules.trial_steps(round(student.epochs * steps_per_epoch)) / steps_per_epoch
    judged = min(VALIDATION_ROWS / max(lesson.job.row_count("validation"), 1), 1.0) * costs.validation
    trained = lesson.seconds(costs, epochs) - costs.forward(costs.validation)  # it has no scores
    return trials * (trained + costs.forward(round(judged)))


def student_search_line(lesson: StudentLesson, costs: Costs) -> str:
    """Return a sentence on the search and the time that it may take."""
    recipe, job = lesson.job.recipe, lesson.job
    return (
        f"The student finds its learning rate: up to {rules.MOST_TRIALS} trials of a tenth to a fifth of its steps "
        f"around {first_rate(recipe, job.start.hidden_size):g}, compared by {judged_by(recipe)} (at most "
        f"{duration(trial_seconds(lesson, costs, rules.MOST_TRIALS))}); none if it has few steps"
    )
