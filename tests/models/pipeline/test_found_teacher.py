"""`sparserve compress` with `teacher: auto`, the default of most recipes, from the trials to the report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sparserve.cli import app
from sparserve.models.bundle.store import Store
from sparserve.models.data.loading import load_dataset
from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.training.tuning import rules
from sparserve.models.training.tuning.held_out import held_out_figures
from sparserve.models.training.tuning.settings import read_settings
from sparserve.models.training.tuning.teacher_trials import find_settings

pytestmark = [pytest.mark.thorough, pytest.mark.usefixtures("no_memory_processes")]
FIELDS = {"teacher": "auto", "student.epochs": 1, "measurement.seconds": 0.1, "quantization.enabled": False}


class Killed(BaseException):
    """Simulates kill -9: nothing catches it."""


def test_compress_finds_the_training_of_the_teacher_and_resumes_its_trials(
    compress_tiny: Callable[..., list[str]],
    whole: Checkpoint,
    sentiment_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "TRIAL_STEPS", (3, 3))
    monkeypatch.setattr(rules, "LONGEST_PART", 4)
    monkeypatch.setattr(rules, "MAX_EPOCHS", 2)
    rows = TokenizedDataset(load_dataset(sentiment_csv), whole.tokenizer, 32)
    find_settings(tmp_path, checkpoint=whole, rows=rows, seed=0, progress=lambda *_: None)
    measured: list[int] = []

    def count(*arguments: Any, **options: Any) -> Any:
        measured.append(1)
        if len(measured) == 3:
            raise Killed
        return held_out_figures(*arguments, **options)

    monkeypatch.setattr("sparserve.models.training.tuning.teacher_trials.held_out_figures", count)
    changes = [part for field, value in FIELDS.items() for part in ("--set", f"{field}={json.dumps(value)}")]
    command = compress_tiny(tmp_path / "store", *changes)
    with pytest.raises(Killed):
        CliRunner().invoke(app, command, catch_exceptions=False)
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    trials = read_settings(tmp_path).trials
    assert len(measured) == 3 + len(trials) - 2  # two trials were finished before the kill
    assert result.output.count("validation loss after") == 1 and "teacher: learning rate" in result.output
    store = Store(tmp_path / "store")
    course = store.open("tiny", "dense").manifest.teacher_training
    assert course is not None
    found = course.settings
    assert found.model_copy(update={"trials": ()}) == read_settings(tmp_path).model_copy(update={"trials": ()})
    for one, other in zip(found.trials, trials, strict=True):  # the command may have another number of threads
        assert one.model_copy(update={"loss": None}) == other.model_copy(update={"loss": None})
        assert one.loss == pytest.approx(other.loss, rel=1e-3), "more than the number of threads changes in bf16"
    assert {trial.steps for trial in trials} == {3}
    assert f"the best of {len(trials)} trials" in store.report_path("tiny", "html").read_text(encoding="utf-8")
    assert {"sparse60"} < set(store.variants("tiny"))
