"""Rows without labels, from the files of users."""

from pathlib import Path

import pytest

from sparserve.models.data.dataset import UNLABELED, Dataset
from sparserve.models.data.loading import load_dataset
from sparserve.models.data.unlabeled import load_unlabeled
from sparserve.models.errors import DataError
from tests.support.models.labelled import csv_text, rows, write


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load_dataset(write(tmp_path / "data.csv", csv_text(rows())))


def test_load_unlabeled_drops_texts_of_the_labelled_data_and_says_so(dataset: Dataset, tmp_path: Path) -> None:
    texts = [
        dataset.test.texts[0].upper(),
        f" {dataset.validation.texts[0]} ",
        dataset.train.texts[0],
        "new",
        "NEW",
        "",
    ]
    path = write(tmp_path / "more.csv", csv_text([{"id": i, "text": text} for i, text in enumerate([*texts, "other"])]))
    unlabeled = load_unlabeled(path, dataset)
    assert unlabeled.split.texts == ["new", "other"]
    assert list(unlabeled.split.labels) == [UNLABELED, UNLABELED]
    assert set(unlabeled.dropped.values()) == {1}
    lines = "\n".join(unlabeled.lines())
    assert "more.csv: 2 rows" in lines
    for reason in ("test split", "validation split", "training split", "an earlier row", "empty text"):
        assert reason in lines


def test_load_unlabeled_reads_a_file_of_lines(dataset: Dataset, tmp_path: Path) -> None:
    lines = [f"A sentence, with a comma{'s, and more' * (i % 3)}: {i}" for i in range(30)]
    unlabeled = load_unlabeled(write(tmp_path / "lines.txt", "\n".join(lines)), dataset)
    assert unlabeled.split.texts == lines


def test_load_unlabeled_takes_the_columns_of_the_data(tmp_path: Path) -> None:
    items = [{"first": row["text"], "second": f"other {row['text']}", "label": row["label"]} for row in rows()]
    names = {"text_column": "first", "text_pair_column": "second"}
    dataset = load_dataset(write(tmp_path / "pairs.csv", csv_text(items)), **names)
    more = [{"noise": f"a long text of words {i}", "second": f"b {i}", "first": f"a {i}"} for i in range(3)]
    unlabeled = load_unlabeled(write(tmp_path / "more.csv", csv_text(more)), dataset, **names)
    assert unlabeled.split.texts == ["a 0", "a 1", "a 2"]
    assert unlabeled.split.text_pairs == ["b 0", "b 1", "b 2"]
    single = write(tmp_path / "single.csv", csv_text([{"first": f"a text {i}"} for i in range(3)]))
    with pytest.raises(DataError, match="has no second text"):
        load_unlabeled(single, dataset, **names)


def test_load_unlabeled_refuses_a_file_without_new_texts(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no usable unlabelled row .*text of the test split"):
        load_unlabeled(tmp_path / "data.csv", dataset)


def test_load_unlabeled_has_a_target_of_every_label(tmp_path: Path) -> None:
    items = [{"text": row["text"], "toxic": i % 2, "rude": i % 3 // 2} for i, row in enumerate(rows())]
    dataset = load_dataset(write(tmp_path / "several.csv", csv_text(items)))
    unlabeled = load_unlabeled(write(tmp_path / "more.csv", "text\nnew text\n"), dataset)
    assert unlabeled.split.labels == [[UNLABELED, UNLABELED]]


def test_load_unlabeled_reads_shards_of_lines(dataset: Dataset, tmp_path: Path) -> None:
    for shard in (1, 2):
        write(tmp_path / "corpus" / f"texts-{shard}.txt", f"One, of shard {shard}\nTwo, or more, of shard {shard}\n")
    unlabeled = load_unlabeled(tmp_path / "corpus", dataset)
    assert len(unlabeled.split) == 4 and unlabeled.split.texts[0] == "One, of shard 1"
