"""Files of splits, as people and hubs name them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from sparserve.models.data.sources.split_files import find_splits, read_files
from sparserve.models.data.tables.table import ReadOptions
from sparserve.models.errors import DataError
from tests.support.models.labelled import csv_text, rows, write

CSV = csv_text(rows())


def made(folder: Path, *names: str) -> Path:
    for name in names:
        write(folder / name, CSV)
    return folder


def found(source: Path | str, root: Path) -> dict[str, list[str]]:
    splits, _ = find_splits(str(source))
    return {split: [str(path.relative_to(root)) for path in paths] for split, paths in splits.items()}


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["train.csv", "test.csv"], ["train.csv"], ["test.csv"]),
        (["Train.CSV", "TEST.tsv.gz"], ["Train.CSV"], ["TEST.tsv.gz"]),
        (
            ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"],
            ["train-00000-of-00001.parquet"],
            ["test-00000-of-00001.parquet"],
        ),
        (
            [
                "data/train-00001-of-00002.parquet",
                "data/train-00000-of-00002.parquet",
                "data/test-0.parquet",
                "README.md",
            ],
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            ["data/test-0.parquet"],
        ),
        (
            ["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"],
            ["train/0000.parquet", "train/0001.parquet"],
            ["test/0000.parquet"],
        ),
        (
            [
                "train/data-00000-of-00001.arrow",
                "train/state.json",
                "test/data-00000-of-00001.arrow",
                "dataset_dict.json",
            ],
            ["train/data-00000-of-00001.arrow"],
            ["test/data-00000-of-00001.arrow"],
        ),
        (["part-10.csv", "part-9.csv"], ["part-9.csv", "part-10.csv"], []),
        (["imdb_train.csv", "imdb_test.csv"], ["imdb_train.csv"], ["imdb_test.csv"]),
        (["reviews.csv", "LICENSE.txt", "labels.json"], ["reviews.csv"], []),
        (["data/train/a.csv", "data/test/a.csv"], ["data/train/a.csv"], ["data/test/a.csv"]),
        (["train.csv", "train_old.csv", ".train.csv.swp"], ["train.csv"], []),
    ],
)
def test_find_splits_reads_folders(tmp_path: Path, names: list[str], train: list[str], test: list[str]) -> None:
    assert found(made(tmp_path, *names), tmp_path) == {"train": train, **({"test": test} if test else {})}


@pytest.mark.parametrize("word", ["validation", "valid", "dev", "val"])
def test_find_splits_knows_every_name_of_the_validation_split(tmp_path: Path, word: str) -> None:
    made(tmp_path, "train-00000-of-00001.csv", f"{word}-00000-of-00001.csv")
    assert found(tmp_path, tmp_path)["validation"] == [f"{word}-00000-of-00001.csv"]


def test_find_splits_expands_patterns(tmp_path: Path) -> None:
    made(tmp_path, "a/train-0.csv", "a/train-1.csv", "a/test-0.csv", "[x]/train.csv")
    assert found(tmp_path / "a" / "train-*.csv", tmp_path) == {"train": ["a/train-0.csv", "a/train-1.csv"]}
    assert found(tmp_path / "a" / "*", tmp_path)["test"] == ["a/test-0.csv"]
    assert found(tmp_path / "[x]", tmp_path) == {"train": ["[x]/train.csv"]}
    with pytest.raises(DataError, match="No file matches"):
        find_splits(str(tmp_path / "b*.csv"))


def test_find_splits_names_the_files_that_it_does_not_use(tmp_path: Path) -> None:
    _, notes = find_splits(str(made(tmp_path, "train.csv", "train_old.csv", "extra.csv")))
    assert notes == ["files not used: extra.csv, train_old.csv"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.csv", "train.jsonl"], "has two files for the train split: train.csv, train.jsonl"),
        (["a.csv", "b.csv"], "no training file.*Its data files: a.csv, b.csv"),
        (["test.csv"], "no training file"),
        (["en/train.csv", "fr/train.csv"], "several data sets, in .*en, .*fr"),
        (["train-00000-of-00003.csv", "train-00002-of-00003.csv"], "2 of the 3 shards of the train split"),
        (["train-00000-of-00002.csv"], "1 of the 2 shards"),
        (["my_train.csv", "your_train.csv"], "two files for the train split"),
        ([], "no training file"),
    ],
)
def test_find_splits_refuses_what_is_not_clear(tmp_path: Path, names: Sequence[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_splits(str(made(tmp_path, *names)))


def test_read_files_joins_shards(tmp_path: Path) -> None:
    first = write(tmp_path / "part-0.csv", CSV)
    headless = write(tmp_path / "part-1.csv", CSV.partition("\n")[2])
    table = read_files([first, headless, first], ReadOptions())
    assert len(table) == 120 and table.columns["label"] == ["no", "yes"] * 60
    assert table.format.endswith("3 files")
    other = write(tmp_path / "part-2.csv", "text,stars\na,1\nb,2\nc,1\n")
    with pytest.raises(DataError, match=r"part-2.csv has the columns text, stars, but .*part-0.csv has text, label"):
        read_files([first, other], ReadOptions())


@pytest.mark.parametrize(
    "end",
    [
        "-1b2c3d4e-aaaa-bbbb-cccc-1234567890ab-c000.csv",
        "-tid-77-1b2c3d4e-aaaa-bbbb-cccc-1234567890ab-3-c000.snappy.parquet",
        "-1b2c3d4e-aaaa-bbbb-cccc-1234567890ab.c000.zstd.parquet",
    ],
)
def test_find_splits_reads_parts_of_spark(tmp_path: Path, end: str) -> None:
    names = [f"part-{number:05}{end}" for number in range(3)]
    assert found(made(tmp_path, *names, "_SUCCESS"), tmp_path) == {"train": names}


def test_find_splits_explains_partitions_and_addresses(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="partitioned by a column whose values are names of folders"):
        find_splits(str(made(tmp_path, "label=a/part-0.parquet", "label=b/part-0.parquet")))
    with pytest.raises(DataError, match=r"s3://x/train.csv is an address, and only local files are read"):
        find_splits("s3://x/train.csv")


def test_find_splits_knows_words_that_end_in_set(tmp_path: Path) -> None:
    assert set(found(made(tmp_path, "trainset.csv", "test_set.csv", "devset.csv"), tmp_path)) == {
        "train", "validation", "test",
    }  # fmt: skip


def test_find_splits_ignores_the_cache_of_datasets(tmp_path: Path) -> None:
    names = ["data-00000-of-00001.arrow", "cache-1a2b3c4d5e6f7788.arrow", "state.json", "dataset_info.json"]
    assert found(made(tmp_path, *names), tmp_path) == {"train": names[:1]}
