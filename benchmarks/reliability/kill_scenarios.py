"""Scenarios of kill -9: of the service, its supervisor, one of its workers, and a publisher."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from benchmarks.reliability.counting_clients import counting_clients, probing, wait_for_answers
from benchmarks.reliability.fault_scenarios import PATH, QUICK, serves, version_served
from benchmarks.service_process import ROOT, RunningService, lives, running, wait_until
from sparserve.models.bundle.store import Store
from tests.support.tiny_bundles import TASK, graph, manifest, publish, tokenizer_json

# Large enough that a process can be killed while it copies or hashes the file.
PADDING_BYTES = 64 * 2**20


def padded(store: Store, seed: int, padding_bytes: int = PADDING_BYTES) -> str:
    """Publish a version whose publication can be interrupted, because it is large, and return its version."""
    files = {"model.onnx": graph(seed=seed), "tokenizer.json": tokenizer_json(), "padding.bin": bytes(padding_bytes)}
    return store.publish(manifest(), files).manifest.version


def killed_mid_swap(folder: Path, workers: int = 1) -> dict[str, Any]:
    """Kill all processes of the service while it fetches a new version from another store, then restart it."""
    origin, local = Store(folder / "origin"), Store(folder / "local")
    publish(origin)
    options = (*QUICK, "--workers", str(workers), "--store-url", origin.root.as_uri())
    with running(local.root, *options) as service:
        before = version_served(service)
        with counting_clients(service.port, PATH, ["good film"], clients=2) as counts:
            wait_for_answers(counts, 10)
            newer = padded(origin, 5)
            wait_until(lambda: any(local.root.rglob(".tmp-*")), "a version that is being fetched")
            service.kill()
    whole = local.open(TASK, "dense").manifest.version == before
    with running(local.root, *options) as service:
        first = version_served(service)
        seconds = wait_until(lambda: serves(service, newer), "the new version")
    figures = {"store_whole": whole, "first_answer_by": "old" if first == before else "new"}
    return {**figures, "seconds_to_ready": service.ready_seconds, "seconds_to_new_version": seconds, **counts.figures()}


def supervisor_killed(service: RunningService, requests: int) -> dict[str, Any]:
    """Kill the supervisor of several workers while clients ask. The workers end by themselves."""
    workers = service.processes()[1:]
    with counting_clients(service.port, PATH, ["good film"] * 20, clients=4) as counts:
        wait_for_answers(counts, requests)
        service.process.kill()
        seconds = wait_until(lambda: not any(map(lives, workers)), "the workers to end")
    return {"seconds_to_end": seconds, **counts.figures()}


def worker_killed(service: RunningService, requests: int) -> dict[str, Any]:
    """Kill one of several workers while clients ask."""
    with probing(service.port) as probe, counting_clients(service.port, PATH, ["good film"], clients=4) as counts:
        wait_for_answers(counts, requests)
        seconds = seconds_to_replacement(service, service.processes()[1])
        wait_for_answers(counts, requests)
    figures = {"seconds_to_replacement": seconds, "ready": service.ask("/readyz")[0] == 200}
    probes = {"longest_probe_seconds": probe.longest_seconds, "probes_failed": probe.failed}
    return {**figures, **probes, **counts.figures()}


def worker_killed_mid_swap(folder: Path, workers: int) -> dict[str, Any]:
    """Kill the worker that fetches a new version from another store. Another one fetches it then."""
    origin, local = Store(folder / "origin"), Store(folder / "local")
    publish(origin)
    with running(local.root, *QUICK, "--workers", str(workers), "--store-url", origin.root.as_uri()) as service:
        before = version_served(service)
        with counting_clients(service.port, PATH, ["good film"], clients=2) as counts:
            wait_for_answers(counts, 10)
            newer = padded(origin, 5)
            replacement = seconds_to_replacement(service, _fetching_worker(service))
            whole = local.open(TASK, "dense").manifest.version in (before, newer)
            seconds = wait_until(lambda: serves(service, newer), "the new version")
        figures = {"store_whole": whole, "seconds_to_replacement": replacement, "seconds_to_new_version": seconds}
        return {**figures, "exit_status": service.stop(), **counts.figures()}


def _fetching_worker(service: RunningService) -> psutil.Process:
    """Wait until a worker has a file open in a version that is not complete, and return this worker."""
    workers, found = service.processes()[1:], list[psutil.Process]()

    def look() -> bool:
        found[:] = [worker for worker in workers if any("/.tmp-" in file.path for file in worker.open_files())]
        return bool(found)

    wait_until(look, "a version that is being fetched")
    return found[0]


def seconds_to_replacement(service: RunningService, worker: psutil.Process) -> float:
    """Kill a worker; return the seconds until another one accepts connections in its place."""
    workers, restarts = (service.metric(name) for name in ("sparserve_workers", "sparserve_worker_restarts_total"))
    worker.kill()
    gone = wait_until(lambda: not lives(worker), "the worker to end")

    def replaced() -> bool:
        restarted = service.metric("sparserve_worker_restarts_total") == restarts + 1
        return restarted and service.metric("sparserve_workers") == workers

    return gone + wait_until(replaced, "a worker in place of the dead one")


def publisher_killed(service: RunningService, store: Store, workers: int = 1) -> dict[str, Any]:
    """Kill a process that publishes into the store, then publish successfully."""
    before = version_served(service)
    code = (
        "import sys; from pathlib import Path; from sparserve.models.bundle.store import Store; "
        "from benchmarks.reliability.kill_scenarios import padded; padded(Store(Path(sys.argv[1])), 6)"
    )
    publisher = subprocess.Popen([sys.executable, "-c", code, str(store.root)], cwd=ROOT)
    try:
        wait_until(lambda: any(store.root.rglob(".tmp-*")), "a version that is being published")
    finally:
        publisher.kill()
        publisher.wait()
    whole = store.open(TASK, "dense").manifest.version == before
    kept = serves(service, before)
    with running(store.root, *QUICK, "--workers", str(workers)) as second:
        started = serves(second, before)
        seconds = second.ready_seconds
    newer = publish(store, model=graph(seed=7)).manifest.version
    wait_until(lambda: serves(service, newer), "the version of the next publisher")
    return {"store_whole": whole, "old_version_stays": kept, "new_start_whole": started, "seconds_to_ready": seconds}
