"""Tables of the serving page. Each returns an empty text if a run has none of its figures."""

import math
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any, Final

from benchmarks.markdown_tables import table
from benchmarks.serving.publish.results import (
    BUSY,
    DENSE,
    DENSE_INT8,
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

MEGABYTE: Final = 1e6
CLIENTS: Final = (1, 8, BUSY)


def loads_of(record: Record) -> list[Record]:
    single = [record[name] for name in ("half", "overload") if name in record]
    return [*record.get("points", []), *record.get("same_loads", []), *record.get("closed_loads", []), *single]


def title(arm: Record) -> str:
    known = arm.get("version") and not arm.get("reference")
    return f"{arm['server']} {arm['version']}" if known else str(arm["server"])


def milliseconds(seconds: float | None, digits: int = 1) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.{digits}f}"


def by_variant(results: Results, make: Callable[[dict[str, Record], Results], str]) -> str:
    """Return a table per variant, each under its name."""
    found = {name: make(servers(results, name), results) for name in variants(results)}
    return "\n\n".join(f"**{name}**\n\n{text}" for name, text in found.items() if text)


def highest_first(arms: dict[str, Record]) -> Iterable[Record]:
    return sorted(arms.values(), key=lambda arm: -(arm.get("best_rate") or 0))


def gains(results: Results) -> str:
    """Return the table of this service's variants over HTTP, each against dense and dense-int8."""
    dense, int8 = own(results, DENSE), own(results, DENSE_INT8)
    rows = []
    for variant in variants(results):
        arm = own(results, variant)
        if not arm.get("closed_loads") and not arm.get("best_rate"):
            continue
        one, busy = closed(arm, 1), closed(arm, BUSY)
        rows.append(
            [
                f"`{variant}`",
                milliseconds(busy_cpu(arm), 2),
                _both(busy_cpu(dense), busy_cpu(int8), busy_cpu(arm)),
                highest_rate(arm),
                f"{times_as_many(arm, dense)} / {times_as_many(arm, int8)}",
                f"{busy['goodput']:.0f}" if busy else "-",
                milliseconds(one["p50"] if one else None, 2),
                _both(_idle(dense), _idle(int8), _idle(arm)),
            ]
        )
    if not rows:
        return ""
    limit = f"p99 <= {1000 * results['settings']['p99_limit']:.0f} ms"
    head = [
        "variant", f"server CPU per request, {BUSY} clients, ms", "gain", f"texts/s at {limit}", "gain",
        f"texts/s of {BUSY} clients", "p50 of one client, ms", "gain",
    ]  # fmt: skip
    note = "This service with each variant, over HTTP. A gain is how many times better than `dense` / `dense-int8`."
    return f"{note}\n\n{table(head, rows)}"


def _idle(arm: Record) -> float | None:
    load = closed(arm, 1)
    return load["p50"] if load else None


def _both(dense: float | None, int8: float | None, value: float | None) -> str:
    return " / ".join(f"{first / value:.1f}" if first and value else "-" for first in (dense, int8))


def cpu(results: Results) -> str:
    """Return the table of the server's CPU time per request, and of its part beyond the graph's own."""
    rows = []
    for arm in results["arms"].values():
        if arm.get("all_cpus") or busy_cpu(arm) is None:
            continue
        cells = []
        for clients in CLIENTS:
            load = closed(arm, clients) or {}
            beyond = beyond_model(load)
            own_part = f" ({milliseconds(beyond, 2)})" if beyond is not None else ""
            cells.append(f"{milliseconds(load.get('server_cpu'), 2)}{own_part}")
        load = closed(arm, BUSY) or {}
        batch = f"{load['mean_batch']:.1f}" if "mean_batch" in load else "-"
        rows.append([title(arm), arm["variant"], *cells, batch, f"{load['goodput']:.0f}"])
    if not rows:
        return ""
    note = (
        "User and system time of all processes of a server per answered request, in ms; in brackets the part beyond "
        "the graph's own time, measured in a process with the same texts in batches of the same mean size (for servers "
        "that count their batches)."
    )
    columns = [f"{clients} client{'s' if clients > 1 else ''}, ms" for clients in CLIENTS]
    head = ["server", "variant", *columns, f"texts per batch, {BUSY} clients", f"texts/s of {BUSY} clients"]
    return f"{note}\n\n{table(head, rows)}"


