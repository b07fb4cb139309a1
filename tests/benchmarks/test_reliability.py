"""The soak's arithmetic, its client against a running service, and the page of a record."""

from pathlib import Path

import pytest

from benchmarks.reliability import publish as publish_reliability
from benchmarks.reliability import run as reliability
from benchmarks.reliability.flood import flooded
from benchmarks.reliability.soak import LONGEST_WORDS, Sample, figures, slope, soak
from benchmarks.service_process import running
from sparserve.models.bundle.store import Store
from tests.support.tiny_bundles import TASK, publish


def samples(*rss: float) -> list[Sample]:
    return [Sample(1000 * (at + 1), 1.0, int(bytes_), 0, 0, 10, 3) for at, bytes_ in enumerate(rss)]


def test_slope_uses_second_half_per_100000_requests() -> None:
    warm_up = [at * 5e6 for at in range(10)]
    rising = slope(samples(*warm_up, *(1e8 + 1000 * at + (-1) ** at for at in range(10))), "rss_bytes")
    assert rising["value"] == pytest.approx(1e5, rel=0.01)
    assert rising["low"] < 1e5 < rising["high"]
    assert slope(samples(*warm_up, *[1e8] * 10), "descriptors") == {"value": 0, "low": 0, "high": 0}


def test_soak_counts_every_request(tmp_path: Path) -> None:
    publish(Store(tmp_path), max_length=LONGEST_WORDS)
    with running(tmp_path, *reliability.SOAK_OPTIONS) as service:
        found = soak(service, f"/v1/models/{TASK}/classify", 1000, connections=8, distinct=200)
    assert found.requests + found.abandoned == 1000
    assert (found.wrong, found.lost) == (0, 0)
    assert {200, 400} <= found.statuses.keys() <= {200, 400, 404}
    record = {**figures(found), "connections": 8, "model": "a tiny graph", "exit_status": 0}
    told = publish_reliability.soak(record)
    assert "0 with a wrong status or label; 0 lost" in told
    assert "| threads |" in told


def test_flood_measures_waiting_times(tmp_path: Path) -> None:
    publish(Store(tmp_path), max_length=LONGEST_WORDS)
    with running(tmp_path, *reliability.SOAK_OPTIONS) as service:
        record = flooded(service, f"/v1/models/{TASK}/classify", requests=3, connections=2)
    assert set(record["flood_statuses"]) <= {"200", "429"}
    assert record["seconds_per_batch"] > 0
    for arm in ("alone", "beside_flood"):
        assert 0 < record[arm]["median_seconds"] <= record[arm]["longest_seconds"]


def test_reliability_page_shows_every_figure() -> None:
    fault = {"exit_status": 0, "accepted": 1200, "answered": 1200, "refused": 4, "lost": 0, "statuses": {"200": 1200}}
    fault |= {"lost_to": {}, "longest_answer_seconds": 0.25, "ready": True}
    counts = publish_reliability.counts({"some fault": fault, "another": {"status": 200}})
    assert "| some fault | 1,200 | 1,200 | 4 | 0 | 200 | 250 | - |" in counts
    assert "another" not in counts
    settings = {"receive_timeout_seconds": 3.0, "descriptors": 128}
    seen = publish_reliability.seen({"faults": {"some fault": fault}, "settings": settings})
    assert "- some fault: exit status 0; stays ready yes." in seen
    with pytest.raises(KeyError, match="unheard_of"):
        publish_reliability.seen({"faults": {"some fault": {**fault, "unheard_of": 1}}, "settings": settings})
