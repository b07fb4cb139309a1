"""Turns of the benchmark: the order in which arms and parts are measured, and the loop that measures them.

The most important figures come first, so that a short run has them all.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from benchmarks.serving.arms import Arm
from benchmarks.serving.publish.results import DENSE, SPARSE_INT8

CEILING: Final = "ceiling"
SECOND_CEILING: Final = "second ceiling"
# Variants on which servers are compared: a slow graph and a fast one.
COMPARED: Final = (DENSE, SPARSE_INT8)
START_SECONDS: Final = 6.0
# Loads of each part, and seconds besides: a process starts for each load.
LOADS: Final = {CEILING: 1.5, SECOND_CEILING: 1.5, "closed": 3.7, "idle": 1, "many": 1.5, "rates": 7, "around": 5}
LOAD_SECONDS: Final = 0.7
EXTRA_SECONDS: Final = {CEILING: 2, SECOND_CEILING: 2, "many": 4, "around": 4}

Record = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """Parts of the record of an arm that are measured with one start of its server."""

    arm: Arm
    parts: tuple[str, ...]

    def seconds(self, load_seconds: float) -> float:
        """Estimate the time of the turn from that of one load."""
        parts = sum(LOADS[part] * (load_seconds + LOAD_SECONDS) + EXTRA_SECONDS.get(part, 0) for part in self.parts)
        return parts + START_SECONDS


def plan(own: Mapping[str, Arm], bare: Sequence[Arm], workers: Sequence[Arm], peers: Sequence[Arm]) -> list[Turn]:
    """Return all turns, the most important ones first.

    Args:
        own: arms of this project's service by variant.
        bare: references.
        workers: arms of the service with several processes.
        peers: other servers, each with one graph.
    """
    first = [name for name in (SPARSE_INT8, DENSE) if name in own]
    order = [own[name] for name in [*first, *(name for name in own if name not in first)]]
    compared = [arm for arm in order if arm.graph.variant in COMPARED]
    # Servers that cannot load the sparse file have the int8 file, and were the best ones on the dense file.
    int8 = {peer.server for peer in peers if peer.graph.variant not in COMPARED}
    others = [peer for peer in peers if peer.server in int8]
    slow, fast = ([peer for peer in peers if peer.graph.variant == name and peer not in others] for name in COMPARED)
    return [
        *(Turn(arm, (CEILING, "closed", "idle", *(("many",) if arm in compared else ()))) for arm in order),
        *(Turn(arm, (*((SECOND_CEILING,) if arm in compared else ()), "rates")) for arm in order),
        *(Turn(arm, ("closed",)) for arm in (*bare, *workers)),
        *(Turn(arm, ("around",)) for arm in compared),
        *(Turn(arm, ("closed", "rates")) for arm in (*others, *fast, *slow)),
        *(Turn(arm, ("around",)) for arm in (*others, *fast, *slow) if arm.graph.variant in COMPARED),
    ]


class Measure(Protocol):
    """Measurement of parts of an arm, a context within which its server runs where a part needs it."""

    def __call__(self, arm: Arm, parts: Sequence[str], record: Record) -> Iterator[str]:
        """Measure each part into the record and yield its name."""


def run(
    turns: Sequence[Turn],
    records: dict[str, Record],
    measure: Measure,
    save: Callable[[], None],
    *,
    load_seconds: float,
    ends: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, Any]]:
    """Run the turns whose estimated time is left before `ends`, and return those that were left out.

    A record lists its `measured` parts, which are not measured again. A part that fails leaves `error` in the record;
    a server of which nothing could be measured gets no further turns.
    """
    skipped = []
    for turn in turns:
        record = records[turn.arm.name]
        parts = [part for part in turn.parts if part not in record["measured"]]
        started = set(record["measured"]) - {CEILING, SECOND_CEILING}
        if not parts or ("error" in record and not started):
            continue
        if clock() + Turn(turn.arm, tuple(parts)).seconds(load_seconds) > ends:
            skipped.append({"arm": turn.arm.name, "parts": parts})
            continue
        try:
            for part in measure(turn.arm, parts, record):
                record["measured"].append(part)
        except Exception as error:  # a server may fail in any way; the others continue
            record["error"] = f"{type(error).__name__}: {error}"
            print(f"  {turn.arm.name} failed: {error}", flush=True)
        save()
    return skipped
