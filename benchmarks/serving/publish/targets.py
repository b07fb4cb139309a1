"""Targets of the service and the figures of a run."""

from statistics import median
from typing import Any, Final

from benchmarks.serving.publish.results import (
    BUSY,
    DENSE,
    DENSE_INT8,
    SPARSE_INT8,
    SPARSERVE,
    Record,
    Results,
    best_alone,
    beyond_model,
    bounds,
    busy_cpu,
    closed,
    own,
    runs_alone,
    servers,
    variants,
    without_overhead,
)
from benchmarks.serving.publish.tables import highest_rate

BEYOND_MODEL_SECONDS: Final = 0.00035
IDLE_SECONDS: Final = 0.0005
PART_OF_ALONE: Final = {DENSE: 0.85, SPARSE_INT8: 0.75}
GAIN: Final = {DENSE: 9.0, DENSE_INT8: 3.0}
WORKERS_GAIN: Final = 1.8
OTHER_SERVERS: Final = 1.5
PART_OF_MANY: Final = 0.9
PART_IN_OVERLOAD: Final = 0.9
START_SECONDS: Final = 2.0
MEMORY_BYTES: Final = 150e6


def targets(results: Results) -> list[dict[str, Any]]:
    """Return each target with its measured figure and `met`, without targets that were not measured."""
    rows: list[dict[str, Any]] = []

    def add(target: str, measured: str, figure: float | None, bound: float, *, at_most: bool = False) -> None:
        met = figure is not None and (figure <= bound if at_most else figure >= bound)
        rows.append({"target": target, "measured": measured, "figure": figure, "bound": bound, "met": met})

    _cpu(results, add)
    _idle(results, add)
    _rates(results, add)
    _gains(results, add)
    _workers(results, add)
    _others(results, add)
    _many(results, add)
    _kept(results, add)
    return rows


def _cpu(results: Results, add: Any) -> None:
    for variant in (name for name in variants(results) if name.startswith("sparse")):
        load = closed(own(results, variant), BUSY)
        beyond = beyond_model(load)
        if load is None or beyond is None:
            continue
        bare = [
            record for record in results["arms"].values() if record.get("reference") and record["variant"] == variant
        ]
        floors = [cost for record in bare if (cost := beyond_model(closed(record, BUSY))) is not None]
        floor = f"; the bare application with a queue: {_ms(floors[0])}" if floors else ""
        add(
            f"{variant}, {BUSY} clients: server CPU per request beyond the model's own in batches of the same size at "
            f"most {1000 * BEYOND_MODEL_SECONDS:g} ms",
            f"{_ms(beyond)} ms ({_ms(load['server_cpu'])} and {_ms(load['model_cpu'])}{floor})",
            beyond, BEYOND_MODEL_SECONDS, at_most=True,
        )  # fmt: skip


def _idle(results: Results, add: Any) -> None:
    for variant in variants(results):
        if beside := own(results, variant).get("beside_process"):
            server, process = median(beside["server_seconds"]), median(beside["process_seconds"])
            add(
                f"{variant}, idle: p50 at most {1000 * IDLE_SECONDS:g} ms above tokenise and run in a process",
                f"{_ms(server - process)} ms ({_ms(server)} and {_ms(process)}, {server / process:.2f} times)",
                server - process, IDLE_SECONDS, at_most=True,
            )  # fmt: skip


def _rates(results: Results, add: Any) -> None:
    if not results["settings"]["pinned"]:
        return
    limit = f"p99 <= {1000 * results['settings']['p99_limit']:g} ms"
    for variant, part in PART_OF_ALONE.items():
        record, alone = own(results, variant), best_alone(results, variant)
        rate = record.get("best_rate")
        if rate is not None and alone:
            add(
                f"{variant}, one CPU: highest rate at {limit} at least {100 * part:g} % of raw onnxruntime",
                f"{100 * rate / alone:.0f} % ({rate:.0f} of {alone:.0f} texts/s{_ideal(results, variant, alone)})"
                f"{_open(record)}",
                rate / alone, part,
            )  # fmt: skip


def _open(record: Record) -> str:
    """Return a note on a highest rate that was not found, empty if it was."""
    if record["searched"]:
        return ""
    return f"; highest rate of {record['server']} not found, the search could not end: {highest_rate(record)} texts/s"


def _ideal(results: Results, variant: str, alone: float) -> str:
    rate = without_overhead(results, variant)
    return f"; a server without overhead: {rate:.0f}, {100 * rate / alone:.0f} %" if rate else ""


def _gains(results: Results, add: Any) -> None:
    sparse = busy_cpu(own(results, SPARSE_INT8))
    for variant, times in GAIN.items():
        if sparse and (cpu := busy_cpu(own(results, variant))):
            add(
                f"{SPARSE_INT8}, {BUSY} clients, by server CPU per request: at least {times:g} times {variant}",
                f"{cpu / sparse:.1f} times ({_ms(cpu)} and {_ms(sparse)} ms)", cpu / sparse, times,
            )  # fmt: skip


