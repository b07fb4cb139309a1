"""The soak's arithmetic, its client against a running service, and the page of a record."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability import publish as publish_reliability
from benchmarks.reliability import run as reliability
from benchmarks.reliability.criteria import KILLED, WITHOUT_EXIT, failures
from benchmarks.reliability.flood import flooded
from benchmarks.reliability.soak import LONGEST_WORDS, Sample, figures, slope, soak
from benchmarks.service_process import running
from sparserve.models.bundle.store import Store
from tests.support.tiny_bundles import TASK, publish

CONDITIONS = {
    "measured_at": "2026-01-01T00:00:00+00:00",
    "machine": {"cpu": "Some CPU", "cores": 2, "system": "Linux", "python": "3.11", "onnxruntime": "1.31"},
}


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
        found = soak(service, f"/v1/models/{TASK}/classify", 500, connections=8, distinct=100)
    assert found.requests + found.abandoned == 500
    assert (found.wrong, found.lost) == (0, 0)
    assert {200, 400} <= found.statuses.keys() <= {200, 400, 404}
    record = {**figures(found), "connections": 8, "model": "a tiny graph", "exit_status": 0}
    record |= CONDITIONS
    told = publish_reliability.soak(record, "one worker")
    assert "0 with a wrong status or label; 0 lost" in told
    assert "| threads |" in told


@pytest.mark.slow
def test_soak_of_workers_samples_all_processes(tmp_path: Path) -> None:
    publish(Store(tmp_path), max_length=LONGEST_WORDS)
    with running(tmp_path, *reliability.SOAK_OPTIONS, "--workers", "2") as service:
        processes = service.processes()
        descriptors = [process.num_fds() for process in processes]
        found = soak(service, f"/v1/models/{TASK}/classify", 500, connections=8, distinct=100)
    assert len(processes) == 3
    assert (found.wrong, found.lost, found.restarts) == (0, 0, 0)
    assert all(sample.descriptors > max(descriptors) + 2 for sample in found.samples)
    assert all(sample.rss_bytes >= sample.pss_bytes >= sample.private_bytes > 0 for sample in found.samples)


def test_record_keeps_soaks_of_other_models_and_workers() -> None:
    results: dict[str, Any] = {}
    for workers, model, run in ((1, "a", 1), (1, "b", 2), (2, "a", 3), (1, "b", 4)):
        reliability.record(results, workers, {"run": run}, {"model": model, "run": run})
    runs = {key: {model: soak["run"] for model, soak in one["soaks"].items()} for key, one in results.items()}
    assert runs == {"1": {"a": 1, "b": 4}, "2": {"a": 3}}
    assert {key: one["faults"]["run"] for key, one in results.items()} == {"1": 4, "2": 3}


GOOD = {"statuses": {"200": 9}, "lost": 0, "exit_status": 0, "ready": True, "probes_failed": 0}
SOAKED = {"statuses": {"200": 9, "404": 1}, "wrong": 0, "lost": 0, "restarts": 0, "exit_status": 0, "model": "a"}


def test_failures_names_what_is_not_met() -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"lost": 1}, "1 requests lost, at most 0 may be"),
        ({"statuses": {"200": 9, "500": 2}}, "answers other than 200: 2 x 500"),
        ({"exit_status": 1}, "the service ended with status 1"),
        ({"exit_status": None}, "the service ended during the fault"),
        ({"ready": False, "status": 503}, "status 503 in place of 200; ready is false"),
        ({"probes_failed": 2}, "probes_failed is 2, not 0"),
    ]
    for figures_of_it, fault in bad:
        assert failures({"good": GOOD, "bad": {**GOOD, **figures_of_it}}, SOAKED) == [f"bad: {fault}."]
    killed = {**GOOD, "lost": 8, "exit_status": None}
    assert failures({"kill -9 of the supervisor": killed}, SOAKED) == []
    assert failures({"kill -9 of the supervisor": {**killed, "lost": 9}}, {**SOAKED, "wrong": 3}) == [
        "kill -9 of the supervisor: 9 requests lost, at most 8 may be.", "soak: wrong is 3, not 0.",
    ]  # fmt: skip
    assert reliability.all_faults(1, 2).keys() >= KILLED.keys() >= WITHOUT_EXIT


@pytest.mark.parametrize(("lost", "message"), [(0, None), (7, "the store deleted: 7 requests lost")])
def test_run_ends_with_status_1_if_requests_were_lost(
    lost: int, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "reliability.json"
    monkeypatch.setattr(reliability, "all_faults", lambda *_: {"the store deleted": lambda: {**GOOD, "lost": lost}})
    monkeypatch.setattr(reliability, "measure_soak", lambda *_: SOAKED)
    monkeypatch.setattr("sys.argv", ["reliability", "--output", str(output)])
    if message is None:
        reliability.main()
    else:
        with pytest.raises(SystemExit, match=message):
            reliability.main()
    assert json.loads(output.read_bytes())["1"]["faults"]["scenarios"]["the store deleted"]["lost"] == lost


def test_reliability_page_has_sections_per_number_of_workers() -> None:
    recorded = json.loads(reliability.RESULTS.read_bytes())["1"]
    page = publish_reliability.page({"10": recorded, "1": recorded, "2": recorded})
    titles = [line for line in page.splitlines() if line.startswith("### Faults")]
    assert titles == [f"### Faults under load, {workers}" for workers in ("one worker", "2 workers", "10 workers")]
    assert page.count("requests to a tiny graph, 2 workers") == 1


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
    faults = {**CONDITIONS, "settings": {"receive_timeout_seconds": 3.0, "descriptors": 128}}
    counts = publish_reliability.counts(
        {**faults, "scenarios": {"some fault": fault, "another": {"status": 200}}}, "2 workers"
    )
    assert "| some fault | 1,200 | 1,200 | 4 | 0 | 200 | 250 | - |" in counts
    assert "another" not in counts
    seen = publish_reliability.seen({**faults, "scenarios": {"some fault": fault}}, "2 workers")
    assert "- some fault: exit status 0; stays ready yes." in seen
    with pytest.raises(KeyError, match="unheard_of"):
        publish_reliability.seen({**faults, "scenarios": {"some fault": {**fault, "unheard_of": 1}}}, "2 workers")
