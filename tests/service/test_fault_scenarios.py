"""Faults around a service that is a process: none costs anybody else an answer. They are measured, too."""

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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return faults.tiny_store(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def service(store: Store) -> Iterator[RunningService]:
    """One process for all scenarios: each must leave it as good as it was."""
    shadow = {TASK: {"mode": "shadow", "candidate": "rival", "share": 1}}
    options = ["--receive-timeout-seconds", "1.5", "--experiments", json.dumps(shadow)]
    options += ["--disagreements-url", f"sqlite:///{store.root.parent}/rows.db"]
    with running(store.root, *faults.QUICK, *options, limits={resource.RLIMIT_FSIZE: FULL}) as service:
        yield service


def all_answered(figures: dict[str, Any]) -> bool:
    return figures["statuses"].keys() == {"200"} and figures["lost"] == figures["refused"] == 0


def test_a_thousand_half_sent_requests_keep_nobody_waiting_and_are_ended(service: RunningService) -> None:
    figures = faults.slow_clients(service, SLOW_CLIENTS)
    assert all_answered(figures)
    assert figures["probes_failed"] == 0
    assert (figures["connections"], figures["answered_408"], figures["closed"]) == (SLOW_CLIENTS, SLOW_CLIENTS, 0)
    assert service.metric("sparserve_connections_given_up_total", reason="slow_head") == SLOW_CLIENTS / 2
    assert faults.seconds_to_idle(service) >= 0


def test_clients_that_close_half_a_connection_or_go_away_leave_nothing(service: RunningService) -> None:
    assert faults.half_closed_clients(service, 10)["seconds_to_idle"] >= 0
    figures = faults.gone_clients(service, 40)
    assert figures["inputs_answered"] < figures["inputs_sent"]
    assert service.metric("sparserve_http_requests_total", status="499") > 0


def test_a_database_that_cannot_grow_costs_rows_and_one_line(service: RunningService) -> None:
    figures = faults.database_full(service, 20)
    assert all_answered(figures)
    assert figures["rows_lost"] > 0 and figures["logged_lines"] == 1


def test_a_batch_that_memory_is_too_short_for_is_answered(service: RunningService) -> None:
    assert faults.memory_short(service) == {"status": 200, "batches_halved": 1, "batches_failed": 0}


def test_a_version_that_is_cut_short_is_refused_and_the_old_one_stays(service: RunningService, store: Store) -> None:
    figures = faults.truncated_bundle(service, store)
    assert all_answered(figures)
    assert figures["old_version_stays"] and figures["logged"]


def test_swaps_under_load_lose_nothing(service: RunningService, store: Store) -> None:
    assert all_answered(faults.swaps_under_load(service, store, 4))


def test_a_store_that_is_deleted_stops_nothing(service: RunningService, store: Store) -> None:
    figures = faults.store_removed(service, store)
    assert all_answered(figures)
    assert figures["ready"]


def test_a_service_that_has_met_all_this_stops_with_status_0(service: RunningService) -> None:
    figures = faults.stopped_under_load(service, 50)
    assert (figures["exit_status"], figures["lost"], figures["statuses"].keys()) == (0, 0, {"200"})
