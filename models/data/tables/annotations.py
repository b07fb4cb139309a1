"""Exports of annotation tools: rows whose text or label is inside an object, or that an annotator has refused."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sparserve.models.data.tables.table import KNOWN_NAMES

ANSWERS: Final = frozenset({"accept", "reject", "ignore"})
Rows = Sequence[dict[str, Any]]


def plain_rows(rows: Rows) -> tuple[Rows, tuple[str, ...]]:
    """Return the rows with the text and the label as fields, and notes on what was read from inside them."""
    if not rows:
        return rows, ()
    if all(isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list) for row in rows):
        return _label_studio(rows), ("labels are those of the first annotation that was not cancelled (Label Studio)",)
    if all(row.get("answer") in ANSWERS for row in rows):
        return _prodigy(rows)
    return _spread(rows), ()


def _label_studio(rows: Rows) -> Rows:
    """Return the fields of each task's data, and one field for each control tag that has choices or a rating."""
    return _singles([{**row["data"], **_results(row["annotations"])} for row in rows])


def _results(annotations: Sequence[Any]) -> dict[str, Any]:
    valid = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    results = valid[0].get("result") if valid else None
    chosen: dict[str, Any] = {}
    for result in results if isinstance(results, list) else ():
        value = result.get("value") if isinstance(result, dict) else None
        if isinstance(value, dict) and isinstance(value.get("choices"), list):
            chosen.setdefault(str(result.get("from_name", "choices")), []).extend(value["choices"])
        elif isinstance(value, dict) and "rating" in value:
            chosen[str(result.get("from_name", "rating"))] = value["rating"]
    return chosen


def _prodigy(rows: Rows) -> tuple[Rows, tuple[str, ...]]:
    """Return the rows with their accepted label: chosen options, or the one label that each row asks about."""
    accepted = sum(row["answer"] == "accept" for row in rows)
    if any(isinstance(row.get("accept"), list) for row in rows):
        labels = [row.get("accept") if row["answer"] == "accept" else None for row in rows]
    else:
        asked = {row.get("label") for row in rows if isinstance(row.get("label"), str)}
        refused = f"not {next(iter(asked))}" if len(asked) == 1 else None
        meaning = {"reject": refused, "ignore": None}
        labels = [row.get("label") if row["answer"] == "accept" else meaning[row["answer"]] for row in rows]
        if refused is not None and any(row["answer"] == "reject" for row in rows):
            note = f"rows with the answer 'reject' have the label {refused!r}, ignored ones have none (Prodigy)"
            return _with_labels(rows, labels), (note,)
    notes = ("only rows with the answer 'accept' have a label (Prodigy)",) if accepted < len(rows) else ()
    return _with_labels(rows, labels), notes


def _with_labels(rows: Rows, labels: Sequence[Any]) -> Rows:
    dropped = ("answer", "accept", "options", "label")
    kept = [{name: value for name, value in row.items() if name not in dropped} for row in rows]
    return _singles([{**row, "label": label} for row, label in zip(kept, labels, strict=True)])


def _singles(rows: Rows) -> Rows:
    """Return the rows with a label in place of a list of one, in fields that never have several."""
    lists = {name for row in rows for name, value in row.items() if isinstance(value, list)}
    several = {name for row in rows for name in lists if isinstance(row.get(name), list) and len(row[name]) > 1}
    single = lists - several
    return [
        {
            name: (value[0] if value else None) if name in single and isinstance(value, list) else value
            for name, value in row.items()
        }
        for row in rows
    ]


def _spread(rows: Rows) -> Rows:
    """Return the rows with the fields of an object that holds a text, as `{"data": {"text": ...}}` does."""
    names = {name for row in rows[:1] for name, value in row.items() if _holds_text(value)}
    names = {name for name in names if all(isinstance(row.get(name), dict) for row in rows)}
    if not names:
        return rows
    spread = []
    for row in rows:
        plain = {name: value for name, value in row.items() if name not in names}
        for name in row:
            if name in names:
                plain |= {key if key not in row else f"{name}.{key}": value for key, value in row[name].items()}
        spread.append(plain)
    return spread


def _holds_text(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(inner, str) and str(name).casefold() in KNOWN_NAMES for name, inner in value.items()
    )
