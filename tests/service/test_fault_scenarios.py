"""Faults around a service process: none costs another client its answer. The benchmark measures them, too."""

import json
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.reliability import fault_scenarios as faults
from benchmarks.service_process import RunningService, running
from sparserve.models.bundle.store import Store
from tests.support.tiny_bundles import TASK

SLOW_CLIENTS = 1_000
FULL = 64 * 1024  # bytes that a file may have: room for an empty database and no more


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)], ids="workers-{}".format)
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def store(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return faults.tiny_store(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def service(store: Store, workers: int) -> Iterator[RunningService]:
    """One service for all scenarios: each must leave it as good as it was."""
    shadow = {TASK: {"mode": "shadow", "candidate": "rival", "share": 1}}
    options = ["--workers", str(workers), "--receive-timeout-seconds", "1.5", "--experiments", json.dumps(shadow)]
    options += ["--disagreements-url", f"sqlite:///{store.root.parent}/rows.db"]
    with running(store.root, *faults.QUICK, *options, limits={resource.RLIMIT_FSIZE: FULL}) as service:
        yield service


def all_answered(figures: dict[str, Any]) -> bool:
    return figures["statuses"].keys() == {"200"} and figures["lost"] == figures["refused"] == 0


def test_fault_half_sent_requests(service: RunningService) -> None:
    figures = faults.slow_clients(service, SLOW_CLIENTS)
    assert all_answered(figures)
    assert figures["probes_failed"] == 0
    assert (figures["connections"], figures["answered_408"], figures["closed"]) == (SLOW_CLIENTS, SLOW_CLIENTS, 0)
    assert service.metric("sparserve_connections_given_up_total", reason="slow_head") == SLOW_CLIENTS / 2
    assert faults.seconds_to_idle(service) >= 0


def test_fault_clients_that_disconnect(service: RunningService) -> None:
    assert faults.half_closed_clients(service, 10)["seconds_to_idle"] >= 0
    figures = faults.gone_clients(service, 40)
    assert figures["inputs_answered"] < figures["inputs_sent"]
    assert service.metric("sparserve_http_requests_total", status="499") > 0


def test_fault_full_database(service: RunningService, workers: int) -> None:
    figures = faults.database_full(service, 20)
    assert all_answered(figures)
    assert figures["rows_lost"] > 0 and 1 <= figures["logged_lines"] <= workers


def test_fault_out_of_memory(service: RunningService) -> None:
    assert faults.memory_short(service) == {"status": 200, "batches_halved": 1, "batches_failed": 0}


def test_fault_truncated_bundle(service: RunningService, store: Store) -> None:
    figures = faults.truncated_bundle(service, store)
    assert all_answered(figures)
    assert figures["old_version_stays"] and figures["logged"]


def test_fault_swaps_under_load(service: RunningService, store: Store) -> None:
    assert all_answered(faults.swaps_under_load(service, store, 4))


def test_fault_deleted_store(service: RunningService, store: Store) -> None:
    figures = faults.store_removed(service, store)
    assert all_answered(figures)
    assert figures["ready"]


def test_fault_service_stops_with_status_0(service: RunningService) -> None:
    figures = faults.stopped_under_load(service, 50)
    assert (figures["exit_status"], figures["lost"], figures["statuses"].keys()) == (0, 0, {"200"}), figures
