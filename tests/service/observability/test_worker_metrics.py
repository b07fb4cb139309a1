"""Metrics of several workers add up, and survive the end of a worker."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import values

from sparserve.service.observability.metrics import Metrics
from sparserve.service.observability.worker_metrics import FileValues, ProcessesCollector, reserve_metrics
from sparserve.service.types import ModelRef

MODEL = ModelRef(task="t", variant="v", version="0" * 16)
SECONDS = {"queue_seconds": 0.002, "tokenize_seconds": 0.002, "inference_seconds": 0.002}


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[int], Metrics]]:
    """Start to count as a worker with a number; the values of this process are restored at the end."""
    before, opened = values.ValueClass, []
    for number in range(2):
        reserve_metrics(tmp_path, number)

    def start(number: int) -> Metrics:
        opened.append(FileValues(tmp_path, number))
        values.ValueClass = opened[-1]
        return Metrics(tmp_path)

    yield start
    values.ValueClass = before
    for files in opened:
        files.close()


def lines(metrics: Metrics) -> set[str]:
    return set(metrics.exposition().decode().splitlines())


def test_counters_histograms_and_live_gauges_add_up(worker: Callable[[int], Metrics]) -> None:
    workers = [worker(number) for number in range(2)]
    for number, metrics in enumerate(workers):
        metrics.requests.of(MODEL).classified(inputs=1, tokens=3, truncated=0, **SECONDS)
        metrics.http.connections.inc(1 + number)
        metrics.batches.waiting.set_function(partial(float, 10 + number))
        metrics.publish()
    for metrics in workers:
        assert lines(metrics) >= {
            'sparserve_tokens_total{task="t",variant="v"} 6.0',
            'sparserve_stage_duration_seconds_count{stage="queue",task="t",variant="v"} 2.0',
            "sparserve_connections 3.0",
            "sparserve_inputs_waiting 21.0",
        }


def test_worker_that_replaces_another_continues_its_counters(worker: Callable[[int], Metrics], tmp_path: Path) -> None:
    other, first = worker(1), worker(0)
    for metrics in (other, first):
        metrics.http.denied.inc()
        metrics.http.connections.inc()
    reserve_metrics(tmp_path, 0)  # by the supervisor: the connections of a dead process are closed
    second = worker(0)
    second.http.denied.inc()
    assert lines(other) >= {"sparserve_requests_denied_total 3.0", "sparserve_connections 1.0"}


def test_state_of_the_service_is_not_added_up(worker: Callable[[int], Metrics]) -> None:
    workers = [worker(number) for number in range(2)]
    for metrics in workers:
        metrics.store.model_info.labels("t", "v", "1", "onnx").set(1)
        metrics.ready.set(1)
    state = {"workers": 2, "readable": 0, "last_read": 5, "refused": 1, "processes": {}, "experiments": []}
    workers[0].show(state)
    assert lines(workers[0]) >= {
        'sparserve_model_info{runtime="onnx",task="t",variant="v",version="1"} 1.0',
        "sparserve_ready 1.0",
        "sparserve_workers 2.0",
        "sparserve_store_readable 0.0",
        "sparserve_bundles_refused 1.0",
    }
    workers[0].store.model_info.clear()
    assert not any(line.startswith("sparserve_model_info{") for line in lines(workers[0]))


def test_processes_collector_labels_each_process() -> None:
    collector = ProcessesCollector()
    collector.pids = {"supervisor": os.getpid(), "0": os.getpid()}
    (memory,) = (metric for metric in collector.collect() if metric.name == "process_resident_memory_bytes")
    assert [sample.labels for sample in memory.samples] == [{"process": "supervisor"}, {"process": "0"}]
    assert all(sample.value > 0 for sample in memory.samples)
