"""Names of tasks, and data that does not belong to the task of its name."""

from pathlib import Path
from typing import Any

import pytest

from sparserve.models.bundle.manifest import Lineage
from sparserve.models.bundle.store import Store
from sparserve.models.data.dataset import Dataset
from sparserve.models.data.loading import load_dataset
from sparserve.models.errors import InputError
from sparserve.models.pipeline.task import check_labels, task_name
from tests.support import tiny_bundles
from tests.support.models.labelled import csv_text, rows, write


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("reviews.csv", "reviews"),
        ("My Reviews (2024).csv", "my-reviews-2024"),
        ("a/train.csv.gz", "train"),
        ("train-00000-of-00003.parquet", "train"),
        ("data/train-*.parquet", "train"),
        ("reseñas.csv", "resenas"),
        ("hub:owner/imdb", "imdb"),
        ("owner/imdb-v1.1", "imdb-v1-1"),
        ("movie-sentences", "movie-sentiment"),
    ],
)
def test_task_name_follows_from_the_data(data: str, name: str) -> None:
    assert task_name(data, None) == name
    assert task_name(data, "mine") == "mine"


def test_task_name_of_a_folder_is_its_whole_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("reviews.2023", "reviews.2024"):
        (tmp_path / name).mkdir()
    assert task_name(str(tmp_path / "reviews.2024"), None) == "reviews-2024"
    assert task_name(str(tmp_path / "reviews.2023" / "*.csv"), None) == "reviews-2023"
    monkeypatch.chdir(tmp_path / "reviews.2023")
    assert task_name(".", None) == "reviews-2023"


@pytest.mark.parametrize(
    "data", ["отзывы.csv", "отзывы-2024.csv", "レビュー.csv", "评论/train.csv", "!!!.csv", "_.csv"]
)
def test_task_name_asks_for_a_name_that_cannot_be_spelled(data: str) -> None:
    if data.startswith("评论"):
        assert task_name(data, None) == "train"
        return
    with pytest.raises(InputError, match="name the task with --task"):
        task_name(data, None)
    assert task_name(data, "mine") == "mine"


def dataset(tmp_path: Path, yes: str = "positive", no: str = "negative", count: int = 40) -> Dataset:
    items = [{"text": row["text"], "label": yes if row["label"] == "yes" else no} for row in rows(count)]
    return load_dataset(write(tmp_path / "train.csv", csv_text(items)))


def published(tmp_path: Path, **changes: Any) -> Store:
    store = Store(tmp_path / "store")
    tiny_bundles.publish(store, "train", labels=("negative", "positive"), **changes)
    return store


def lineage(digest: str) -> Lineage:
    fields: dict[str, Any] = {"base_checkpoint": "tiny", "base_digest": "0" * 64, "seed": 0, "libraries": {}}
    return Lineage(**fields, data_source="a/train.csv", data_digest=digest)


def test_check_labels_passes_the_same_data_and_a_new_task(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    store = published(tmp_path, lineage=lineage(data.digest))
    assert check_labels(store, "train", data, replace_labels=False) == []
    assert check_labels(store, "another", dataset(tmp_path, "up", "down"), replace_labels=False) == []


def test_check_labels_says_that_other_rows_take_the_name(tmp_path: Path) -> None:
    (note,) = check_labels(published(tmp_path), "train", dataset(tmp_path, count=50), replace_labels=False)
    assert "same labels but made of other rows or splits (none)" in note and "--task" in note


def test_check_labels_refuses_other_labels_unless_told(tmp_path: Path) -> None:
    store, data = published(tmp_path), dataset(tmp_path, "up", "down")
    with pytest.raises(
        InputError, match=r"labels negative, positive .*this data has down, up .*--task.*--replace-labels"
    ):
        check_labels(store, "train", data, replace_labels=False)
    (note,) = check_labels(store, "train", data, replace_labels=True)
    assert "are replaced, the others keep theirs" in note


def test_check_labels_refuses_another_kind_of_problem(tmp_path: Path) -> None:
    store = published(tmp_path, problem_type="multi_label_classification")
    with pytest.raises(InputError, match=r"\(multi-label, made of none\).*\(single-label\)"):
        check_labels(store, "train", dataset(tmp_path), replace_labels=False)


def test_check_labels_compares_every_readable_variant(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    store = published(tmp_path, lineage=lineage(data.digest))
    tiny_bundles.publish(store, "train", "sparse90", labels=("down", "up"))
    with pytest.raises(InputError, match="train/sparse90 in"):
        check_labels(store, "train", data, replace_labels=False)
    (store.folder("train", "sparse90") / "manifest.json").write_text("{")
    assert check_labels(store, "train", data, replace_labels=False) == []


def test_check_labels_notes_another_kind_of_input(tmp_path: Path) -> None:
    store, data = Store(tmp_path / "store"), dataset(tmp_path)
    tiny_bundles.publish(store, "movies", inputs="pair")
    first, *_ = check_labels(store, "movies", data, replace_labels=False)
    assert "movies/dense" in first and "was trained on pairs of texts, but this data has single texts" in first
    tiny_bundles.publish(store, "others", inputs="single")
    assert "trained on" not in " ".join(check_labels(store, "others", data, replace_labels=False))