def idle(results: Results) -> str:
    """Return the table of single requests beside the same computation without a server."""
    rows = []
    for variant in variants(results):
        if beside := own(results, variant).get("beside_process"):
            server, process = median(beside["server_seconds"]), median(beside["process_seconds"])
            values = (server, process, server - process)
            rows.append([f"`{variant}`", *(milliseconds(value, 2) for value in values), f"{server / process:.2f}"])
    head = ["variant", "one client, p50, ms", "tokenise and run in a process, p50, ms", "difference, ms", "ratio"]
    return table(head, rows) if rows else ""


def many(results: Results) -> str:
    """Return the table of requests with many texts."""
    rows, texts = [], 0
    for variant in variants(results):
        if found := own(results, variant).get("many"):
            texts = found["texts"]
            server, tokenize = median(found["server_seconds"]), median(found["tokenize_seconds"])
            alone = min(median(seconds) for seconds in found["graph_seconds"].values())
            rows.append(
                [
                    f"`{variant}`",
                    f"{texts / server:.0f}",
                    f"{texts / alone:.0f}",
                    f"{texts / (alone + tokenize):.0f}",
                    f"{100 * alone / server:.0f} %",
                ]
            )
    head = ["variant", "texts/s", "onnxruntime alone", "tokenizer and onnxruntime alone", "of onnxruntime alone"]
    return f"{texts} texts, alternately in one request and without a server.\n\n{table(head, rows)}" if rows else ""


def workers(results: Results) -> str:
    """Return the table of arms that use all CPUs with one or more processes."""
    rows = []
    for arm in results["arms"].values():
        if not arm.get("all_cpus") or not arm.get("closed_loads"):
            continue
        for load in arm["closed_loads"]:
            rows.append(
                [
                    f"{arm['workers']}",
                    f"{load['clients']}",
                    f"{load['goodput']:.0f}",
                    milliseconds(load["p50"]),
                    milliseconds(load["p99"]),
                    milliseconds(load.get("server_cpu"), 2),
                    f"{100 * load['generator_cpu']:.0f} %",
                    f"{arm['memory_bytes'] / MEGABYTE:.0f}",
                ]
            )
    if not rows:
        return ""
    head = ["workers", "clients", "texts/s", "p50, ms", "p99, ms", "server CPU per request, ms", "generator, of a CPU"]
    return "All processes share all CPUs with the load generator.\n\n" + table([*head, "memory, MB"], rows)


def highest_rate(record: Record) -> str:
    """Return the highest rate, or its bounds if the search did not end."""
    if not record.get("points") and not record.get("best_rate"):
        return "-"
    passed, failed = bounds(record)
    if record["searched"]:
        return f"{passed:.0f}"
    if failed == math.inf:
        return f"over {passed:.0f}" if passed else "none"
    return f"{passed:.0f} to {failed:.0f}" if passed else f"under {failed:.0f}"


def times_as_many(record: Record, first: Record) -> str:
    """Return the ratio of the highest rates, or its bounds from the failed rates if a search did not end."""
    if not record.get("best_rate") or not first.get("best_rate"):
        return "-"
    if record is first or (record["searched"] and first["searched"]):
        return f"{record['best_rate'] / first['best_rate']:.1f}"
    (low, high), (first_low, first_high) = bounds(record), bounds(first)
    if math.inf in (high, first_high):
        return f"over {low / first_high:.1f}" if first_high < math.inf else "-"
    return f"{low / first_high:.1f} to {high / first_low:.1f}"


