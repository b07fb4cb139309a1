"""Recorded results of the accuracy benchmark: one record for each run, as JSON."""

import json
from pathlib import Path
from typing import Any

from sparserve.models.files import write_atomically

RESULTS = Path(__file__).parent.parent / "results" / "accuracy.json"
RUN_FIELDS = ("scale", "task", "method", "level", "seed")
LATENCY_FIELDS = ("scale", "task", "method", "level")
IDENTITIES = {"runs": RUN_FIELDS, "latency": LATENCY_FIELDS}


def read_results(path: Path) -> dict[str, Any]:
    """Read the recorded results."""
    content: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {"runs": [], "latency": []}
    return content


def merge_results(source: Path, target: Path) -> int:
    """Add the records of another machine's results that are newer or missing here; return their number."""
    content, count = read_results(target), 0
    for kind, records in read_results(source).items():
        for record in records:
            if record not in content[kind] and not _is_newer(content, kind, record):
                _add(content, kind, record)
                count += 1
    write_atomically(target, json.dumps(content, indent=1) + "\n")
    return count


def save_record(path: Path, kind: str, record: dict[str, Any]) -> None:
    """Add a record in place of the one of the same run."""
    content = read_results(path)
    _add(content, kind, record)
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def _is_newer(content: dict[str, Any], kind: str, record: dict[str, Any]) -> bool:
    """Return True if the results have a newer record of the same run."""
    same = [old for old in content[kind] if all(old[name] == record[name] for name in IDENTITIES[kind])]
    return any(old.get("finished_at", "") > record.get("finished_at", "") for old in same)


def _add(content: dict[str, Any], kind: str, record: dict[str, Any]) -> None:
    identity = IDENTITIES[kind]
    others = [old for old in content[kind] if any(old[name] != record[name] for name in identity)]
    content[kind] = sorted([*others, record], key=lambda item: [str(item[name]) for name in identity])
