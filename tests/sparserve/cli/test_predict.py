"""`sparserve predict`: labels for a file of texts."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sparserve.cli import app
from sparserve.models.bundle.store import Store
from tests.support import tiny_bundles
from tests.support.models.labelled import write

TEXTS = "id,text\n1,good film\n2,bad film\n3,\n"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    tiny_bundles.publish(Store(tmp_path / "store"))
    return tmp_path / "store"


def predict(store: Path, *arguments: str | Path) -> Result:
    command = ["predict", tiny_bundles.TASK, "--store", str(store), *map(str, arguments)]
    return CliRunner().invoke(app, command, catch_exceptions=False)


def read(text: str) -> list[Mapping[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_predict_adds_label_and_score(store: Path, tmp_path: Path) -> None:
    result = predict(store, "--data", write(tmp_path / "texts.csv", TEXTS))
    assert result.exit_code == 0, result.output
    rows = read(result.stdout)
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert {row["prediction"] for row in rows[:2]} <= set(tiny_bundles.LABELS)
    assert 0.5 <= float(rows[0]["score"]) <= 1
    assert (rows[2]["prediction"], rows[2]["score"]) == ("", "")
    assert "note: text column: 'text'" in result.stderr


def test_predict_writes_a_file(store: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "texts.jsonl", '{"body": "gut", "n": [1]}\n{"body": "é", "n": null}\n')
    result = predict(store, "--data", data, "--output", tmp_path / "out.csv", "--text-column", "body")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "out.csv: 2 rows labelled by" in result.stderr
    rows = read((tmp_path / "out.csv").read_text(encoding="utf-8"))
    assert [(row["body"], row["n"]) for row in rows] == [("gut", "[1]"), ("é", "")]


def test_predict_answers_long_texts_in_windows(store: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "long.csv", "text\n" + "good film " * 20 + "bad " * 40 + "\n")
    cut, windows = (read(predict(store, "--data", data, *more).stdout)[0] for more in ([], ["--overlong", "windows"]))
    assert cut["score"] != windows["score"]
    for value, message in (("error", "more than the 16 tokens"), ("cut", "overlong 'cut' is unknown: choose truncate")):
        refused = predict(store, "--data", data, "--overlong", value)
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_predict_scores_every_label_of_a_multi_label_task(tmp_path: Path) -> None:
    tiny_bundles.publish(Store(tmp_path / "store"), problem_type="multi_label_classification")
    (first, *_) = read(predict(tmp_path / "store", "--data", write(tmp_path / "a.csv", TEXTS)).stdout)
    scores = {label: float(first[f"score {label}"]) for label in tiny_bundles.LABELS}
    assert first["prediction"] == "|".join(label for label, score in scores.items() if score >= 0.5)


@pytest.mark.parametrize(
    ("content", "options", "code", "message"),
    [
        (TEXTS, ["--variant", "none"], 3, "has no variant 'none'"),
        (TEXTS, ["--text-column", "nothing"], 2, "no column 'nothing'"),
        ("text,prediction\na b,c\n", [], 2, "has a column 'prediction', which the output adds. Rename it."),
        ("a", ["--delimiter", "::"], 2, "give one character"),
    ],
)
def test_predict_refuses_wrong_input(
    store: Path, tmp_path: Path, content: str, options: list[str], code: int, message: str
) -> None:
    result = predict(store, "--data", write(tmp_path / "texts.csv", content), *options)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())
    assert predict(store, "--data", tmp_path / "missing.csv").exit_code == 2


def test_predict_needs_no_extra(store: Path, tmp_path: Path) -> None:
    extras = ("torch", "transformers", "sklearn", "scipy", "pyarrow", "yaml", "jinja2")
    arguments = ["predict", tiny_bundles.TASK, "--store", str(store), "--data"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({extras!r})); from sparserve.cli import main; "
        f"sys.argv = ['sparserve', *{arguments!r}, sys.argv[1]]; main()"
    )
    texts = [str(write(tmp_path / "texts.json", json.dumps([{"text": "good"}]))), str(tmp_path / "a.parquet")]
    write(tmp_path / "a.parquet", b"PAR1")
    done = [subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True) for path in texts]
    assert done[0].returncode == 0, done[0].stderr
    assert done[1].returncode == 4 and 'needs pyarrow, which is not installed. Run: pip install "spa' in done[1].stderr
