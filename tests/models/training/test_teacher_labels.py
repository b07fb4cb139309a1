"""`models.fit.check_teacher`: which of a teacher's logits is which of the data's labels."""

import json

import pytest

from sparserve.models.data.loading import load_dataset
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.errors import CheckpointError
from sparserve.models.pipeline.preflight import check_teacher


@pytest.fixture
def order(tmp_path, tiny_checkpoint):
    """Label names in the order of the logits of a teacher of these names."""

    def check(predicted, data):
        config = json.loads((tiny_checkpoint / "config.json").read_text())
        config["id2label"] = dict(enumerate(predicted))
        config["label2id"] = {name: index for index, name in enumerate(predicted)}
        (tmp_path / "config.json").write_text(json.dumps(config))
        lines = [f"text number {i},{data[i % len(data)]}" for i in range(30)]
        (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]))
        return check_teacher(Checkpoint(tmp_path, "teacher", "bert", "0"), load_dataset(tmp_path / "rows.csv"))

    return check


def test_the_order_is_the_teachers_and_the_spelling_the_datas(order):
    assert order(["positive", "negative"], ["negative", "positive"]) == ("positive", "negative")
    assert order(["POSITIVE", "Negative"], ["negative", "positive"]) == ("positive", "negative")
    assert order(["LABEL_0", "LABEL_1"], ["b", "a"]) == ("a", "b")


def test_labels_that_differ_in_case_only_are_told_apart(order):
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
def test_other_labels_are_refused(order, predicted, data):
    with pytest.raises(CheckpointError, match=r"the teacher teacher predicts .*, but the data has"):
        order(predicted, data)
