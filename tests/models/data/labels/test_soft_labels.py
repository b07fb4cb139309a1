"""Soft labels: probabilities in one column or in one column a label."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.loading import load_dataset
from sparserve.models.errors import DataError
from sparserve.models.pipeline.job import with_label_order
from tests.support.models.labelled import csv_text, rows, write

SHARES = [0.9, 0.2, 0.6, 0.35]
TEXTS = [row["text"] for row in rows()]


def probability(split: Any, row: int, name: int) -> float:
    return float(split.soft[row][name])


def check(dataset: Dataset) -> None:
    assert dataset.label_names == ("no", "yes")
    assert not dataset.multi_label
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.soft is not None
        for row, text in enumerate(split.texts):
            share = SHARES[TEXTS.index(text) % 4]
            assert probability(split, row, 1) == pytest.approx(share)
            assert sum(split.soft[row]) == pytest.approx(1)
            assert split.labels[row] == int(share > 0.5)


def test_load_dataset_reads_soft_labels_of_one_column(tmp_path: Path) -> None:
    soft = [{"yes": SHARES[i % 4], "no": 1 - SHARES[i % 4]} for i in range(40)]
    items = [{"text": text, "label": json.dumps(row)} for text, row in zip(TEXTS, soft, strict=True)]
    check(load_dataset(write(tmp_path / "text.csv", csv_text(items))))
    lines = [json.dumps({"text": text, "label": row}) for text, row in zip(TEXTS, soft, strict=True)]
    check(load_dataset(write(tmp_path / "objects.jsonl", "\n".join(lines))))
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "label": soft}), tmp_path / "structs.parquet")
    check(load_dataset(tmp_path / "structs.parquet"))


def test_load_dataset_reads_a_column_of_probabilities_a_label(tmp_path: Path) -> None:
    items = [{"text": t, "yes": SHARES[i % 4], "no": round(1 - SHARES[i % 4], 2)} for i, t in enumerate(TEXTS)]
    dataset = load_dataset(write(tmp_path / "columns.csv", csv_text(items)), label_column=["yes", "no"])
    check(dataset)
    assert any("soft labels: probabilities of 2 labels" in note for note in dataset.summary.notes)
    turned = with_label_order(dataset, ("yes", "no"))
    assert turned.train.soft is not None and dataset.train.soft is not None
    assert [row[::-1] for row in turned.train.soft] == list(dataset.train.soft)
    assert turned.digest != dataset.digest


def test_load_dataset_reads_probabilities_that_are_no_alternatives(tmp_path: Path) -> None:
    items = [{"text": text, "toxic": SHARES[i % 4], "rude": 0.7 if i % 3 else 0.1} for i, text in enumerate(TEXTS)]
    path, named = write(tmp_path / "several.csv", csv_text(items)), ["toxic", "rude"]
    dataset = load_dataset(path, label_column=named)
    assert dataset.multi_label and dataset.train.soft is not None
    for labels, soft in zip(dataset.train.labels, dataset.train.soft, strict=True):
        assert labels == [int(value >= 0.5) for value in soft]
    with pytest.raises(DataError, match=r"row 2 sum to 0.9, not 1"):
        load_dataset(path, label_column=named, multi_label=False)


def test_load_dataset_refuses_numbers_that_are_no_probabilities(tmp_path: Path) -> None:
    items = [{"text": text, "label": json.dumps({"yes": 80, "no": 20})} for text in TEXTS]
    with pytest.raises(DataError, match="Write probabilities, not logits or percentages"):
        load_dataset(write(tmp_path / "percent.csv", csv_text(items)))


def test_load_dataset_of_indicators_has_no_soft_labels(tmp_path: Path) -> None:
    items = [{"text": text, "toxic": i % 2, "rude": i % 3 // 2} for i, text in enumerate(TEXTS)]
    assert load_dataset(write(tmp_path / "flags.csv", csv_text(items))).train.soft is None
