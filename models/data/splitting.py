"""Train, validation and test splits: seeded, stratified, with duplicates on one side."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from sparserve.models.data.dataset import Split
from sparserve.models.errors import DataError

FOLDS = 10
FEWEST_TEXTS = 15
# scikit-learn's search for the evenest folds takes a millisecond a text: half a minute here, too long for many more.
MOST_SEARCHED = 20_000


def carve(split: Split, names: Sequence[str], *, seed: int, most_searched: int = MOST_SEARCHED) -> dict[str, Split]:
    """Carve a tenth of the rows for each of `names`; what is left is `train`.

    Stratified by label (by the set of labels, for multi-label rows). Rows with the same text, but for case and
    surrounding space, stay together. Every label that occurs keeps a row in train. Up to `most_searched` rows the
    evenest tenths are searched for; of more, which are even anyway, they are dealt in linear time.

    Raises:
        DataError: there are too few different texts.
    """
    strata = _numbered([_stratum(label) for label in split.labels])
    groups = _numbered(split.duplicate_keys())
    if groups.max() + 1 < FEWEST_TEXTS:
        raise DataError(f"the data has only {groups.max() + 1} different texts; at least {FEWEST_TEXTS} are needed")
    assign = _searched_folds if len(split) <= most_searched else _dealt_folds
    folds = assign(_merge_rare(strata), groups, seed)
    owner = np.full(len(split), "train", dtype=object)
    for fold, name in enumerate(names):
        owner[folds == fold] = name
    _give_train_every_label(owner, split.labels, groups)
    return {name: split.take(np.flatnonzero(owner == name).tolist()) for name in ("train", *names)}


def _searched_folds(strata: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """The fold of every row [rows], such that the folds' shares of each stratum differ least."""
    search = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    folds = np.empty(len(groups), dtype=np.int64)
    with warnings.catch_warnings():
        # It warns of strata with fewer rows than folds; they are seen to by the caller.
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, rows) in enumerate(search.split(np.zeros(len(groups)), strata, groups)):
            folds[rows] = fold
    return folds


def _dealt_folds(strata: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """The fold of every row [rows]: the groups of each stratum, which is their first row's, are dealt like cards.

    Large groups come first, and so fall to the fold that is dealt to first: no other gets more rows of a stratum.
    """
    _, first_rows, sizes = np.unique(groups, return_index=True, return_counts=True)
    own = strata[first_rows]
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.lexsort((-sizes[order], own[order]))]
    _, begins, counts = np.unique(own[order], return_index=True, return_counts=True)
    turns = np.arange(len(order)) - np.repeat(begins, counts)
    folds = np.empty(len(sizes), dtype=np.int64)
    # The folds that are carved take their turns in the middle, so that shares are rounded and not cut: of five groups
    # one is carved, of four none, and the largest stay in train.
    folds[order] = (turns - FOLDS // 2 + 1) % FOLDS
    of_rows: np.ndarray = folds[groups]
    return of_rows


def _give_train_every_label(owner: np.ndarray, labels: Sequence[Any], groups: np.ndarray) -> None:
    first_rows: dict[int, int] = {}
    learned: set[int] = set()
    for row, labelled in enumerate(labels):
        present = _stratum(labelled)
        for label in present:
            first_rows.setdefault(label, row)
        if owner[row] == "train":
            learned.update(present)
    for label, first_row in sorted(first_rows.items()):
        if label not in learned:
            moved = np.flatnonzero(groups == groups[first_row])
            owner[moved] = "train"
            learned.update(label for row in moved.tolist() for label in _stratum(labels[row]))


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
