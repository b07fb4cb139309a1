"""Matching of a teacher's logits to the labels of the data."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.data.loading import load_dataset
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.errors import CheckpointError
from sparserve.models.pipeline.preflight import check_teacher


@pytest.fixture
def order(tmp_path: Path, tiny_checkpoint: Path) -> Any:
    """Return a function that gives the label names in the order of a teacher's logits."""

    def check(predicted: Any, data: Any) -> Any:
        config = json.loads((tiny_checkpoint / "config.json").read_text())
        config["id2label"] = dict(enumerate(predicted))
        config["label2id"] = {name: index for index, name in enumerate(predicted)}
        (tmp_path / "config.json").write_text(json.dumps(config))
        lines = [f"text number {i},{data[i % len(data)]}" for i in range(30)]
        (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]))
        return check_teacher(Checkpoint(tmp_path, "teacher", "bert", "0"), load_dataset(tmp_path / "rows.csv"))

    return check


def test_check_teacher_uses_teacher_order_and_data_spelling(order: Any) -> None:
    assert order(["positive", "negative"], ["negative", "positive"]) == ("positive", "negative")
    assert order(["POSITIVE", "Negative"], ["negative", "positive"]) == ("positive", "negative")
    assert order(["LABEL_0", "LABEL_1"], ["b", "a"]) == ("a", "b")


def test_check_teacher_distinguishes_case(order: Any) -> None:
    assert order(["us", "US"], ["US", "us"]) == ("us", "US")
    assert order(["us", "US", "them"], ["US", "them", "us"]) == ("us", "US", "them")


@pytest.mark.parametrize(
    ("predicted", "data"),
    [
        (["Us", "US"], ["US", "us"]),
        (["us", "US", "them"], ["us", "them", "Them"]),
        (["us", "US"], ["us", "them"]),
        (["good", "bad"], ["positive", "negative"]),
        (["a", "b", "c"], ["a", "b"]),
    ],
)
def test_check_teacher_rejects_other_labels(order: Any, predicted: Any, data: Any) -> None:
    with pytest.raises(CheckpointError, match=r"the teacher teacher predicts .*, but the data has"):
        order(predicted, data)
