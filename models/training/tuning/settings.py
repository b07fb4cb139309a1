"""Found settings of a training: their file, the trials that decided, and lines for the user."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from sparserve.models.bundle.manifest import LearningRateTrial, TrainingSettings
from sparserve.models.distributed import is_main
from sparserve.models.files import write_atomically
from sparserve.models.training.tuning.climbing import Trial

SETTINGS = "settings.json"
TRIALS = "trials"  # folder with the states and the records of unfinished trials


def recorded(trials: Sequence[Trial]) -> tuple[LearningRateTrial, ...]:
    """Return the record of trials of learning rates."""
    return tuple(
        LearningRateTrial(
            learning_rate=trial.candidate, steps=trial.steps, loss=trial.loss if math.isfinite(trial.loss) else None
        )
        for trial in trials
    )


def write_settings(folder: Path, settings: TrainingSettings) -> None:
    """Write settings that were found, and remove the states of the trials."""
    if is_main():
        write_atomically(folder / SETTINGS, settings.model_dump_json(indent=1) + "\n")
        shutil.rmtree(folder / TRIALS, ignore_errors=True)


def read_settings(folder: Path) -> TrainingSettings:
    """Return the settings that `write_settings` wrote."""
    return TrainingSettings.model_validate_json((folder / SETTINGS).read_bytes())


def trial_lines(trials: Sequence[LearningRateTrial], measured: str) -> list[str]:
    """Return one line for each number of steps: the figures of the trials by learning rate, lowest rate first."""
    lines = []
    for steps in sorted({trial.steps for trial in trials}):
        losses = ", ".join(
            f"{trial.learning_rate:g}: {'diverged' if trial.loss is None else f'{trial.loss:.3f}'}"
            for trial in sorted(trials, key=lambda trial: trial.learning_rate)
            if trial.steps == steps
        )
        lines.append(f"  {measured} after {steps} steps by learning rate: {losses}")
    return lines
