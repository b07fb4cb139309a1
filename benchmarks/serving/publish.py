"""Write the tables of docs/benchmarks/serving.md from benchmarks/results/serving*.json."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.markdown_tables import table, write_between
from benchmarks.serving.arms import SPARSERVE
from benchmarks.serving.measure import CLOSED_CLIENTS, OVERLOAD
from benchmarks.serving.run import RESULTS, SHARED

PAGE = Path(__file__).parent.parent.parent / "docs" / "benchmarks" / "serving.md"
MEGABYTE = 1e6
DENSE = "dense"


def section(results: dict[str, Any]) -> str:
    """Return the section of one run.

    Raises:
        SystemExit: it was a --quick run, whose figures are meaningless.
    """
    if results["settings"]["quick"]:
        raise SystemExit("The results come from a --quick run. Measure again without it.")
    arms = results["arms"]
    done = {name: arm for name, arm in arms.items() if "closed" in arm}
    parts = [introduction(results), "### Targets", targets(results)]
    parts += ["### Highest rate of each server", rates(done, results["settings"])]
    parts += ["### Equal loads", same_loads(done)]
    parts += [f"### Overload: {OVERLOAD:g} times the highest rate", overload(done, results["settings"])]
    parts += ["### Start, memory, disk", footprint(done), "### Configuration", settings(arms)]
    if failures := {name: arm["error"] for name, arm in arms.items() if "error" in arm}:
        parts += [
            "### Failures",
            "\n".join(f"- {name}: `{' '.join(error.split())}`" for name, error in failures.items()),
        ]
    parts += ["### onnxruntime alone", raw(results["raw"])]
    if record := results.get("endpoints"):
        parts += ["### Dense and sparse variants of one store", endpoints(record, results["settings"])]
    return "\n\n".join(parts)


def introduction(results: dict[str, Any]) -> str:
    machine, chosen, tokens = results["machine"], results["settings"], results["raw"][0]["tokens"]
    if chosen["pinned"]:
        pinned = "The server and all its processes ran on one CPU, the load generator on another"
    elif chosen["shared"]:
        pinned = "The server and the load generator shared all CPUs"
    else:
        pinned = "Processes could not be pinned: server and load generator shared the CPUs"
    loads = [load for arm in results["arms"].values() for load in loads_of(arm)]
    busiest = max((load["generator_cpu"] for load in loads), default=0.0)
    lags = [load["generator_lag_p99"] for load in loads if load["generator_lag_p99"] is not None]
    return (
        f"`make bench-serving`, {results['measured_at']}, {results['minutes']:.0f} minutes: {machine['cpu']} "
        f"({', '.join(machine['isa'])}), {machine['cores']} cores, onnxruntime {machine['onnxruntime']}; task "
        f"{chosen['task']}, variant {chosen['variant']}, {chosen['model_bytes'] / MEGABYTE:.1f} MB. {pinned}; "
        f"{chosen['threads']} thread for inference. {chosen['texts']} texts of {tokens['mean']:.0f} tokens on average "
        f"(median {tokens['p50']:.0f}, 95 % have at most {tokens['p95']:.0f}), one per request; loads of "
        f"{chosen['seconds']:g} s. Over all loads the generator used at most {100 * busiest:.0f} % of a CPU, and the "
        f"99th percentile of its delay was at most {milliseconds(max(lags, default=None))} ms. "
        f"{same_answers(results['arms'])}"
    )


def loads_of(arm: dict[str, Any]) -> list[dict[str, Any]]:
    single = [arm[name] for name in ("idle", "half", "closed", "overload") if name in arm]
    return [*arm["points"], *arm.get("same_loads", []), *single]


def same_answers(arms: dict[str, Any]) -> str:
    """Return a sentence on the difference between the servers' scores of one text."""
    rows = [arm["scores"] for arm in arms.values() if "scores" in arm]
    if len(rows) < 2:
        return ""
    difference = max(abs(row[label] - rows[0][label]) for row in rows for label in rows[0])
    return f"The scores of a text differ by at most {difference:.1g} between servers."


