"""Fault scenarios for a running service, shared by the tests and the measurement.

Each scenario breaks one thing and returns figures. The tests check them.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.reliability.counting_clients import counting_clients, probing, wait_for_answers
from benchmarks.reliability.hostile_clients import gone, half_closed, half_sent, wait_until_ended
from benchmarks.service_process import RunningService, wait_until
from sparserve.models.bundle.store import Store
from sparserve.service.server.connection import allow_descriptors
from tests.support.tiny_bundles import MAX_LENGTH, TASK, graph, hungry, publish

PATH = f"/v1/models/{TASK}/classify"
LONG = " ".join(["good"] * MAX_LENGTH)
QUICK = ("--threads", "1", "--watch-seconds", "0.05", "--log-level", "warning")
# With several workers, each was very likely asked if so many requests in a row are answered alike.
ASKED_OF_WORKERS = 8


def version_served(service: RunningService) -> str:
    """Return the version that answers a request.

    Raises:
        RuntimeError: the request fails.
    """
    status, answer = service.ask(PATH, "POST", {"inputs": "good film"})
    if status != 200:
        raise RuntimeError(f"{status}: {answer}")
    return str(answer["model"]["version"])


def serves(service: RunningService, version: str) -> bool:
    """Return True if a version answers in every worker."""
    asked = ASKED_OF_WORKERS if service.metric("sparserve_workers") > 1 else 1
    return all(version_served(service) == version for _ in range(asked))


def slow_clients(service: RunningService, count: int) -> dict[str, Any]:
    """Send half of many requests while other clients ask. Needs a short `receive_timeout_seconds`."""
    allow_descriptors()
    before = service.metric("process_resident_memory_bytes")
    began = time.monotonic()
    with (
        half_sent(service.port, PATH, count) as clients,
        probing(service.port) as probe,
        counting_clients(service.port, PATH, ["good film"], clients=1) as counts,
    ):
        wait_for_answers(counts, 50)
        held = service.metric("process_resident_memory_bytes") - before
        ended = wait_until_ended(clients)
    return {
        "connections": len(clients),
        "answered_408": ended.answered_408,
        "closed": ended.closed,
        "seconds_to_the_last": time.monotonic() - began,
        "bytes_held_each": held / max(len(clients), 1),
        **counts.figures(),
        "longest_probe_seconds": probe.longest_seconds,
        "probes_failed": probe.failed,
    }


def descriptors_gone(service: RunningService, count: int) -> dict[str, Any]:
    """Send more half requests than the service has descriptors, then wait until it answers again."""
    began = time.monotonic()
    with half_sent(service.port, PATH, count) as clients:
        seconds = wait_until(lambda: _answers(service), "an answer")
        ended = wait_until_ended(clients)
    return {
        "connections": count,
        "answered_408": ended.answered_408,
        "closed": count - ended.answered_408,
        "seconds_to_answer_again": seconds,
        "seconds_to_the_last": time.monotonic() - began,
        "ready": service.ask("/readyz")[0] == 200,
    }


def _answers(service: RunningService) -> bool:
    try:
        return bool(version_served(service))
    except OSError:
        return False


def half_closed_clients(service: RunningService, count: int) -> dict[str, Any]:
    """Send requests from clients that close their sending side afterwards."""
    answered, ended = half_closed(service.port, PATH, count)
    return {"connections": count, "answered": answered, "closed": ended, "seconds_to_idle": seconds_to_idle(service)}


def gone_clients(service: RunningService, count: int) -> dict[str, Any]:
    """Send requests of the largest size from clients that then disconnect."""
    before = service.metric("sparserve_inputs_total")
    inputs = [LONG] * 256
    gone(service.port, PATH, inputs, count)
    idle = seconds_to_idle(service)
    computed = service.metric("sparserve_inputs_total") - before
    return {"inputs_sent": count * len(inputs), "inputs_answered": computed, "seconds_to_idle": idle}


def seconds_to_idle(service: RunningService) -> float:
    """Wait until nothing is queued or running and no other client is connected; return the seconds."""
    gauges = ("sparserve_inputs_waiting", "sparserve_batches_running", "sparserve_connections")
    return wait_until(lambda: sum(map(service.metric, gauges)) <= 1, "an idle service")


def memory_short(service: RunningService) -> dict[str, Any]:
    """Send a batch of two that exceeds the memory. Needs the variant `hungry` in the store."""
    status, _ = service.ask(f"/v1/models/{TASK}/hungry/classify", "POST", {"inputs": ["good", "bad film"]})
    halved, failed = (service.metric(f"sparserve_batches_{what}_total") for what in ("halved", "failed"))
    return {"status": status, "batches_halved": halved, "batches_failed": failed}


def swaps_under_load(service: RunningService, store: Store, swaps: int) -> dict[str, Any]:
    """Swap the current version repeatedly while clients ask."""
    versions = [store.current(TASK, "dense"), publish(store, model=graph(seed=77)).manifest.version]
    with probing(service.port) as probe, counting_clients(service.port, PATH, ["good film"], clients=4) as counts:
        began = time.monotonic()
        for swap in range(swaps):
            store.promote(TASK, "dense", versions[(swap + 1) % 2])
            wait_until(lambda swap=swap: serves(service, versions[(swap + 1) % 2]), "the other version")
        seconds = (time.monotonic() - began) / swaps
    figures = {"swaps": swaps, "seconds_a_swap": seconds, "longest_probe_seconds": probe.longest_seconds}
    return {**figures, **counts.figures()}


def truncated_bundle(service: RunningService, store: Store) -> dict[str, Any]:
    """Make a truncated bundle the current version while clients ask."""
    before = version_served(service)
    with tempfile.TemporaryDirectory() as name:
        bundle = publish(Store(Path(name)), model=graph(seed=78))
        cut = bundle.folder / "model.onnx"
        cut.write_bytes(cut.read_bytes()[:100])
        shutil.copytree(bundle.folder, store.folder(TASK, "dense", bundle.manifest.version))
    with counting_clients(service.port, PATH, ["good film"], clients=2) as counts:
        store.promote(TASK, "dense", bundle.manifest.version)
        seconds = wait_until(lambda: service.metric("sparserve_bundles_refused") == 1, "a refusal")
        wait_for_answers(counts, 20)
    kept = serves(service, before)
    store.promote(TASK, "dense", before)
    store.remove(TASK, "dense", bundle.manifest.version)
    logged = service.logs(f"refused {TASK}/dense")
    return {"old_version_stays": kept, "logged": logged, "seconds_to_refusal": seconds, **counts.figures()}


def store_removed(service: RunningService, store: Store) -> dict[str, Any]:
    """Delete the whole store while clients ask."""
    with counting_clients(service.port, PATH, ["good film"], clients=2) as counts:
        shutil.rmtree(store.root)
        seconds = wait_until(lambda: service.metric("sparserve_store_readable") == 0, "a look at the store")
        wait_for_answers(counts, 20)
    ready = service.ask("/readyz")[0] == 200
    return {"ready": ready, "seconds_to_notice": seconds, **counts.figures()}


def database_full(service: RunningService, requests: int) -> dict[str, Any]:
    """Record disagreements in a database that cannot grow. Needs an experiment and a limit on file sizes."""
    with counting_clients(service.port, PATH, ["good", "bad", "film", "fun", "dull"] * 20, clients=2) as counts:
        # A full queue loses rows, too, before the database is ever asked.
        wait_until(lambda: "rows are lost" in service.logged(), "a row that the database refuses")
        wait_for_answers(counts, requests)
    lost = service.metric("sparserve_disagreements_lost_total")
    return {"rows_lost": lost, "logged_lines": service.logged().count("rows are lost"), **counts.figures()}


def stopped_under_load(service: RunningService, requests: int) -> dict[str, Any]:
    """Send SIGTERM while clients ask."""
    with counting_clients(service.port, PATH, ["good film"] * 20, clients=4) as counts:
        wait_for_answers(counts, requests)
        began = time.monotonic()
        status = service.stop()
        seconds = time.monotonic() - began
    return {"exit_status": status, "seconds_to_end": seconds, **counts.figures()}


def tiny_store(folder: Path) -> Store:
    """Create a store with `dense` (the default), `rival` (which disagrees) and `hungry` (which needs much memory)."""
    store = Store(folder / "store")
    publish(store, variant="dense")
    publish(store, variant="rival", model=graph(seed=len("dense"), scale=-4.0))
    publish(store, variant="hungry", model=hungry())
    store.set_default_variant(TASK, "dense")
    return store
