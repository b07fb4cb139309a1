"""Token buckets: a minute's requests at once, then evenly, for each client by itself, in bounded memory."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserve.service.security.rate_limit import CLIENTS_OF_ROW, FILE_NAME, RateLimiter, network_of, reserve_rates
from tests.support.service.stopped_clock import StoppedClock


def test_rate_limiter_burst_then_even_rate() -> None:
    clock = StoppedClock(1000.0)
    limiter = RateLimiter(clock=clock)
    assert [limiter.wait_seconds("a", 3) for _ in range(3)] == [0, 0, 0]
    assert limiter.wait_seconds("a", 3) == pytest.approx(20)
    clock.seconds += 19
    assert limiter.wait_seconds("a", 3) == pytest.approx(1)
    clock.seconds += 1.001
    assert limiter.wait_seconds("a", 3) == 0
    assert limiter.wait_seconds("a", 3) > 0
    clock.seconds += 3600
    assert [limiter.wait_seconds("a", 3) > 0 for _ in range(4)] == [False, False, False, True]


def test_one_client_takes_nothing_from_another() -> None:
    limiter = RateLimiter(clock=StoppedClock(1000.0))
    assert limiter.wait_seconds("a", 1) == 0
    assert limiter.wait_seconds("b", 1) == 0
    assert limiter.wait_seconds("a", 1) > 0


def test_a_lower_rate_holds_at_once() -> None:
    clock = StoppedClock(1000.0)
    limiter = RateLimiter(clock=clock)
    for _ in range(100):
        limiter.wait_seconds("a", 100)
    assert limiter.wait_seconds("a", 2) == pytest.approx(30)
    clock.seconds += 30.001
    assert limiter.wait_seconds("a", 2) == 0


def test_full_row_forgets_the_client_whose_bucket_is_full_first() -> None:
    clock = StoppedClock(1000.0)
    limiter = RateLimiter(clock=clock, rows=1)
    for number in range(CLIENTS_OF_ROW):
        assert limiter.wait_seconds(str(number), 1) == 0
        clock.seconds += 1
    assert limiter.wait_seconds("another", 1) == 0  # in the place of "0"
    assert limiter.wait_seconds("1", 1) > 0
    assert limiter.wait_seconds("0", 1) == 0


def test_processes_share_one_bucket_for_each_client(tmp_path: Path) -> None:
    reserve_rates(tmp_path)
    clock = StoppedClock(1000.0)
    first, second = RateLimiter(tmp_path, clock=clock), RateLimiter(tmp_path, clock=clock)
    assert [limiter.wait_seconds("a", 3) > 0 for limiter in (first, second, first, second, first)] == [
        False,
        False,
        False,
        True,
        True,
    ]
    assert second.wait_seconds("b", 3) == 0


def test_lock_of_a_dead_process_is_released(tmp_path: Path) -> None:
    reserve_rates(tmp_path)
    code = (
        "import os, fcntl, sys; file = os.open(sys.argv[1], os.O_RDWR); fcntl.lockf(file, fcntl.LOCK_EX); "
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / FILE_NAME)], check=False)
    assert RateLimiter(tmp_path).wait_seconds("a", 1) == 0


@given(st.integers(1, 50), st.lists(st.floats(0, 30), max_size=100))
def test_no_minute_has_more_than_twice_the_rate(rate: int, pauses: list[float]) -> None:
    clock = StoppedClock(1000.0)
    limiter = RateLimiter(clock=clock)
    admitted = []
    for pause in pauses:
        clock.seconds += pause
        if not limiter.wait_seconds("a", rate):
            admitted.append(clock.seconds)
    for start in admitted:
        assert sum(start <= moment < start + 60 for moment in admitted) <= 2 * rate


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_an_ipv6_address_stands_for_its_network(address: str, network: str) -> None:
    assert network_of(address) == network