def targets(results: dict[str, Any]) -> str:
    """Return the table of targets and measurements, without targets that were not measured."""
    arms, chosen, runs = results["arms"], results["settings"], results["raw"]
    own = arms.get(SPARSERVE, {})
    rows: list[list[str]] = []

    def add(target: str, measured: str, met: bool) -> None:
        rows.append([target, measured, "yes" if met else "**no**"])

    if "closed" in own:
        alone = max(median(run["texts_per_second"][budget] for run in runs) for budget in runs[0]["texts_per_second"])
        part = own["closed"]["goodput"] / alone
        target = "at least 95 % of onnxruntime alone, pre-tokenised and sorted, in its best batch size"
        add(target, f"{100 * part:.0f} % ({own['closed']['goodput']:.0f} of {alone:.0f} texts/s)", part >= 0.95)
    if beside := own.get("beside_process"):
        server, process = median(beside["server_seconds"]), median(beside["process_seconds"])
        target = "idle: at most 1.0 ms (median) more than tokenizer and session.run in a process"
        measured = f"{1000 * (server - process):.2f} ms ({1000 * server:.2f} and {1000 * process:.2f})"
        add(target, measured, server - process <= 0.001)
    if loaded := own.get("overload"):
        part = loaded["goodput"] / own["best_rate"]
        add(
            f"goodput of at least 90 % of the highest rate at {OVERLOAD:g} times that rate",
            f"{100 * part:.0f} %",
            part >= 0.9,
        )
        slowest = loaded["p99_answered"]
        met = slowest is not None and slowest <= 2 * chosen["timeout"]
        add(f"p99 of answers within {2 * chosen['timeout']:g} s at that load", f"{milliseconds(slowest)} ms", met)
    peers = {name: arm["best_rate"] for name, arm in arms.items() if name != SPARSERVE and arm["best_rate"]}
    if peers and own.get("best_rate"):
        best = max(peers, key=lambda name: peers[name])
        times = own["best_rate"] / peers[best]
        target = f"at least 1.3 times the highest rate of the best other server ({best})"
        add(target, f"{times:.2f} times", times >= 1.3)
    if own.get("starts"):
        over = median(own["starts"]) - median(run["load_seconds"] for run in runs)
        add("first answer at most 2 s later than the loading time of the model", f"{over:.1f} s", over <= 2)
    if "memory_bytes" in own:
        over = (own["memory_bytes"] - chosen["model_bytes"]) / MEGABYTE
        add("memory at most 150 MB more than the model file", f"{over:.0f} MB", over <= 150)
    return table(["target", "measured", "met"], rows) if rows else "No target was measured."


def title(name: str, arm: dict[str, Any]) -> str:
    return f"{name} {arm['version']}" if arm.get("version") else name


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f}"


