"""Parts of an arm's record, each measured on its running server."""

import json
from collections.abc import Callable
from typing import Any, Final

import httpx

from benchmarks.serving.load.ideal_server import rate_without_overhead
from benchmarks.serving.load.rate_search import RateSearch
from benchmarks.serving.measure import OVERLOAD_PATIENCE, Bench, Running, seconds_text
from benchmarks.serving.publish.results import best_alone, closed
from benchmarks.serving.publish.tables import milliseconds

OVERLOAD: Final = 3.0
# Fractions of the peak rate of onnxruntime alone: equal loads for all servers.
SAME_LOADS: Final = (0.25, 0.5, 0.75)
# Ten times the latency limit: a longer wait does not change the result of the search.
SEARCH_PATIENCE: Final = 1.0
MANY_TEXTS: Final = 256
ALONE_SECONDS: Final = 120.0
# Token budgets of batches for onnxruntime alone: that of the service, and smaller ones, which are faster on some CPUs.
BUDGETS: Final = (256, 1024, 4096)
CEILING_TEXTS: Final = 256
# The search begins a little below the rate of many clients, and moves in small steps: the highest rate is near.
SEARCH_START: Final = 0.85
SEARCH_GROWTH: Final = 1.2
BUSY_CLIENTS: Final = 32

Results = dict[str, Any]
Record = dict[str, Any]


def ceiling(bench: Bench, arm: Any, results: Results) -> None:
    """Measure onnxruntime alone on the graph of an arm, and simulate a server without overhead."""
    found = bench.alone(
        "ceiling", arm.graph, seconds=bench.plan.seconds / 4, limit=ALONE_SECONDS, budgets=BUDGETS,
        texts=bench.texts[:CEILING_TEXTS],
    )  # fmt: skip
    best = max(found["texts_per_second"].values())
    plan, counts = bench.plan, found.pop("token_counts")
    search = RateSearch(SEARCH_START * best, plan.p99_limit, plan.resolution, plan.max_points, growth=SEARCH_GROWTH)
    found["rate_without_overhead"] = rate_without_overhead(counts, best, plan.seconds, search)
    print(f"  {arm.graph.variant:32}{best:8.1f}/s in onnxruntime alone", flush=True)
    results["raw"].append({"variant": arm.graph.variant, "runtime": arm.graph.runtime, **found})


def closed_loads(bench: Bench, one: Running, record: Record, results: Results) -> None:
    """Measure memory and scores, then loads of a few clients that each wait for their answer.

    For servers that count their batches, also measure the CPU time of the graph in batches of the same mean size.
    """
    record["memory_bytes"] = one.server.memory_bytes()
    body = one.arm.bodies(bench.texts[:1])[0]
    answer = httpx.post(one.url, content=body, headers={"Content-Type": "application/json"}, trust_env=False)
    record["scores"] = one.arm.scores(answer.raise_for_status().json())
    loads = []
    for clients in one.arm.clients:
        loads.append({"clients": clients, **bench.load(one, clients=clients, limit=OVERLOAD_PATIENCE)})
        cpu, rate = loads[-1]["server_cpu"], loads[-1]["goodput"]
        print(
            f"  {one.arm.name:32}{rate:8.1f}/s  {clients:2} clients, {milliseconds(cpu, 3)} ms of CPU per request",
            flush=True,
        )
    counted = [load for load in loads if "mean_batch" in load]
    if counted:
        pairs = [{"clients": load["clients"], "mean_batch": load["mean_batch"]} for load in counted]
        seconds = bench.plan.seconds / 4
        used = bench.alone("model_cpu", one.arm.graph, seconds=seconds, limit=ALONE_SECONDS, loads=pairs)
        for load, model in zip(counted, used, strict=True):
            load["model_cpu"] = model
    record["closed_loads"] = loads


def beside_process(bench: Bench, one: Running, record: Record, results: Results) -> None:
    """Compare single texts with the same computation in a process without a server."""
    record["beside_process"] = bench.alone(
        "idle", one.arm.graph, seconds=bench.plan.seconds, limit=ALONE_SECONDS, url=one.url,
        bodies=one.arm.bodies(bench.texts),
    )  # fmt: skip


def many(bench: Bench, one: Running, record: Record, results: Results) -> None:
    """Compare requests of many texts with the same computation in a process without a server."""
    assert one.arm.many is not None
    texts = bench.texts[:MANY_TEXTS]
    record["many"] = bench.alone(
        "many", one.arm.graph, seconds=bench.plan.seconds, limit=ALONE_SECONDS, url=one.url, texts=texts,
        body=json.dumps(one.arm.many(texts)), budgets=BUDGETS[:2],
    )  # fmt: skip


def rates(bench: Bench, one: Running, record: Record, results: Results) -> None:
    """Search for the highest rate of Poisson arrivals with p99 within the limit."""
    plan = bench.plan
    busy = closed(record, BUSY_CLIENTS)
    peak = best_alone(results, one.arm.graph.variant) or 100.0
    start = SEARCH_START * max(busy["goodput"] if busy else 0.0, peak / 8)
    search = RateSearch(start, plan.p99_limit, plan.resolution, plan.max_points, growth=SEARCH_GROWTH)
    points = record["points"] = []
    while (rate := search.rate) is not None:
        figures = bench.load(one, rate=rate, seed=search.points, limit=plan.p99_limit, patience=SEARCH_PATIENCE)
        within = search.record(figures["p99"])
        points.append({"rate": rate, "within": within, **figures})
        record.update(best_rate=search.passed, searched=search.is_finished)
        state = "ok" if within else "over"
        print(f"  {one.arm.name:32}{rate:8.1f}/s  p99 {seconds_text(figures['p99'])}  {state}", flush=True)
        if not within and not bench.settled(one):
            break
        one.server.check_running()


def around(bench: Bench, one: Running, record: Record, results: Results) -> None:
    """Measure half the highest rate, fractions of the peak rate of onnxruntime alone, and an overload."""
    rate, peak = record.get("best_rate"), best_alone(results, one.arm.graph.variant)
    if rate:
        record["half"] = bench.load(one, rate=rate / 2, seed=1)
    if peak:
        record["same_loads"] = []
        for part in SAME_LOADS:
            if record["same_loads"] and not bench.settled(one):
                break
            figures = bench.load(one, rate=part * peak, seed=3)
            record["same_loads"].append({"part": part, "rate": part * peak, **figures})
    if rate and bench.settled(one):
        headers = dict(one.arm.overload_headers)
        figures = bench.load(one, rate=OVERLOAD * rate, seed=2, headers=headers, patience=OVERLOAD_PATIENCE)
        record["overload"] = {"rate": OVERLOAD * rate, **figures}
        record["memory_bytes_after"] = one.server.memory_bytes()
        one.server.check_running()
    print(f"  {one.arm.name:32} loads around the highest rate", flush=True)


PARTS: Final[dict[str, Callable[[Bench, Running, Record, Results], None]]] = {
    "closed": closed_loads, "idle": beside_process, "many": many, "rates": rates, "around": around,
}  # fmt: skip
