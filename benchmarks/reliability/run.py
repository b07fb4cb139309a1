"""Soak the service in a separate process, and run fault scenarios against it.

    python -m benchmarks.reliability --requests 1000000 --workers 2

The soak sends requests of mixed lengths, a few of them bad or abandoned, over loopback to one service with one thread
in each worker, and samples the memory, descriptors and threads of all its processes. The default model is a tiny graph,
so that the service does most of the work. `--store` and `--task` soak another store. Each fault of `fault_scenarios`
and `kill_scenarios` gets a new service. All results go to benchmarks/results/reliability.json: for each number of
workers the faults of the last run, and the last soak of each model. A run that does not meet `criteria` ends with
status 1.
"""

import argparse
import datetime
import json
import resource
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.reliability import fault_scenarios as faults
from benchmarks.reliability import kill_scenarios as kills
from benchmarks.reliability.criteria import failures
from benchmarks.reliability.soak import LONGEST_WORDS, Soak, figures, soak
from benchmarks.service_process import running
from sparserve.models.bundle.store import Store
from sparserve.models.evaluation.machine import describe_machine
from sparserve.models.files import write_atomically
from tests.support.tiny_bundles import TASK, publish

RESULTS = Path(__file__).parent.parent / "results" / "reliability.json"
TINY = "a tiny graph"
SOAK_OPTIONS = ("--threads", "1", "--log-level", "warning")
RECEIVE_SECONDS = 3.0
FEW_DESCRIPTORS = 128
DATABASE_BYTES = 64 * 1024


def measure_soak(requests: int, connections: int, store: Path | None, task: str, workers: int) -> dict[str, Any]:
    """Run the soak over a store; the default has a tiny graph that accepts the longest texts."""
    with tempfile.TemporaryDirectory() as name:
        if store is None:
            publish(Store(Path(name)), max_length=LONGEST_WORDS)
        with running(store or Path(name), *SOAK_OPTIONS, "--workers", str(workers)) as service:
            result: Soak = soak(service, f"/v1/models/{task}/classify", requests, connections=connections)
            record = {**figures(result), "connections": connections, "model": TINY if store is None else task}
            return {**record, "exit_status": service.stop()}


def over_tiny_store(
    scenario: Callable[..., dict[str, Any]],
    *options: str,
    workers: int = 1,
    limits: dict[int, int] | None = None,
    store: bool = False,
    **scale: int,
) -> dict[str, Any]:
    """Run a scenario over a new service and add the exit status of the service to the figures."""
    with tempfile.TemporaryDirectory() as name:
        tiny = faults.tiny_store(Path(name))
        database = ("--disagreements-url", f"sqlite:///{name}/rows.db")
        options = (*faults.QUICK, "--workers", str(workers), *database, *options)
        with running(tiny.root, *options, limits=limits) as service:
            record = scenario(service, tiny, **scale) if store else scenario(service, **scale)
            if service.process.poll() is None:
                record["exit_status"] = service.stop()
            return record


def in_new_folder(scenario: Callable[[Path, int], dict[str, Any]], workers: int) -> dict[str, Any]:
    """Run a scenario that starts its services by itself."""
    with tempfile.TemporaryDirectory() as name:
        return scenario(Path(name), workers)


def all_faults(scale: float, workers: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return every scenario by name. The page shows results with `scale` 1."""
    over_store = partial(over_tiny_store, workers=workers)
    slow = ("--receive-timeout-seconds", str(RECEIVE_SECONDS))
    shadow = ("--experiments", json.dumps({TASK: {"mode": "shadow", "candidate": "rival", "share": 1}}))
    few = {resource.RLIMIT_NOFILE: FEW_DESCRIPTORS}
    small = {resource.RLIMIT_FSIZE: DATABASE_BYTES}

    def many(count: int) -> int:
        return max(round(count * scale), 1)

    of_workers = {
        "kill -9 of a worker": lambda: over_store(kills.worker_killed, requests=many(500)),
        "kill -9 of the worker that swaps": lambda: in_new_folder(kills.worker_killed_mid_swap, workers),
        "kill -9 of the supervisor": lambda: over_store(kills.supervisor_killed, requests=many(2000)),
    }
    return {
        "SIGTERM under load": lambda: over_store(faults.stopped_under_load, requests=many(2000)),
        "versions swapped under load": lambda: over_store(faults.swaps_under_load, store=True, swaps=many(50)),
        "kill -9 mid-swap, restarted": lambda: in_new_folder(kills.killed_mid_swap, workers),
        **(of_workers if workers > 1 else {}),
        "kill -9 of a publisher": lambda: over_store(partial(kills.publisher_killed, workers=workers), store=True),
        "a truncated version": lambda: over_store(faults.truncated_bundle, store=True),
        "the store deleted": lambda: over_store(faults.store_removed, store=True),
        "1,000 half-sent requests": lambda: over_store(faults.slow_clients, *slow, count=1000),
        "no descriptors left": lambda: over_store(
            faults.descriptors_gone, *slow, limits=few, count=2 * FEW_DESCRIPTORS * workers
        ),
        "half-closed connections": lambda: over_store(faults.half_closed_clients, count=many(200)),
        "clients gone mid-wait": lambda: over_store(faults.gone_clients, count=many(100)),
        "too little memory for a batch": lambda: over_store(faults.memory_short),
        "the database full": lambda: over_store(faults.database_full, *shadow, limits=small, requests=many(500)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--requests", type=int, default=20_000, help="number of requests of the soak; 1000000 for the published run"
    )
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1, help="worker processes of the service")
    parser.add_argument("--store", type=Path, help="store to soak in place of one with a tiny graph")
    parser.add_argument("--task", default=TASK, help="task of the soak")
    parser.add_argument("--scale", type=float, default=1, help="factor for the request counts of the fault scenarios")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error("--workers must be 1 or more")
    conditions = {
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine().model_dump(mode="json"),
    }
    settings = {"receive_timeout_seconds": RECEIVE_SECONDS, "descriptors": FEW_DESCRIPTORS}
    faulty: dict[str, Any] = {}
    for name, scenario in all_faults(arguments.scale, arguments.workers).items():
        faulty[name] = scenario()
        print(name, json.dumps(faulty[name]), flush=True)
    soaked = measure_soak(arguments.requests, arguments.connections, arguments.store, arguments.task, arguments.workers)
    print("soak", json.dumps({key: value for key, value in soaked.items() if key != "samples"}, indent=1))
    results = json.loads(arguments.output.read_bytes()) if arguments.output.exists() else {}
    record(
        results, arguments.workers, {**conditions, "settings": settings, "scenarios": faulty}, {**conditions, **soaked}
    )
    write_atomically(arguments.output, json.dumps(results, indent=1) + "\n")
    print(f"\nwritten to {arguments.output}")
    if failed := failures(faulty, soaked):
        raise SystemExit("\n".join(["The service did not meet the criteria of this benchmark:", *failed]))


def record(results: dict[str, Any], workers: int, faults: dict[str, Any], soak: dict[str, Any]) -> None:
    """Add a run to the recorded ones: it replaces the faults with as many workers, and the soak of the same model."""
    recorded = results.setdefault(str(workers), {"soaks": {}})
    recorded["faults"] = faults
    recorded["soaks"][soak["model"]] = soak


if __name__ == "__main__":
    main()
