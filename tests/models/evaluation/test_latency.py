"""Measured latency and memory of graphs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tests.support.tiny_bundles
from sparserve.models.bundle.variants import Arm
from sparserve.models.errors import BundleError
from sparserve.models.evaluation.latency import (
    FP32_BASELINE,
    INT8_BASELINE,
    MIN_ROUNDS,
    RunnableGraph,
    measure,
    resident_bytes,
)

SPARSE90 = Arm.parse("sparse90")
VOCABULARY = len(tests.support.tiny_bundles.WORDS)


@pytest.fixture
def make_arms(tmp_path: Path) -> Callable[..., dict[Arm, RunnableGraph]]:
    def make(*arms: Arm) -> dict[Arm, RunnableGraph]:
        for index, arm in enumerate(arms):
            (tmp_path / f"{arm}.onnx").write_bytes(tests.support.tiny_bundles.graph(seed=index))
        return {arm: RunnableGraph(tmp_path / f"{arm}.onnx", pad_token_id=0) for arm in arms}

    return make


def test_measure_compares_every_arm_with_the_same_baselines(make_arms: Callable[..., dict[Arm, RunnableGraph]]) -> None:
    heard: list[tuple[int, int, str]] = []
    measured = measure(
        make_arms(FP32_BASELINE, INT8_BASELINE, SPARSE90),
        vocabulary=VOCABULARY,
        batches=(1, 3),
        lengths=(4, 8),
        budget_seconds=0.0,
        threads=1,
        progress=lambda *step: heard.append(step),
    )
    assert list(measured) == [FP32_BASELINE, INT8_BASELINE, SPARSE90]
    for record in measured.values():
        assert [(p.batch, p.length) for p in record.latency] == [(1, 4), (1, 8), (3, 4), (3, 8)]
        assert (record.threads, record.repeats) == (1, MIN_ROUNDS)
        assert record.machine == measured[FP32_BASELINE].machine
        for point, dense, int8 in zip(
            record.latency, measured[FP32_BASELINE].latency, measured[INT8_BASELINE].latency, strict=True
        ):
            assert 0 < point.p50_seconds <= point.p95_seconds
            assert math.isclose(point.items_per_second, point.batch / point.p50_seconds)
            assert point.dense_p50_seconds == dense.p50_seconds
            assert point.dense_int8_p50_seconds == int8.p50_seconds
    assert all(point.speedup == 1 for point in measured[FP32_BASELINE].latency)
    assert heard[0] == (0, 7, "memory of dense")
    assert heard[-1] == (7, 7, "measured")


def test_measure_without_int8_baseline_limits_lengths_to_the_maximum(
    make_arms: Callable[..., dict[Arm, RunnableGraph]],
) -> None:
    options: dict[str, Any] = {"batches": (1,), "lengths": (4, 64, 128), "max_length": 8, "budget_seconds": 0.0}
    points = measure(make_arms(FP32_BASELINE), vocabulary=VOCABULARY, **options)[FP32_BASELINE].latency
    assert [point.length for point in points] == [4, 8]
    assert {(point.dense_int8_p50_seconds, point.speedup_int8) for point in points} == {(None, None)}


def test_measure_refuses_arms_without_the_baseline(make_arms: Callable[..., dict[Arm, RunnableGraph]]) -> None:
    with pytest.raises(ValueError, match="given: sparse90"):
        measure(make_arms(SPARSE90), vocabulary=VOCABULARY)


def test_measure_refuses_an_empty_grid(make_arms: Callable[..., dict[Arm, RunnableGraph]]) -> None:
    with pytest.raises(ValueError, match="grid is empty"):
        measure(make_arms(FP32_BASELINE), vocabulary=VOCABULARY, lengths=())


def test_resident_bytes_names_a_graph_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(BundleError, match=r"broken\.onnx"):
        resident_bytes(RunnableGraph(tmp_path / "broken.onnx"), vocabulary=VOCABULARY, length=4, threads=1)


def test_measure_names_a_graph_with_fewer_tokens(make_arms: Callable[..., dict[Arm, RunnableGraph]]) -> None:
    arms = make_arms(FP32_BASELINE)
    expected = rf"dense\.onnx .* token ids below {VOCABULARY + 1}: .*idx={VOCABULARY} .*,{VOCABULARY - 1}\]"
    with pytest.raises(BundleError, match=expected):
        measure(arms, vocabulary=VOCABULARY + 1, batches=(1,), lengths=(2,), budget_seconds=0.0, threads=1)
