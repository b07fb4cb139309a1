"""`sparserve predict`: labels for a file of texts."""

import csv
import datetime
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow
import pyarrow.parquet
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


def test_predict_numbers_its_columns_where_the_file_has_them(store: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "judged.csv", "text,score,prediction 2\ngood film,7,a\nbad film,3,b\n")
    result = predict(store, "--data", data)
    assert result.exit_code == 0, result.output
    rows = read(result.stdout)
    assert [(row["score"], row["prediction 2"]) for row in rows] == [("7", "a"), ("3", "b")]
    assert rows[0]["prediction 3"] in tiny_bundles.LABELS and 0.5 <= float(rows[0]["score 3"]) <= 1
    assert "has a column 'score', so the output adds 'prediction 3', 'score 3'" in " ".join(result.stderr.split())


def test_predict_reads_lines_of_a_text_file(store: Path, tmp_path: Path) -> None:
    lines = ["a good film, but long", "bad, dull", "the plot, the actor"]
    result = predict(store, "--data", write(tmp_path / "lines.txt", "\r\n".join(lines)))
    assert result.exit_code == 0, result.output
    assert [row["text"] for row in read(result.stdout)] == lines
    assert result.stderr == "note: every line is a text (use --delimiter if the file is a table)\n"
    table = predict(store, "--data", write(tmp_path / "table.txt", TEXTS))
    assert [row["id"] for row in read(table.stdout)] == ["1", "2", "3"]


def test_predict_takes_pairs_as_the_model_was_trained(tmp_path: Path) -> None:
    for inputs in ("single", "pair"):
        tiny_bundles.publish(Store(tmp_path / inputs), inputs=inputs)
    data = write(tmp_path / "pairs.csv", "text,answer\ngood film,a plot\nbad film,a scene\n")
    assert "second text column" not in predict(tmp_path / "single", "--data", data).stderr
    assert "second text column: 'answer'" in predict(tmp_path / "pair", "--data", data).stderr
    alone = ["--data", write(tmp_path / "texts.csv", TEXTS)]
    refused = predict(tmp_path / "pair", *alone)
    assert refused.exit_code == 2
    assert "has no second text, but movie-sentiment was trained on pairs" in " ".join(refused.stderr.split())
    assert predict(tmp_path / "pair", *alone, "--text-pair-column", "").exit_code == 0


@pytest.mark.parametrize(
    ("content", "options", "code", "message"),
    [
        (TEXTS, ["--variant", "none"], 3, "has no variant 'none'"),
        (TEXTS, ["--text-column", "nothing"], 2, "no column 'nothing'"),
        ("a", ["--quote", "::"], 2, "give one character"),
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


def test_predict_writes_the_cells_of_parquet_as_text(store: Path, tmp_path: Path) -> None:
    day = datetime.datetime(2024, 1, 2, 3, 4)
    columns = {"text": [b"good film"], "day": [day], "tags": [["a"]], "share": [float("nan")], "count": [3]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    (row,) = read(predict(store, "--data", tmp_path / "a.parquet").stdout)
    assert [row[name] for name in columns] == ["good film", "2024-01-02 03:04:00", '["a"]', "", "3"]
