"""Carved splits: a tenth of every label, duplicates together, an order that depends on the seed."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserve.models.data.dataset import Split
from sparserve.models.data.splitting import FOLDS, MAX_SEARCHED_ROWS, carve

NAMES = ["validation", "test"]
BOTH_METHODS = pytest.mark.parametrize("max_searched_rows", [MAX_SEARCHED_ROWS, 0], ids=["searched", "dealt"])


def content(parts: Mapping[str, Split]) -> dict[str, list[dict[str, Any]]]:
    return {name: list(part.rows()) for name, part in parts.items()}


def labels_of(split: Split) -> set[int]:
    """Return the labels that occur in single-label or multi-label rows."""
    several = split.labels and isinstance(split.labels[0], list)
    return {i for row in split.labels for i, on in enumerate(row) if on} if several else set(split.labels)


@BOTH_METHODS
@settings(deadline=None, max_examples=20)
@given(
    labels=st.lists(st.integers(0, 4), min_size=20, max_size=100),
    several=st.booleans(),
    copies=st.integers(1, 40),
    seed=st.integers(0, 100),
)
def test_carve_assigns_every_row_once_and_keeps_duplicates_together(
    max_searched_rows: int, labels: list[int], several: bool, copies: int, seed: int
) -> None:
    texts = [f"Text {i % max(len(labels) - copies, 15)}" + " " * (i % 3) for i in range(len(labels))]
    split = Split(texts, None, [[int(i in (n, n - 2)) for i in range(5)] for n in labels] if several else labels)
    parts = carve(split, NAMES, seed=seed, max_searched_rows=max_searched_rows)
    assigned = sorted((row["text"], row["label"]) for rows in content(parts).values() for row in rows)
    assert assigned == sorted(zip(texts, split.labels, strict=True))
    owners: dict[tuple[str, str], str] = {}
    for name, part in parts.items():
        for key in part.duplicate_keys():
            assert owners.setdefault(key, name) == name
    assert labels_of(parts["train"]) == labels_of(split)
    assert content(carve(split, NAMES, seed=seed, max_searched_rows=max_searched_rows)) == content(parts)


@BOTH_METHODS
def test_carve_stratifies_by_label(max_searched_rows: int) -> None:
    labels = [int(i % 10 == 0) for i in range(400)]
    parts = carve(
        Split([f"text {i}" for i in range(400)], None, labels), NAMES, seed=0, max_searched_rows=max_searched_rows
    )
    assert [len(parts[name]) for name in ("train", *NAMES)] == pytest.approx([320, 40, 40], abs=1)
    for part in parts.values():
        assert sum(part.labels) / len(part) == pytest.approx(0.1, abs=0.03)


@given(counts=st.lists(st.integers(FOLDS, 60), min_size=2, max_size=6), seed=st.integers(0, 9))
def test_carve_deals_a_tenth_of_every_label_to_every_split(counts: list[int], seed: int) -> None:
    texts = [(f"{label}, text {i}", label) for label, count in enumerate(counts) for i in range(count)]
    rows = [row for i, row in enumerate(texts) for _ in range(1 + i % 3)]
    split = Split([text for text, _ in rows], None, [label for _, label in rows])
    parts = carve(split, NAMES, seed=seed, max_searched_rows=0)
    for name in NAMES:
        dealt = {*zip(parts[name].texts, parts[name].labels, strict=True)}
        for label, count in enumerate(counts):
            texts_of_label = sum(own == label for _, own in dealt)
            assert texts_of_label >= 1
            assert abs(texts_of_label - count / FOLDS) <= 0.5


@BOTH_METHODS
def test_carve_keeps_rare_labels_in_train_with_their_duplicates(max_searched_rows: int) -> None:
    rare = [(f"rare {label}", label) for label in range(2, 12)] * 2
    rows = [(f"text {i}", i % 2) for i in range(80)] + rare
    split = Split([text for text, _ in rows], None, [label for _, label in rows])
    for seed in range(3):
        parts = carve(split, NAMES, seed=seed, max_searched_rows=max_searched_rows)
        assert sorted(label for label in parts["train"].labels if label > 1) == sorted(label for _, label in rare)


def test_carve_deals_the_most_frequent_text_to_train() -> None:
    texts = ["the same"] * 500 + [f"text {i}" for i in range(500)]
    for seed in range(5):
        parts = carve(Split(texts, None, [i % 2 for i in range(1000)]), NAMES, seed=seed, max_searched_rows=0)
        assert "the same" in parts["train"].texts
        assert all(len(parts[name]) == pytest.approx(50, abs=2) for name in NAMES)


def test_carve_deals_many_rows_and_depends_on_the_seed() -> None:
    count = MAX_SEARCHED_ROWS + 1
    split = Split([f"text {i}" for i in range(count)], None, [i % 7 for i in range(count)])
    parts = carve(split, NAMES, seed=0)
    assert content(parts) == content(carve(split, NAMES, seed=0, max_searched_rows=0))
    shared = set(parts["test"].texts) & set(carve(split, NAMES, seed=1)["test"].texts)
    assert len(shared) / len(parts["test"]) == pytest.approx(0.1, abs=0.03)
