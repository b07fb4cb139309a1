"""Variants of one store in one service, measured in turn: the speed-up at the API."""

import time
from typing import Any

import httpx
import numpy as np

from benchmarks.serving.arms import Arm
from benchmarks.serving.measure import Bench, Progress
from benchmarks.serving.rate_search import RateSearch

LOADED_SECONDS = 60.0


def measure_endpoints(bench: Bench, arms: dict[str, Arm], start: float, ends: float) -> dict[str, Any]:
    """Return the highest rate with p99 within the limit and the idle p50 of each variant, or `error` on failure.

    Unfinished searches stop at `ends` on the monotonic clock.
    """
    plan, order = bench.plan, np.random.default_rng(len(arms))
    progress = {
        variant: Progress(RateSearch(start, plan.p99_limit, plan.resolution, plan.max_points)) for variant in arms
    }
    print("variants of one store", flush=True)
    first, error = next(iter(arms)), None
    try:
        with bench.serving(arms[first], progress[first]) as (_, url):
            root = url.removesuffix(arms[first].path)
            for variant, arm in arms.items():
                progress[variant].record |= _facts(root, arm)
            for index in order.permutation(len(arms)):
                variant = list(arms)[index]
                address = root + arms[variant].path
                progress[variant].record["idle"] = bench.load(
                    arms[variant], address, clients=1, seconds=plan.seconds / 2
                )
            while time.monotonic() < ends and any(item.search.rate for item in progress.values()):
                for index in order.permutation(len(arms)):
                    variant = list(arms)[index]
                    if progress[variant].search.rate is not None:
                        print(f"  {variant:18}", end="")
                        bench.point(arms[variant], root + arms[variant].path, progress[variant])
    except Exception as failure:  # earlier measurements are kept
        error = f"{type(failure).__name__}: {failure}"
        print(f"  failed: {error}", flush=True)
    return {"variants": {name: item.as_record() for name, item in progress.items()}, "error": error}


def _facts(root: str, arm: Arm) -> dict[str, Any]:
    """Return facts about a variant from the service, once it is loaded.

    Raises:
        RuntimeError: the variant was refused or not loaded in time.
    """
    url = root + arm.path.removesuffix("/classify")
    ends = time.monotonic() + LOADED_SECONDS
    while (facts := httpx.get(url).raise_for_status().json())["state"] == "loading" and time.monotonic() < ends:
        time.sleep(0.1)
    if facts["state"] != "ready":
        raise RuntimeError(f"{arm.path}: {facts['state']} {facts['reason'] or ''}")
    return {name: facts[name] for name in ("runtime", "precision", "encoder_sparsity")}
