"""`models.splitting`: what is carved is a tenth of every label, keeps duplicates together and depends on the seed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserve.models.data.dataset import Split
from sparserve.models.data.splitting import FOLDS, MOST_SEARCHED, carve

NAMES = ["validation", "test"]
SEARCHED = pytest.mark.parametrize("most_searched", [MOST_SEARCHED, 0], ids=["searched", "dealt"])


def content(parts):
    return {name: list(part.rows()) for name, part in parts.items()}


def labels_of(split):
    """The labels that occur, whether rows have one or several."""
    several = split.labels and isinstance(split.labels[0], list)
    return {i for row in split.labels for i, on in enumerate(row) if on} if several else set(split.labels)


@SEARCHED
@settings(deadline=None, max_examples=20)
@given(
    labels=st.lists(st.integers(0, 4), min_size=20, max_size=100),
    several=st.booleans(),
    copies=st.integers(1, 40),
    seed=st.integers(0, 100),
)
def test_every_row_is_in_one_split_duplicates_together_and_train_has_every_label(
    most_searched, labels, several, copies, seed
):
    texts = [f"Text {i % max(len(labels) - copies, 15)}" + " " * (i % 3) for i in range(len(labels))]
    split = Split(texts, None, [[int(i in (n, n - 2)) for i in range(5)] for n in labels] if several else labels)
    parts = carve(split, NAMES, seed=seed, most_searched=most_searched)
    found = sorted((row["text"], row["label"]) for rows in content(parts).values() for row in rows)
    assert found == sorted(zip(texts, split.labels, strict=True))
    owners = {}
    for name, part in parts.items():
        for key in part.duplicate_keys():
            assert owners.setdefault(key, name) == name
    assert labels_of(parts["train"]) == labels_of(split)
    assert content(carve(split, NAMES, seed=seed, most_searched=most_searched)) == content(parts)


@SEARCHED
def test_splits_are_stratified(most_searched):
    labels = [int(i % 10 == 0) for i in range(400)]
    parts = carve(Split([f"text {i}" for i in range(400)], None, labels), NAMES, seed=0, most_searched=most_searched)
    assert [len(parts[name]) for name in ("train", *NAMES)] == pytest.approx([320, 40, 40], abs=1)
    for part in parts.values():
        assert sum(part.labels) / len(part) == pytest.approx(0.1, abs=0.03)


@given(counts=st.lists(st.integers(FOLDS, 60), min_size=2, max_size=6), seed=st.integers(0, 9))
def test_a_tenth_of_every_labels_texts_is_dealt_to_every_split(counts, seed):
    texts = [(f"{label}, text {i}", label) for label, count in enumerate(counts) for i in range(count)]
    rows = [row for i, row in enumerate(texts) for _ in range(1 + i % 3)]
    split = Split([text for text, _ in rows], None, [label for _, label in rows])
    parts = carve(split, NAMES, seed=seed, most_searched=0)
    for name in NAMES:
        dealt = {*zip(parts[name].texts, parts[name].labels, strict=True)}
        for label, count in enumerate(counts):
            found = sum(own == label for _, own in dealt)
            assert found >= 1
            assert abs(found - count / FOLDS) <= 0.5


@SEARCHED
def test_rare_labels_stay_in_train_with_their_duplicates(most_searched):
    rare = [(f"rare {label}", label) for label in range(2, 12)] * 2
    rows = [(f"text {i}", i % 2) for i in range(80)] + rare
    split = Split([text for text, _ in rows], None, [label for _, label in rows])
    for seed in range(3):
        parts = carve(split, NAMES, seed=seed, most_searched=most_searched)
        assert sorted(label for label in parts["train"].labels if label > 1) == sorted(label for _, label in rare)


def test_a_text_that_half_of_the_rows_have_is_dealt_to_train():
    texts = ["the same"] * 500 + [f"text {i}" for i in range(500)]
    for seed in range(5):
        parts = carve(Split(texts, None, [i % 2 for i in range(1000)]), NAMES, seed=seed, most_searched=0)
        assert "the same" in parts["train"].texts
        assert all(len(parts[name]) == pytest.approx(50, abs=2) for name in NAMES)


def test_many_rows_are_dealt_and_another_seed_deals_them_otherwise():
    count = MOST_SEARCHED + 1
    split = Split([f"text {i}" for i in range(count)], None, [i % 7 for i in range(count)])
    parts = carve(split, NAMES, seed=0)
    assert content(parts) == content(carve(split, NAMES, seed=0, most_searched=0))
    shared = set(parts["test"].texts) & set(carve(split, NAMES, seed=1)["test"].texts)
    assert len(shared) / len(parts["test"]) == pytest.approx(0.1, abs=0.03)
