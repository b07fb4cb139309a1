"""Soak the service in a separate process, and run fault scenarios against it.

    python -m benchmarks.reliability --requests 1000000

The soak sends requests of mixed lengths, a few of them bad or abandoned, over loopback to one service with one thread,
and samples its memory, descriptors and threads. The default model is a tiny graph, so that the service does most of the
work. `--store` and `--task` soak another store. Each fault of `fault_scenarios` gets a new service. All results go to
benchmarks/results/reliability.json.
"""

import argparse
import datetime
import json
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reliability import fault_scenarios as faults
from benchmarks.reliability.soak import LONGEST_WORDS, Soak, figures, soak
from benchmarks.service_process import running
from sparserve.models.bundle.store import Store
from sparserve.models.evaluation.machine import describe_machine
from sparserve.models.files import write_atomically
from tests.support.tiny_bundles import TASK, publish

RESULTS = Path(__file__).parent.parent / "results" / "reliability.json"
SOAK_OPTIONS = ("--threads", "1", "--log-level", "warning")
RECEIVE_SECONDS = 3.0
FEW_DESCRIPTORS = 128
DATABASE_BYTES = 64 * 1024


def measure_soak(requests: int, connections: int, store: Path | None, task: str) -> dict[str, Any]:
    """Run the soak over a store; the default has a tiny graph that accepts the longest texts."""
    with tempfile.TemporaryDirectory() as name:
        if store is None:
            publish(Store(Path(name)), max_length=LONGEST_WORDS)
        with running(store or Path(name), *SOAK_OPTIONS) as service:
            result: Soak = soak(service, f"/v1/models/{task}/classify", requests, connections=connections)
            record = {**figures(result), "connections": connections, "model": "a tiny graph" if store is None else task}
            return {**record, "exit_status": service.stop()}


def over_tiny_store(
    scenario: Callable[..., dict[str, Any]],
    *options: str,
    limits: dict[int, int] | None = None,
    store: bool = False,
    **scale: int,
) -> dict[str, Any]:
    """Run a scenario over a new service and add the exit status of the service to the figures."""
    with tempfile.TemporaryDirectory() as name:
        tiny = faults.tiny_store(Path(name))
        database = ("--disagreements-url", f"sqlite:///{name}/rows.db")
        with running(tiny.root, *faults.QUICK, *database, *options, limits=limits) as service:
            record = scenario(service, tiny, **scale) if store else scenario(service, **scale)
            if service.process.poll() is None:
                record["exit_status"] = service.stop()
            return record


def killed_mid_swap() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        return faults.killed_mid_swap(Path(name))


def all_faults(scale: float) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return every scenario by name. The page shows results with `scale` 1."""
    slow = ("--receive-timeout-seconds", str(RECEIVE_SECONDS))
    shadow = ("--experiments", json.dumps({TASK: {"mode": "shadow", "candidate": "rival", "share": 1}}))
    few = {resource.RLIMIT_NOFILE: FEW_DESCRIPTORS}
    small = {resource.RLIMIT_FSIZE: DATABASE_BYTES}

    def many(count: int) -> int:
        return max(round(count * scale), 1)

    return {
        "SIGTERM under load": lambda: over_tiny_store(faults.stopped_under_load, requests=many(2000)),
        "versions swapped under load": lambda: over_tiny_store(faults.swaps_under_load, store=True, swaps=many(50)),
        "kill -9 mid-swap, restarted": killed_mid_swap,
        "kill -9 of a publisher": lambda: over_tiny_store(faults.publisher_killed, store=True),
        "a truncated version": lambda: over_tiny_store(faults.truncated_bundle, store=True),
        "the store deleted": lambda: over_tiny_store(faults.store_removed, store=True),
        "1,000 half-sent requests": lambda: over_tiny_store(faults.slow_clients, *slow, count=1000),
        "no descriptors left": lambda: over_tiny_store(
            faults.descriptors_gone, *slow, limits=few, count=2 * FEW_DESCRIPTORS
        ),
        "half-closed connections": lambda: over_tiny_store(faults.half_closed_clients, count=many(200)),
        "clients gone mid-wait": lambda: over_tiny_store(faults.gone_clients, count=many(100)),
        "too little memory for a batch": lambda: over_tiny_store(faults.memory_short),
        "the database full": lambda: over_tiny_store(faults.database_full, *shadow, limits=small, requests=many(500)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--requests", type=int, default=20_000, help="number of requests of the soak; 1000000 for the published run"
    )
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--scale", type=float, default=1, help="factor for the request counts of the fault scenarios")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine().model_dump(mode="json"),
        "settings": {"receive_timeout_seconds": RECEIVE_SECONDS, "descriptors": FEW_DESCRIPTORS},
        "faults": {},
    }
    for name, scenario in all_faults(arguments.scale).items():
        result["faults"][name] = scenario()
        print(name, json.dumps(result["faults"][name]), flush=True)
    result["soak"] = measure_soak(arguments.requests, arguments.connections, arguments.store, arguments.task)
    summary = {key: value for key, value in result["soak"].items() if key != "samples"}
    print("soak", json.dumps(summary, indent=1))
    write_atomically(arguments.output, json.dumps(result, indent=1) + "\n")
    print(f"\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
