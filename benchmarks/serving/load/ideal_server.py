"""Simulation of a server without overhead: a bound that no server can pass, whatever it is written in.

It has one thread and runs texts in the order of their arrival, each in a time proportional to its tokens, at the rate
of onnxruntime alone. Where a text takes long in comparison with the limit of the latency, waiting behind other texts
bounds the rate: at 11 ms per text, a p99 of 100 ms is reached at two thirds of the rate of onnxruntime alone.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.serving.load.rate_search import RateSearch, percentile
from benchmarks.serving.load.texts import poisson_arrivals

Times = npt.NDArray[np.float64]


def latencies(arrivals: Times, run_seconds: Times) -> Times:
    """Return the latency of each text, which waits until the earlier ones are done."""
    total = np.cumsum(run_seconds)
    begins = np.maximum.accumulate(arrivals - (total - run_seconds))
    return begins + total - arrivals


def rate_without_overhead(tokens: Sequence[int], texts_per_second: float, seconds: float, search: RateSearch) -> float:
    """Return the highest rate of such a server, by the same search with the same arrivals as for a real one.

    Args:
        tokens: tokens of each text; requests have these texts in turn.
        texts_per_second: rate of onnxruntime alone.
        seconds: duration of a load.
        search: the search, before its first point.
    """
    each = np.asarray(tokens, dtype=float) / np.mean(tokens) / texts_per_second
    while (rate := search.rate) is not None:
        arrivals = poisson_arrivals(rate, seconds, search.points)
        search.record(percentile(latencies(arrivals, np.resize(each, len(arrivals))), 99))
    return search.passed