def rates(arms: dict[str, Record], results: Results) -> str:
    rows = []
    for arm in highest_first(arms):
        one, busy, half = closed(arm, 1), closed(arm, BUSY), arm.get("half", {})
        if one is None and not arm.get("best_rate"):
            continue
        rows.append(
            [
                title(arm),
                highest_rate(arm),
                milliseconds(half.get("p50")),
                milliseconds(half.get("p99")),
                milliseconds(one["p50"] if one else None),
                f"{busy['goodput']:.0f}" if busy else "-",
            ]
        )
    if not rows:
        return ""
    limit = f"p99 <= {1000 * results['settings']['p99_limit']:.0f} ms"
    head = ["server", f"texts/s at {limit}", "p50 at half, ms", "p99 at half, ms", "p50 of one client, ms"]
    variant = next(iter(arms.values()))["variant"]
    ideal, alone = without_overhead(results, variant), best_alone(results, variant)
    note = f"onnxruntime alone: {alone:.0f} texts/s" if alone else ""
    note += f"; a server without overhead: {ideal:.0f} texts/s at {limit}" if ideal else ""
    return f"{note}{'.' if note else ''}\n\n{table([*head, f'texts/s of {BUSY} clients'], rows)}".lstrip()


def same_loads(arms: dict[str, Record], results: Results) -> str:
    """Return the latency of all servers at loads that are equal for all."""
    measured = {name: arm for name, arm in arms.items() if arm.get("same_loads")}
    if not measured:
        return ""
    loads = max((arm["same_loads"] for arm in measured.values()), key=len)
    columns = [f"p50 / p99, ms, at {load['rate']:.0f}/s ({100 * load['part']:.0f} %)" for load in loads]
    rows = []
    for arm in highest_first(measured):
        cells = [f"{milliseconds(load['p50'])} / {milliseconds(load['p99'])}" for load in arm["same_loads"]]
        rows.append([title(arm), *cells, *["-"] * (len(loads) - len(cells))])
    return "Percentages are of the peak rate of onnxruntime alone.\n\n" + table(["server", *columns], rows)


def overload(arms: dict[str, Record], results: Results) -> str:
    rows = []
    for arm in highest_first(arms):
        loaded = arm.get("overload")
        if loaded is None or not arm["best_rate"]:
            continue
        rows.append(
            [
                title(arm),
                f"{loaded['rate']:.0f}",
                f"{loaded['goodput']:.0f} ({100 * loaded['goodput'] / arm['best_rate']:.0f} %)",
                f"{100 * loaded['shed']:.0f} %",
                f"{100 * (loaded['failed'] - loaded['shed']):.0f} %",
                milliseconds(loaded["p99_answered"]),
                "-" if loaded["longest"] is None else f"{loaded['longest']:.1f}",
            ]
        )
    within = f"goodput within {results['settings']['timeout']:g} s, texts/s (of the highest rate)"
    head = ["server", "sent, texts/s", within, "refused (429, 503)", "other failures, timeouts", "p99 of answers, ms"]
    return table([*head, "longest wait, s"], rows) if rows else ""


def footprint(arms: dict[str, Record], results: Results) -> str:
    rows = [
        [
            title(arm),
            f"{median(arm['starts']):.1f}",
            f"{arm['memory_bytes'] / MEGABYTE:.0f}",
            f"{arm['memory_bytes_after'] / MEGABYTE:.0f}" if "memory_bytes_after" in arm else "-",
            f"{arm['installed_bytes'] / MEGABYTE:.0f}",
        ]
        for arm in highest_first(arms)
        if arm.get("starts") and "memory_bytes" in arm
    ]
    head = ["server", "first answer after, s", "memory, MB", "memory after overload, MB", "installed, MB"]
    return table(head, rows) if rows else ""


def raw(results: Results) -> str:
    rows: list[list[Any]] = []
    for variant in dict.fromkeys(run["variant"] for run in results["raw"]):
        runs, best = runs_alone(results, variant), best_alone(results, variant)
        load = median(run["load_seconds"] for run in runs)
        for budget in runs[0]["texts_per_second"]:
            values = [run["texts_per_second"][budget] for run in runs]
            padding, middle = runs[0]["padded_tokens_per_token"][budget], median(values)
            name = f"`{variant}`, {runs[0]['runtime']}"
            value = f"**{middle:.0f}**" if middle == best else f"{middle:.0f}"
            spread = f"{min(values):.0f} to {max(values):.0f}"
            rows.append([name, budget, value, spread, f"{padding:.2f}", f"{load:.2f}"])
    head = ["graph, runtime", "tokens per batch, padding included", "texts/s", "range", "computed tokens per token"]
    return table([*head, "loading and first answer, s"], rows)
