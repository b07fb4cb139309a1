"""Criteria of a run: no request lost, no wrong answer, and a service that ends with status 0."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

# Faults that kill a process: at most two requests of each client are lost, one that it is answering, and the next one
# if the kernel had already taken the connection for it.
KILLED: Final = {
    "kill -9 mid-swap, restarted": 4,
    "kill -9 of a worker": 8,
    "kill -9 of the worker that swaps": 4,
    "kill -9 of the supervisor": 8,
}
# Faults after which no process is left that could end by itself.
WITHOUT_EXIT: Final = frozenset({"kill -9 mid-swap, restarted", "kill -9 of the supervisor"})
# Figures that must be true.
KEPT: Final = ("ready", "store_whole", "old_version_stays", "new_start_whole", "logged")
# Counts that must be 0.
NONE: Final = ("probes_failed", "batches_failed", "wrong", "restarts")


def failures(scenarios: Mapping[str, Mapping[str, Any]], soak: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each scenario, or soak, that does not meet the criteria."""
    found = [(name, "; ".join(_faults(name, record))) for name, record in {**scenarios, "soak": soak}.items()]
    return [f"{name}: {faults}." for name, faults in found if faults]


def _faults(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    if (lost := record.get("lost", 0)) > KILLED.get(name, 0):
        yield f"{lost} requests lost, at most {KILLED.get(name, 0)} may be"
    if "status" in record and record["status"] != 200:
        yield f"status {record['status']} in place of 200"
    if name != "soak":  # `wrong` counts the answers of a soak, which sends bad requests, too
        others = {status: count for status, count in record.get("statuses", {}).items() if status != "200"}
        if others:
            yield "answers other than 200: " + ", ".join(f"{count} x {status}" for status, count in others.items())
    for figure in NONE:
        if record.get(figure, 0):
            yield f"{figure} is {record[figure]:g}, not 0"
    for figure in KEPT:
        if not record.get(figure, True):
            yield f"{figure} is false"
    if name not in WITHOUT_EXIT and record.get("exit_status") != 0:
        status = record.get("exit_status")
        yield "the service ended during the fault" if status is None else f"the service ended with status {status}"
