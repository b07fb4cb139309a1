"""kill -9, of the service and of what publishes: what is left in the store is whole, and serves."""

from pathlib import Path

import pytest

from benchmarks.reliability import fault_scenarios as faults
from benchmarks.service_process import running
from sparserve.models.bundle.store import Store

pytestmark = pytest.mark.thorough


def test_killed_service_restarts_on_complete_store(tmp_path: Path) -> None:
    figures = faults.killed_mid_swap(tmp_path)
    assert figures["store_whole"]
    assert figures["first_answer_by"] in ("old", "new")  # whichever: it was whole
    assert figures["statuses"].keys() == {"200"}


def test_killed_publisher_leaves_complete_store(store: Store) -> None:
    with running(store.root, *faults.QUICK) as service:
        figures = faults.publisher_killed(service, store)
    assert figures["store_whole"] and figures["old_version_stays"] and figures["new_start_whole"]
