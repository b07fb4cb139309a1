import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserve.service.inference.latency_model import OUTLIER_RATIO, LatencyModel

SIZES = (8, 512, 64, 32, 256, 16)


def learnt(fixed: float, per_token: float, sizes: tuple[int, ...] = SIZES, rounds: int = 20) -> LatencyModel:
    latency = LatencyModel()
    for size in sizes * rounds:
        latency.observe(size, fixed + per_token * size)
    return latency


@given(st.floats(0, 0.1), st.floats(1e-6, 1e-2))
def test_latency_model_separates_fixed_and_per_token_cost(fixed: float, per_token: float) -> None:
    latency = learnt(fixed, per_token)
    assert latency.fixed_seconds == pytest.approx(fixed, rel=0.01, abs=0.01 * 100 * per_token)
    assert latency.seconds_per_token == pytest.approx(per_token, rel=0.01, abs=0.01 * fixed / 100)
    assert latency.tokens(latency.seconds(100)) == pytest.approx(100)


def test_latency_model_one_size() -> None:
    latency = learnt(0.004, 0.00005, sizes=(20,))
    assert latency.seconds(20) == pytest.approx(0.005)
    assert latency.fixed_seconds == pytest.approx(0)


@given(st.lists(st.tuples(st.integers(1, 4096), st.floats(1e-6, 10)), min_size=1, max_size=60))
def test_latency_model_is_monotonic(batches: list[tuple[int, float]]) -> None:
    latency = LatencyModel()
    for tokens, seconds in batches:
        latency.observe(tokens, seconds)
        assert 0 <= latency.seconds_per_token < math.inf and -1e-9 <= latency.fixed_seconds < math.inf
        assert latency.seconds(4096) > 0


def test_latency_model_ignores_one_outlier() -> None:
    latency = learnt(0.001, 0.0001)
    before = latency.seconds(64)
    latency.observe(64, 30.0)
    assert latency.seconds(64) < 1.5 * before


def test_latency_model_forgets_first_outlier() -> None:
    latency = LatencyModel()
    latency.observe(64, 30.0)
    latency.observe(64, 0.01)
    assert latency.seconds(64) == pytest.approx(0.01)


def test_latency_model_follows_slower_machine() -> None:
    latency = learnt(0.0, 0.0001)
    for _ in range(60):
        latency.observe(64, 10 * OUTLIER_RATIO * 0.0064)
    assert latency.seconds(64) == pytest.approx(10 * OUTLIER_RATIO * 0.0064, rel=0.2)


def test_latency_model_without_batches() -> None:
    assert LatencyModel().seconds(4096) == 0
    assert LatencyModel().tokens(0.1) == math.inf
    assert LatencyModel().tokens(0.0) == 0