def _workers(results: Results, add: Any) -> None:
    arms = {record["workers"]: record for record in results["arms"].values() if record.get("all_cpus")}
    one, two = (busiest(arms[count]) if count in arms else 0.0 for count in (1, 2))
    if one and two:
        pinned = closed(own(results, SPARSE_INT8), BUSY)
        beside = f"; {pinned['goodput']:.0f} on one CPU" if pinned else ""
        add(
            f"{SPARSE_INT8}, two CPUs: `--workers 2` at least {WORKERS_GAIN:g} times `--workers 1`",
            f"{two / one:.2f} times ({two:.0f} and {one:.0f} texts/s{beside})", two / one, WORKERS_GAIN,
        )  # fmt: skip


def busiest(record: Record) -> float:
    """Return the texts per second of the best of the loads of many clients."""
    return float(max((load["goodput"] for load in record.get("closed_loads", [])), default=0.0))


def _others(results: Results, add: Any) -> None:
    for variant in (DENSE, SPARSE_INT8):
        records = {name: record for name, record in servers(results, variant).items() if record.get("points")}
        mine = records.pop(SPARSERVE, None)
        best = max(records.values(), key=lambda record: float(record["best_rate"]), default=None)
        if mine is None or best is None or not best["best_rate"]:
            continue
        beside = ", ".join(
            f"{rate:.0f} on {name}" for name in (DENSE, DENSE_INT8)
            if name != variant and (rate := own(results, name).get("best_rate"))
        )  # fmt: skip
        # An unfinished search of another server leaves open how fast it is: its lowest failed rate counts.
        rivals = {name: bounds(record)[1] for name, record in records.items()}
        doubtful = [mine, *(records[name] for name, high in rivals.items() if high >= best["best_rate"])]
        missing = _without_rate(results, variant)
        ratio = mine["best_rate"] / best["best_rate"]
        add(
            f"{variant}: at least {OTHER_SERVERS:g} times the highest rate of the best other server",
            f"{ratio:.2f} times {best['server']} ({mine['best_rate']:.0f} and {best['best_rate']:.0f} texts/s"
            f"{f'; this service has {beside}' if beside else ''}){''.join(map(_open, doubtful))}"
            f"{f'; without {missing}' if missing else ''}",
            mine["best_rate"] / max(rivals.values()), OTHER_SERVERS,
        )  # fmt: skip


def _without_rate(results: Results, variant: str) -> str:
    """Return the arms of a variant, by name, whose highest rate was not measured for lack of time."""
    names = [turn["arm"] for turn in results.get("skipped", []) if "rates" in turn["parts"]]
    return ", ".join(name for name in names if name.endswith(f" {variant}"))


def _many(results: Results, add: Any) -> None:
    for variant in variants(results):
        if found := own(results, variant).get("many"):
            server = median(found["server_seconds"])
            alone = min(median(seconds) for seconds in found["graph_seconds"].values())
            add(
                f"{variant}, {found['texts']} texts in one request: at least {100 * PART_OF_MANY:g} % of raw "
                "onnxruntime, tokenised and sorted, in its best batch size",
                f"{100 * alone / server:.0f} % ({found['texts'] / server:.0f} of {found['texts'] / alone:.0f} texts/s)",
                alone / server, PART_OF_MANY,
            )  # fmt: skip


def _kept(results: Results, add: Any) -> None:
    """Targets of earlier versions that a faster service must not give up."""
    timeout = results["settings"]["timeout"]
    for variant in variants(results):
        record, graph = own(results, variant), results["settings"]["graphs"].get(variant)
        if (loaded := record.get("overload")) and record.get("best_rate"):
            part = loaded["goodput"] / record["best_rate"]
            add(
                f"{variant}, overload: goodput at least {100 * PART_IN_OVERLOAD:g} % of the highest rate",
                f"{100 * part:.0f} %{_open(record)}", part, PART_IN_OVERLOAD,
            )  # fmt: skip
            slowest = loaded["p99_answered"]
            add(
                f"{variant}, overload: p99 of answers within {2 * timeout:g} s",
                "no answers" if slowest is None else f"{1000 * slowest:.0f} ms",
                slowest, 2 * timeout, at_most=True,
            )  # fmt: skip
        runs = runs_alone(results, variant)
        if record.get("starts") and runs:
            over = median(record["starts"]) - median(run["load_seconds"] for run in runs)
            add(
                f"{variant}: first answer at most {START_SECONDS:g} s later than the loading time of the model",
                f"{over:.1f} s", over, START_SECONDS, at_most=True,
            )  # fmt: skip
        if "memory_bytes" in record and graph:
            over = record["memory_bytes"] - graph["bytes"]
            add(
                f"{variant}: memory at most {MEMORY_BYTES / 1e6:.0f} MB more than the model file",
                f"{over / 1e6:.0f} MB", over, MEMORY_BYTES, at_most=True,
            )  # fmt: skip


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"
