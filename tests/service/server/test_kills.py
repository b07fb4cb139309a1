"""kill -9, of the service and of what publishes: what is left in the store is whole, and serves."""

from pathlib import Path

import pytest

from benchmarks.reliability import kill_scenarios as kills
from benchmarks.reliability.fault_scenarios import QUICK
from benchmarks.service_process import running
from sparserve.models.bundle.store import Store

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_service_restarts_on_complete_store(tmp_path: Path, workers: int) -> None:
    figures = kills.killed_mid_swap(tmp_path, workers)
    assert figures["store_whole"]
    assert figures["first_answer_by"] in ("old", "new")  # whichever: it was whole
    assert figures["statuses"].keys() == {"200"}


def test_killed_publisher_leaves_complete_store(store: Store) -> None:
    with running(store.root, *QUICK) as service:
        figures = kills.publisher_killed(service, store)
    assert figures["store_whole"] and figures["old_version_stays"] and figures["new_start_whole"]


def test_killed_worker_loses_its_connections_alone(store: Store) -> None:
    with running(store.root, *QUICK, "--workers", "2") as service:
        figures = kills.worker_killed(service, 50)
    assert figures["ready"] and figures["refused"] == 0
    assert figures["lost"] <= 4  # each of the clients waits for one answer
    assert figures["statuses"].keys() == {"200"}


def test_killed_mirroring_worker_is_succeeded_by_another(tmp_path: Path) -> None:
    figures = kills.worker_killed_mid_swap(tmp_path, 2)
    assert figures["store_whole"] and figures["refused"] == 0
    assert figures["lost"] <= 2
    assert (figures["statuses"].keys(), figures["exit_status"]) == ({"200"}, 0)
