"""The variants of one store in one service, asked in turn: the speed-up that its users see."""

import time
from typing import Any

import httpx
import numpy as np

from benchmarks.serving.arms import Arm
from benchmarks.serving.measure import Bench, Progress
from benchmarks.serving.rate_search import RateSearch

LOADED_SECONDS = 60.0


def measure_endpoints(bench: Bench, arms: dict[str, Arm], start: float, ends: float) -> dict[str, Any]:
    """Highest rate with p99 within the limit and idle p50 of each variant; `error` where the service failed.

    The searches end at `ends` on the monotonic clock, wherever they are.
    """
    plan, order = bench.plan, np.random.default_rng(len(arms))
    found = {
        variant: Progress(RateSearch(start, plan.p99_limit, plan.resolution, plan.most_points)) for variant in arms
    }
    print("variants of one store", flush=True)
    first, error = next(iter(arms)), None
    try:
        with bench.serving(arms[first], found[first]) as (_, url):
            root = url.removesuffix(arms[first].path)
            for variant, arm in arms.items():
                found[variant].record |= _facts(root, arm)
            for index in order.permutation(len(arms)):
                variant = list(arms)[index]
                address = root + arms[variant].path
                found[variant].record["idle"] = bench.load(arms[variant], address, clients=1, seconds=plan.seconds / 2)
            while time.monotonic() < ends and any(one.search.rate for one in found.values()):
                for index in order.permutation(len(arms)):
                    variant = list(arms)[index]
                    if found[variant].search.rate is not None:
                        print(f"  {variant:18}", end="")
                        bench.point(arms[variant], root + arms[variant].path, found[variant])
    except Exception as failure:  # what was measured until then is kept
        error = f"{type(failure).__name__}: {failure}"
        print(f"  failed: {error}", flush=True)
    return {"variants": {name: one.as_record() for name, one in found.items()}, "error": error}


def _facts(root: str, arm: Arm) -> dict[str, Any]:
    """What the service says of a variant, once it is loaded.

    Raises:
        RuntimeError: it is refused, or not loaded in time.
    """
    url = root + arm.path.removesuffix("/classify")
    ends = time.monotonic() + LOADED_SECONDS
    while (facts := httpx.get(url).raise_for_status().json())["state"] == "loading" and time.monotonic() < ends:
        time.sleep(0.1)
    if facts["state"] != "ready":
        raise RuntimeError(f"{arm.path}: {facts['state']} {facts['reason'] or ''}")
    return {name: facts[name] for name in ("runtime", "precision", "encoder_sparsity")}
