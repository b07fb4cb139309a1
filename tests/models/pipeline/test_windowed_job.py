"""A job that trains and evaluates with windows of long texts: its figures are those of the bundles' own answers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from sparserve.classifier import Classifier
from sparserve.cli import app
from sparserve.models.bundle.inference import probabilities
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.windows import LongTexts
from sparserve.models.data.loading import load_dataset
from sparserve.models.pipeline.stages.prediction import read_logits
from sparserve.models.pipeline.step_cache import KEY_LENGTH
from sparserve.service.app import create_app
from sparserve.service.settings import Settings
from tests.conftest import BAD, FILLER, GOOD

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


@pytest.fixture
def late_words(tmp_path: Path) -> Path:
    """Reviews whose first window is the same for both labels: the deciding word is in a later one."""
    path = tmp_path / "late.csv"
    lines = ["text,label"]
    for row in range(120):
        words = GOOD if row % 2 else BAD
        filler = " ".join(FILLER[(row // 2 * step) % len(FILLER)] for step in (1, 7, 4, 2, 11, 13))
        late = " ".join(FILLER[(row // 2 + offset) % len(FILLER)] for offset in range(row // 30))
        lines.append(f"{filler} {late} {words[row // 2 % 5]},{'positive' if row % 2 else 'negative'}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_job_with_windows_answers_as_the_bundle_and_the_service(
    tmp_path: Path, compress_tiny: Callable[..., list[str]], late_words: Path
) -> None:
    changes = [part for field, value in FIELDS.items() for part in ("--set", f"{field}={json.dumps(value)}")]
    command = compress_tiny(tmp_path / "store", "--data", str(late_words), *changes)
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    store, test = Store(tmp_path / "store"), load_dataset(late_words).test
    manifest = store.open("tiny", "dense").manifest
    assert manifest.long_texts == LongTexts(overlong="windows", stride=2, aggregate="max")
    (folder,) = (store.root / ".work" / "steps").glob(f"predict-dense-{'?' * KEY_LENGTH}")
    logits = read_logits(folder)
    expected = probabilities(logits, manifest.problem_type)
    assert manifest.evaluation is not None
    assert manifest.evaluation.accuracy.value == pytest.approx(np.mean(logits.argmax(axis=1) == test.labels))

    classify = Classifier.load(store, "tiny", "dense", runtime="onnx", threads=1)

    def scores(texts: Sequence[str], **options: Any) -> Any:
        answers = [{one.label: one.score for one in row} for row in classify(texts, top_k=2, **options)]
        return np.array([[row[label] for label in manifest.labels] for row in answers])

    np.testing.assert_allclose(scores(test.texts), expected, atol=1e-5)
    service = create_app(Settings(store=store.root, threads=1, runtime="onnx"))
    with TestClient(service) as client:
        assert client.portal
        client.portal.call(service.state.service.loaded)
        body = {"inputs": list(test.texts), "top_k": None}
        predictions = client.post("/v1/models/tiny/dense/classify", json=body).json()["predictions"]
    served = [{one["label"]: one["score"] for one in row} for row in predictions]
    np.testing.assert_allclose([[row[label] for label in manifest.labels] for row in served], expected, atol=1e-5)

    # Only a later window tells good from bad.
    other = [
        text.rsplit(" ", 1)[0] + f" {BAD[0] if text.rsplit(' ', 1)[1] in GOOD else GOOD[0]}" for text in test.texts
    ]
    np.testing.assert_array_equal(scores(test.texts, overlong="truncate"), scores(other, overlong="truncate"))
    assert np.abs(scores(other) - expected).max(axis=1).min() > 1e-4
    with pytest.raises(Exception, match="more than the 8 tokens"):
        classify(test.texts, overlong="error")
    card = (store.open("tiny", "sparse60").folder / "README.md").read_text(encoding="utf-8")
    assert "Texts longer than 8 tokens are answered in windows" in card
