"""Matching of a teacher's logits to the labels of the data."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.loading import load_dataset
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.errors import CheckpointError
from sparserve.models.training.teacher import assumptions, check_teacher


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


def test_check_teacher_with_one_score(order: Any) -> None:
    measurements = [row / 7 for row in range(30)]
    assert order(["LABEL_0"], measurements) == ("score",)
    with pytest.raises(CheckpointError, match="was fine-tuned for 2 labels, but the data has one number for each row"):
        order(["negative", "positive"], measurements)


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


@pytest.mark.parametrize(
    ("predicted", "data", "options"),
    [
        (["NEGATIVE", "POSITIVE"], ["neg", "pos"], "--label-map neg=NEGATIVE --label-map pos=POSITIVE"),
        (["POSITIVE", "NEGATIVE"], ["neg", "pos"], "--label-map neg=NEGATIVE --label-map pos=POSITIVE"),
        (["NEGATIVE", "POSITIVE"], ["0", "1"], "--label-map 0=NEGATIVE --label-map 1=POSITIVE"),
        (["ham", "spam"], ["LABEL_0", "LABEL_1"], "--label-map LABEL_0=ham --label-map LABEL_1=spam"),
        (["very_good", "so-so"], ["So so", "Very good"], "--label-map 'So so=so-so' --label-map 'Very good=very_good'"),
        (["1 star", "2 stars"], ["1", "2"], "--label-map '1=1 star' --label-map '2=2 stars'"),
    ],
)
def test_check_teacher_offers_the_likely_renaming(order: Any, predicted: Any, data: Any, options: str) -> None:
    with pytest.raises(CheckpointError, match=f"if they mean the same, .* add {options}; else give it as --model"):
        order(predicted, data)


@pytest.mark.parametrize(
    ("predicted", "data", "message"),
    [
        (
            ["good", "bad"],
            ["yes", "no"],
            r"--label-map OLD=NEW for each, such as --label-map no=good if those two mean",
        ),
        (["post", "poster"], ["pos", "x"], "--label-map OLD=NEW"),
        (["a", "b", "c"], ["a", "b"], "3 labels and 2 cannot be matched; give it as --model"),
    ],
)
def test_check_teacher_names_a_way_out(order: Any, predicted: Any, data: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        order(predicted, data)


def test_check_teacher_takes_numbers_for_names_that_are_missing(order: Any) -> None:
    assert order(["0", "1"], ["b", "a"]) == ("a", "b")


@pytest.fixture
def teacher(tmp_path: Path, tiny_checkpoint: Path) -> Any:
    """Return a maker of a teacher of two labels with a problem type."""

    def make(problem_type: str | None, labels: Any = ("a", "b")) -> Checkpoint:
        config = json.loads((tiny_checkpoint / "config.json").read_text())
        names = {index: name for index, name in enumerate(labels)}
        (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": names, "problem_type": problem_type}))
        return Checkpoint(tmp_path, "teacher", "bert", "0")

    return make


@pytest.fixture(params=[False, True])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """Data with the labels a and b, one or several a text."""
    lines = [f"text number {row},{int(row % 2)},{int(row % 3 == 0)}" for row in range(30)]
    if not request.param:
        lines = [f"text number {row},{'ab'[row % 2]}" for row in range(30)]
    header = "text,a,b" if request.param else "text,label"
    (tmp_path / "rows.csv").write_text("\n".join([header, *lines]))
    return load_dataset(tmp_path / "rows.csv")


def test_check_teacher_compares_problem_types(teacher: Any, dataset: Dataset) -> None:
    single, multi = "single_label_classification", "multi_label_classification"
    assert check_teacher(teacher(dataset.problem_type), dataset) == ("a", "b")
    message = r"one label per text \(softmax\), but" if dataset.multi_label else r"several labels per text .*, but"
    with pytest.raises(CheckpointError, match=message):
        check_teacher(teacher(single if dataset.multi_label else multi), dataset)
    for regression in (teacher("regression"), teacher(None, ("a",))):
        with pytest.raises(CheckpointError, match="predicts one number"):
            check_teacher(regression, dataset)


def test_assumptions_mention_a_problem_type_that_is_missing(teacher: Any, dataset: Dataset) -> None:
    notes = assumptions(teacher(None), dataset)
    assert bool(notes) is dataset.multi_label
    assert not notes or "each of its logits goes through a sigmoid" in notes[0]
    assert assumptions(teacher(dataset.problem_type), dataset) == []
    assert "LABEL_0 for a, LABEL_1 for b" in assumptions(teacher(None, ("LABEL_0", "LABEL_1")), dataset)[0]
