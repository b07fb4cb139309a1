"""Throughput of a batcher."""

import pytest

from sparserve.service.inference.throughput import Throughput


def test_throughput_initial_estimate() -> None:
    assert Throughput().tokens_per_second == 0
    assert Throughput(50).tokens_per_second == 50


def test_throughput_counts_the_time_between_batches_while_requests_wait() -> None:
    throughput = Throughput()
    for end in range(10):  # each second a batch of 100 tokens that runs for 0.2 s
        throughput.observe(100, 0.2, arrived=end - 5, now=end, waiting=True)
    throughput.observe(100, 0.2, arrived=5, now=10, waiting=False)
    assert throughput.tokens_per_second == pytest.approx(100, rel=0.1)


def test_throughput_leaves_idle_time_out() -> None:
    throughput = Throughput()
    for end in range(10):
        throughput.observe(100, 0.2, arrived=end - 0.2, now=end, waiting=False)
    assert throughput.tokens_per_second == pytest.approx(500)
    # Requests that were waiting have been cancelled, and the next one came later.
    throughput.observe(100, 0.2, arrived=10, now=10.2, waiting=True)
    throughput.observe(100, 0.2, arrived=20, now=20.2, waiting=True)
    assert throughput.tokens_per_second == pytest.approx(500)
