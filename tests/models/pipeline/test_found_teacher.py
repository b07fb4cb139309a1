"""`sparserve compress` with `teacher: auto`, the default of most recipes, from the trials to the report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sparserve.cli import app
from sparserve.models.bundle.store import Store
from sparserve.models.training.tuning import rules
from sparserve.models.training.tuning.held_out import held_out_figures

pytestmark = pytest.mark.thorough
FIELDS = {"teacher": "auto", "student.epochs": 1, "measurement.seconds": 0.1, "quantization.enabled": False}


class Killed(BaseException):
    """Simulates kill -9: nothing catches it."""


def test_compress_finds_the_training_of_the_teacher_and_resumes_its_trials(
    compress_tiny: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "TRIAL_STEPS", (3, 3))
    monkeypatch.setattr(rules, "MAX_EPOCHS", 2)
    measured: list[int] = []

    def count(*arguments: Any, **options: Any) -> Any:
        measured.append(1)
        if len(measured) == stop:
            raise Killed
        return held_out_figures(*arguments, **options)

    monkeypatch.setattr("sparserve.models.training.tuning.teacher_trials.held_out_figures", count)
    changes = [part for field, value in FIELDS.items() for part in ("--set", f"{field}={json.dumps(value)}")]

    def compress(name: str) -> str:
        measured.clear()
        result = CliRunner().invoke(app, compress_tiny(tmp_path / name, *changes), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    stop = 0
    output = compress("whole")
    assert len(measured) == 6
    assert output.count("validation loss after") == 2 and "teacher: learning rate" in output
    stop = 3
    with pytest.raises(Killed):
        compress("killed")
    stop = 0
    compress("killed")
    assert len(measured) == 4  # two trials were finished
    whole, killed = Store(tmp_path / "whole"), Store(tmp_path / "killed")
    for variant in whole.variants("tiny"):
        assert killed.versions("tiny", variant) == whole.versions("tiny", variant)
    course = killed.open("tiny", "dense").manifest.teacher_training
    assert course is not None and [trial.steps for trial in course.settings.trials] == [3] * 4 + [6] * 2
    assert course == whole.open("tiny", "dense").manifest.teacher_training
    assert killed.report_path("tiny", "html").is_file()