def highest_first(arms: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    return sorted(arms.items(), key=lambda item: -item[1]["best_rate"])


def highest_rate(record: dict[str, Any]) -> str:
    """Return the highest rate, or a lower bound if the time of the run ended the search."""
    if not record["best_rate"]:
        return "none"
    return f"{record['best_rate']:.0f}" if record["searched"] else f"over {record['best_rate']:.0f}"


def times_as_many(record: dict[str, Any], first: dict[str, Any]) -> str:
    """Return the ratio of the highest rates, or its bounds from the failed rates if a search did not end."""
    if not record["best_rate"] or not first["best_rate"]:
        return "-"
    if record is first or (record["searched"] and first["searched"]):
        return f"{record['best_rate'] / first['best_rate']:.1f}"
    (low, high), (first_low, first_high) = bounds(record), bounds(first)
    if math.inf in (high, first_high):
        return f"over {low / first_high:.1f}" if first_high < math.inf else "-"
    return f"{low / first_high:.1f} to {high / first_low:.1f}"


def bounds(record: dict[str, Any]) -> tuple[float, float]:
    """Return the highest rate that passed and the lowest higher rate that failed; equal after a finished search."""
    passed = record["best_rate"]
    failed = [point["rate"] for point in record["points"] if not point["within"] and point["rate"] > passed]
    return passed, passed if record["searched"] else min(failed, default=math.inf)


def rates(arms: dict[str, Any], chosen: dict[str, Any]) -> str:
    rows = []
    for name, arm in highest_first(arms):
        half = arm.get("half", {})
        rows.append(
            [
                title(name, arm),
                highest_rate(arm),
                milliseconds(half.get("p50")),
                milliseconds(half.get("p99")),
                milliseconds(arm["idle"]["p50"]),
                f"{arm['closed']['goodput']:.0f}",
            ]
        )
    limit = f"p99 <= {1000 * chosen['p99_limit']:.0f} ms"
    head = ["server", f"texts/s at {limit}", "p50 at half, ms", "p99 at half, ms", "p50 of one client, ms"]
    return table([*head, f"texts/s of {CLOSED_CLIENTS} clients"], rows)


def same_loads(arms: dict[str, Any]) -> str:
    """Return the latency of all servers at loads that are equal for all."""
    loads = max((arm["same_loads"] for arm in arms.values()), key=len)
    columns = [f"p50 / p99, ms, at {load['rate']:.0f}/s ({100 * load['part']:.0f} %)" for load in loads]
    rows = []
    for name, arm in highest_first(arms):
        cells = [f"{milliseconds(load['p50'])} / {milliseconds(load['p99'])}" for load in arm["same_loads"]]
        rows.append([title(name, arm), *cells, *["-"] * (len(loads) - len(cells))])
    return "Percentages are of the peak rate of onnxruntime alone.\n\n" + table(["server", *columns], rows)


def overload(arms: dict[str, Any], chosen: dict[str, Any]) -> str:
    rows = []
    for name, arm in highest_first(arms):
        loaded = arm.get("overload")
        if loaded is None or not arm["best_rate"]:
            rows.append([title(name, arm), *["-"] * 6])
            continue
        rows.append(
            [
                title(name, arm),
                f"{loaded['rate']:.0f}",
                f"{loaded['goodput']:.0f} ({100 * loaded['goodput'] / arm['best_rate']:.0f} %)",
                f"{100 * loaded['shed']:.0f} %",
                f"{100 * (loaded['failed'] - loaded['shed']):.0f} %",
                milliseconds(loaded["p99_answered"]),
                "-" if loaded["longest"] is None else f"{loaded['longest']:.1f}",
            ]
        )
    within = f"goodput within {chosen['timeout']:g} s, texts/s (of the highest rate)"
    head = ["server", "sent, texts/s", within, "refused (429, 503)", "other failures, timeouts", "p99 of answers, ms"]
    return table([*head, "longest wait, s"], rows)


def footprint(arms: dict[str, Any]) -> str:
    rows = [
        [
            title(name, arm),
            f"{median(arm['starts']):.1f}",
            f"{arm['memory_bytes'] / MEGABYTE:.0f}",
            f"{arm['memory_bytes_after'] / MEGABYTE:.0f}" if "memory_bytes_after" in arm else "-",
            f"{arm['installed_bytes'] / MEGABYTE:.0f}",
        ]
        for name, arm in highest_first(arms)
    ]
    return table(["server", "first answer after, s", "memory, MB", "memory after overload, MB", "installed, MB"], rows)


def settings(arms: dict[str, Any]) -> str:
    return "\n".join(f"- {title(name, arm)}: {arm['settings']}" for name, arm in sorted(arms.items()))


def raw(runs: list[dict[str, Any]]) -> str:
    rows = []
    for budget in runs[0]["texts_per_second"]:
        values = [run["texts_per_second"][budget] for run in runs]
        padding = runs[0]["padded_tokens_per_token"][budget]
        rows.append([budget, f"{median(values):.0f}", f"{min(values):.0f} to {max(values):.0f}", f"{padding:.2f}"])
    load = median(run["load_seconds"] for run in runs)
    note = f"Loading the graph and the tokenizer and the first answer took {load:.2f} s."
    head = ["tokens per batch, padding included", "texts/s", "range", "computed tokens per token"]
    return note + "\n\n" + table(head, rows)


def endpoints(record: dict[str, Any], chosen: dict[str, Any]) -> str:
    variants = record["variants"]
    first = variants.get(DENSE) or next(iter(variants.values()))
    rows = []
    for name, variant in variants.items():
        if "idle" not in variant:
            continue
        idle = variant["idle"]["p50"]
        faster = first["idle"]["p50"] / idle if idle and first["idle"]["p50"] else None
        rows.append(
            [
                f"`{name}`",
                variant["runtime"],
                highest_rate(variant),
                times_as_many(variant, first),
                milliseconds(idle),
                f"{faster:.1f}" if faster else "-",
            ]
        )
    limit = f"p99 <= {1000 * chosen['p99_limit']:.0f} ms"
    head = ["variant", "runtime", f"texts/s at {limit}", "rate over dense", "p50 of one client, ms", "speed-up"]
    failure = f"\n\nThe run failed before its end: `{record['error']}`" if record["error"] else ""
    return table(head, rows) + failure


def main() -> None:
    runs = {"## On one CPU": RESULTS, "## On all CPUs": SHARED}
    measured = {head: json.loads(path.read_bytes()) for head, path in runs.items() if path.exists()}
    content = "\n\n".join(f"{head}\n\n{section(results)}" for head, results in measured.items()) + "\n"
    write_between(PAGE, content)
    print(content)


if __name__ == "__main__":
    main()
