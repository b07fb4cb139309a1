"""Train, validation and test splits: seeded, stratified, with duplicates on one side."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from models.data import Split, duplicate_key
from models.errors import DataError

FOLDS = 10
FEWEST_TEXTS = 15


def carve(split: Split, names: Sequence[str], *, seed: int) -> dict[str, Split]:
    """Carve a tenth of the rows for each of `names`; what is left is `train`.

    Stratified by label (by the set of labels, for multi-label rows). Rows with the same text, but for case and
    surrounding space, stay together. Every label that occurs keeps a row in train.

    Raises:
        DataError: there are too few different texts.
    """
    strata = _numbered([_stratum(label) for label in split.labels])
    pairs = split.text_pairs if split.text_pairs is not None else [None] * len(split)
    groups = _numbered([duplicate_key(text, pair) for text, pair in zip(split.texts, pairs, strict=True)])
    if groups.max() + 1 < FEWEST_TEXTS:
        raise DataError(f"the data has only {groups.max() + 1} different texts; at least {FEWEST_TEXTS} are needed")
    folds = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # It warns of strata with fewer rows than folds; they are seen to below.
        warnings.simplefilter("ignore", UserWarning)
        parts = [test for _, test in folds.split(np.zeros(len(split)), _merge_rare(strata), groups)]
    owner = np.full(len(split), "train", dtype=object)
    for name, rows in zip(names, parts, strict=False):
        owner[rows] = name
    _give_train_every_label(owner, split.labels, groups)
    return {name: split.take(np.flatnonzero(owner == name).tolist()) for name in ("train", *names)}


def _give_train_every_label(owner: np.ndarray, labels: Sequence[Any], groups: np.ndarray) -> None:
    for label in sorted({label for row in labels for label in _stratum(row)}):
        rows = [index for index, row in enumerate(labels) if label in _stratum(row)]
        if not any(owner[row] == "train" for row in rows):
            owner[groups == groups[rows[0]]] = "train"


def _stratum(label: Any) -> tuple[int, ...]:
    """The labels of a row: one, or those that are set."""
    if isinstance(label, Sequence):
        return tuple(index for index, value in enumerate(label) if value)
    return (int(label),)


def _merge_rare(strata: np.ndarray) -> np.ndarray:
    """Strata with fewer rows than folds become one, so that there is something to stratify."""
    counts = np.bincount(strata)
    return np.where(counts[strata] < FOLDS, counts.size, strata)


def _numbered(values: Sequence[Any]) -> np.ndarray:
    numbers: dict[Any, int] = {}
    return np.asarray([numbers.setdefault(value, len(numbers)) for value in values])
