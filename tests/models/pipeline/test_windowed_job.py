"""A job that trains and evaluates with windows of long texts: its figures are those of the bundles' own answers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparserve.classifier import Classifier
from sparserve.cli import app
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.windows import LongTexts
from sparserve.models.data.loading import load_dataset

pytestmark = [pytest.mark.thorough, pytest.mark.usefixtures("no_memory_processes")]
FIELDS = {
    "max_length": 8,
    "long_texts": {"overlong": "windows", "stride": 2, "aggregate": "max"},
    "teacher.epochs": 1,
    "student.epochs": 1,
    "distillation": None,
    "quantization.enabled": False,
    "measurement.seconds": 0.1,
}


def test_job_with_windows_publishes_the_figures_of_its_bundles(
    tmp_path: Path, compress_tiny: Callable[..., list[str]], sentiment_csv: Path
) -> None:
    changes = [part for field, value in FIELDS.items() for part in ("--set", f"{field}={json.dumps(value)}")]
    result = CliRunner().invoke(app, compress_tiny(tmp_path / "store", *changes), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    store, test = Store(tmp_path / "store"), load_dataset(sentiment_csv).test
    manifest = store.open("tiny", "dense").manifest
    assert manifest.long_texts == LongTexts(overlong="windows", stride=2, aggregate="max")
    assert manifest.evaluation is not None
    classify = Classifier.load(store, "tiny", "dense", runtime="onnx", threads=1)
    answers = [one.label for one in classify(test.texts)]
    right = [label == manifest.labels[row] for label, row in zip(answers, test.labels, strict=True)]
    assert manifest.evaluation.accuracy.value == pytest.approx(sum(right) / len(right))
    with pytest.raises(Exception, match="more than the 8 tokens"):
        classify(test.texts, overlong="error")
    card = (store.open("tiny", "sparse60").folder / "README.md").read_text(encoding="utf-8")
    assert "Texts longer than 8 tokens are answered in windows" in card
