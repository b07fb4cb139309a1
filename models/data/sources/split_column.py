"""A column that says for each row to which split it belongs."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from sparserve.models.data.tables.table import SPLIT_NAMES, Table, split_named

COLUMN_NAMES = ("split", "dataset_split", "data_split", "set", "subset", "partition", "fold")


def by_split_column(table: Table, *, named: Collection[str]) -> tuple[dict[str, Table], list[str]]:
    """Return the parts of a table by its split column, if it has one, and notes.

    The column is none of the columns that the user named (`named`), and its values are names of splits, "train" among
    them.
    """
    for name, values in table.columns.items():
        if name in named or name.strip().casefold() not in COLUMN_NAMES:
            continue
        cells = [str(value).strip() if value is not None else "" for value in values]
        splits = [split_named(cell) for cell in cells]
        known = {split for split in splits if split is not None}
        if "train" in known and all(splits):
            parts = {split: _rows(table, name, splits, split) for split in SPLIT_NAMES if split in known}
            counts = ", ".join(f"{split} {len(part):,}" for split, part in parts.items())
            return parts, [f"splits by column {name!r}: {counts} (detected; remove the column to have splits made)"]
        if name.strip().casefold() != "split":
            continue
        others = [cell for cell, split in zip(cells, splits, strict=True) if split is None]
        reason = f"it holds {others[0]!r}" if others else "it does not hold 'train'"
        return {"train": table}, [
            f"column {name!r} is not used: {reason}; to give the splits, every row needs train, validation or test"
        ]
    return {"train": table}, []


def _rows(table: Table, column: str, splits: list[str | None], split: str) -> Table:
    rows = [row for row, name in enumerate(splits) if name == split]

    def take(values: list[Any]) -> list[Any]:
        return [values[row] for row in rows]

    return replace(table, columns={name: take(values) for name, values in table.columns.items() if name != column})
