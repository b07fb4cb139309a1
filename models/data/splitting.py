"""Seeded, stratified train, validation and test splits that keep duplicate texts in one split."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from sparserve.models.data.dataset import Split
from sparserve.models.errors import DataError

FOLDS = 10
MIN_DISTINCT_TEXTS = 15
# scikit-learn's search for even folds takes about a millisecond per text: half a minute for this many rows.
MAX_SEARCHED_ROWS = 20_000


def carve(
    split: Split,
    names: Sequence[str],
    *,
    seed: int,
    by_first_text: bool = False,
    max_searched_rows: int = MAX_SEARCHED_ROWS,
) -> dict[str, Split]:
    """Take a tenth of the rows for each of `names`; the rest is `train`.

    The splits are stratified by label, by the set of labels for multi-label rows, or by the tenth of a number. Rows
    whose texts differ only in case and surrounding space stay together; with `by_first_text`, those of pairs with the
    same first text, such as a query's documents. Every label keeps a row in train. Up to `max_searched_rows` rows, the
    most even tenths are searched for. More rows are dealt out in linear time, which is even enough for that many.

    Raises:
        DataError: there are too few different texts.
    """
    labels = _binned(split.labels)
    strata = _numbered([_stratum(label) for label in labels])
    groups = _numbered([key[0] if by_first_text else key for key in split.duplicate_keys()])
    distinct = groups.max() + 1
    if distinct < MIN_DISTINCT_TEXTS:
        raise DataError(
            f"The data has only {distinct} different texts; at least {MIN_DISTINCT_TEXTS} are needed to split it. "
            "Add rows, or give the validation and test splits as files."
        )
    assign = _searched_folds if len(split) <= max_searched_rows else _dealt_folds
    folds = assign(_merge_rare(strata), groups, seed)
    owner = np.full(len(split), "train", dtype=object)
    for fold, name in enumerate(names):
        owner[folds == fold] = name
    _give_train_every_label(owner, labels, groups)
    return {name: split.take(np.flatnonzero(owner == name).tolist()) for name in ("train", *names)}


def _searched_folds(strata: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of every row, [rows], such that every fold has almost the same share of each stratum."""
    search = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    folds = np.empty(len(groups), dtype=np.int64)
    with warnings.catch_warnings():
        # scikit-learn warns of strata with fewer rows than folds; the caller has merged them.
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, rows) in enumerate(search.split(np.zeros(len(groups)), strata, groups)):
            folds[rows] = fold
    return folds


def _dealt_folds(strata: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of every row, [rows]: the groups of each stratum are dealt to the folds in turn.

    A group belongs to the stratum of its first row. Large groups are dealt first, so the fold whose turn is first gets
    at least as many rows of a stratum as any other.
    """
    _, first_rows, sizes = np.unique(groups, return_index=True, return_counts=True)
    group_strata = strata[first_rows]
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.lexsort((-sizes[order], group_strata[order]))]
    _, begins, counts = np.unique(group_strata[order], return_index=True, return_counts=True)
    turns = np.arange(len(order)) - np.repeat(begins, counts)
    group_folds = np.empty(len(sizes), dtype=np.int64)
    # Folds 0 and 1, which become the new splits, have the middle turns. So shares are rounded and not cut off: of five
    # groups one leaves train, of four none, and the largest groups stay in train.
    group_folds[order] = (turns - FOLDS // 2 + 1) % FOLDS
    folds: np.ndarray = group_folds[groups]
    return folds


def _give_train_every_label(owner: np.ndarray, labels: Sequence[Any], groups: np.ndarray) -> None:
    """Move the first row of each label that train lacks, and its duplicates, to train."""
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


def _binned(labels: Sequence[Any]) -> Sequence[Any]:
    """Return the tenth of each number among all of them; labels unchanged."""
    if not isinstance(labels[0], float):
        return labels
    tenths: list[int] = np.digitize(labels, np.quantile(labels, np.linspace(0.1, 0.9, 9))).tolist()
    return tenths


def _stratum(label: Any) -> tuple[int, ...]:
    """Return the indices of a row's labels."""
    if isinstance(label, Sequence):
        return tuple(index for index, value in enumerate(label) if value)
    return (int(label),)


def _merge_rare(strata: np.ndarray) -> np.ndarray:
    """Merge the strata that have fewer rows than there are folds: they cannot be stratified alone."""
    counts = np.bincount(strata)
    return np.where(counts[strata] < FOLDS, counts.size, strata)


def _numbered(values: Sequence[Any]) -> np.ndarray:
    """Return each value's number in the order of first occurrence."""
    numbers: dict[Any, int] = {}
    return np.asarray([numbers.setdefault(value, len(numbers)) for value in values])


def complete_splits(
    given: Mapping[str, Split], notes: list[str], seed: int, *, by_first_text: bool
) -> dict[str, Split]:
    """Carve the missing splits out of train. A validation split without a test split becomes the test split.

    With `by_first_text` all documents of a query are in one split.
    """
    splits = dict(given)
    if "validation" in splits and "test" not in splits:
        splits["test"] = splits.pop("validation")
        notes.append(
            "no test split: the validation split is used as the test split, and a tenth of train as validation"
        )
    notes.extend(_leaks(splits))
    missing = [name for name in ("validation", "test") if name not in splits]
    if missing:
        splits |= carve(splits["train"], missing, seed=seed, by_first_text=by_first_text)
    return splits


def _leaks(given: Mapping[str, Split]) -> Iterator[str]:
    """Describe texts that given splits share. The splits stay unchanged, as published results use all of their rows."""
    for name, earlier in (("validation", "train"), ("test", "train"), ("test", "validation")):
        if name in given and earlier in given:
            known = set(given[earlier].duplicate_keys())
            shared = sum(key in known for key in given[name].duplicate_keys())
            total = len(given[name])
            if shared:
                yield (
                    f"{shared:,} of {total:,} {name} rows ({100 * shared / total:.3g} %) have a text that is also in "
                    f"{earlier}, so the {name} scores are too optimistic; remove those texts from {earlier}"
                )
