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
    """Everything about one run.

    Raises:
        SystemExit: the run was a quick one, whose figures mean nothing.
    """
    if results["settings"]["quick"]:
        raise SystemExit("the results are of a --quick run: measure without it")
    arms = results["arms"]
    done = {name: arm for name, arm in arms.items() if "closed" in arm}
    parts = [introduction(results), "### What was to be reached", targets(results)]
    parts += ["### Servers: highest rate, and around it", rates(done, results["settings"])]
    parts += ["### The same loads for all", same_loads(done)]
    parts += [f"### At {OVERLOAD:g} times the own highest rate", overload(done, results["settings"])]
    parts += ["### Start, memory, disk", footprint(done), "### How each was set", settings(arms)]
    if failures := {name: arm["error"] for name, arm in arms.items() if "error" in arm}:
        parts += [
            "### What failed",
            "\n".join(f"- {name}: `{' '.join(error.split())}`" for name, error in failures.items()),
        ]
    parts += ["### onnxruntime alone", raw(results["raw"])]
    if found := results.get("endpoints"):
        parts += ["### Dense and sparse variants of one store", endpoints(found, results["settings"])]
    return "\n\n".join(parts)


def introduction(results: dict[str, Any]) -> str:
    machine, chosen, tokens = results["machine"], results["settings"], results["raw"][0]["tokens"]
    if chosen["pinned"]:
        pinned = "The server and all its processes ran on one CPU, the load generator on another"
    elif chosen["shared"]:
        pinned = "The server and the load generator shared all CPUs"
    else:
        pinned = "Processes could not be pinned to CPUs of their own: server and load generator shared them"
    loads = [load for arm in results["arms"].values() for load in loads_of(arm)]
    busiest = max((load["generator_cpu"] for load in loads), default=0.0)
    lags = [load["generator_lag_p99"] for load in loads if load["generator_lag_p99"] is not None]
    return (
        f"`make bench-serving`, {results['measured_at']}, {results['minutes']:.0f} minutes: {machine['cpu']} "
        f"({', '.join(machine['isa'])}), {machine['cores']} cores, onnxruntime {machine['onnxruntime']}; task "
        f"{chosen['task']}, variant {chosen['variant']}, {chosen['model_bytes'] / MEGABYTE:.1f} MB. {pinned}; "
        f"{chosen['threads']} thread for inference. {chosen['texts']} texts of {tokens['mean']:.0f} tokens on average "
        f"(median {tokens['p50']:.0f}, 95 % have at most {tokens['p95']:.0f}), one a request; loads of "
        f"{chosen['seconds']:g} s. Over all loads the generator used at most {100 * busiest:.0f} % of a CPU, and the "
        f"99th percentile of how late it sent a request was at most {milliseconds(max(lags, default=None))} ms. "
        f"{same_answers(results['arms'])}"
    )


def loads_of(arm: dict[str, Any]) -> list[dict[str, Any]]:
    single = [arm[name] for name in ("idle", "half", "closed", "overload") if name in arm]
    return [*arm["points"], *arm.get("same_loads", []), *single]


def same_answers(arms: dict[str, Any]) -> str:
    """How far the servers' scores of one text are apart."""
    rows = [arm["scores"] for arm in arms.values() if "scores" in arm]
    if len(rows) < 2:
        return ""
    apart = max(abs(row[label] - rows[0][label]) for row in rows for label in rows[0])
    return f"Their scores of a text differ by at most {apart:.1g}."


def targets(results: dict[str, Any]) -> str:
    """Each target with what was measured; those that could not be are left out."""
    arms, chosen, runs = results["arms"], results["settings"], results["raw"]
    own = arms.get(SPARSERVE, {})
    rows: list[list[str]] = []

    def add(what: str, measured: str, met: bool) -> None:
        rows.append([what, measured, "yes" if met else "**no**"])

    if "closed" in own:
        alone = max(median(run["texts_per_second"][budget] for run in runs) for budget in runs[0]["texts_per_second"])
        part = own["closed"]["goodput"] / alone
        what = "at least 95 % of onnxruntime alone, pre-tokenised and sorted, in the batches that suit it best"
        add(what, f"{100 * part:.0f} % ({own['closed']['goodput']:.0f} of {alone:.0f} texts/s)", part >= 0.95)
    if beside := own.get("beside_process"):
        server, process = median(beside["server_seconds"]), median(beside["process_seconds"])
        what = "when idle, at most 1.0 ms (median) over tokenizer and session.run in a process"
        measured = f"{1000 * (server - process):.2f} ms ({1000 * server:.2f} and {1000 * process:.2f})"
        add(what, measured, server - process <= 0.001)
    if found := own.get("overload"):
        part = found["goodput"] / own["best_rate"]
        add(
            f"at {OVERLOAD:g} times the highest rate, goodput of at least 90 % of it",
            f"{100 * part:.0f} %",
            part >= 0.9,
        )
        slowest = found["p99_answered"]
        met = slowest is not None and slowest <= 2 * chosen["timeout"]
        add(f"there, p99 of answers within {2 * chosen['timeout']:g} s", f"{milliseconds(slowest)} ms", met)
    peers = {name: arm["best_rate"] for name, arm in arms.items() if name != SPARSERVE and arm["best_rate"]}
    if peers and own.get("best_rate"):
        best = max(peers, key=lambda name: peers[name])
        times = own["best_rate"] / peers[best]
        what = f"at least 1.3 times the highest rate of the best other server ({best})"
        add(what, f"{times:.2f} times", times >= 1.3)
    if own.get("starts"):
        over = median(own["starts"]) - median(run["load_seconds"] for run in runs)
        add("first answer at most 2 s after the model would be loaded", f"{over:.1f} s", over <= 2)
    if "memory_bytes" in own:
        over = (own["memory_bytes"] - chosen["model_bytes"]) / MEGABYTE
        add("memory at most 150 MB over the model's file", f"{over:.0f} MB", over <= 150)
    return table(["target", "measured", "met"], rows) if rows else "Nothing of it was measured."


def title(name: str, arm: dict[str, Any]) -> str:
    return f"{name} {arm['version']}" if arm.get("version") else name


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f}"


def highest_first(arms: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    return sorted(arms.items(), key=lambda item: -item[1]["best_rate"])


def highest_rate(one: dict[str, Any]) -> str:
    """The rate that was found; where the time of the run ended the search, one that is too low."""
    if not one["best_rate"]:
        return "none"
    return f"{one['best_rate']:.0f}" if one["searched"] else f"over {one['best_rate']:.0f}"


def times_as_many(one: dict[str, Any], first: dict[str, Any]) -> str:
    """How many times the rate of the first; where a search did not end, what that may be by the rates that failed."""
    if not one["best_rate"] or not first["best_rate"]:
        return "-"
    if one is first or (one["searched"] and first["searched"]):
        return f"{one['best_rate'] / first['best_rate']:.1f}"
    (least, most), (fewest, highest) = bounds(one), bounds(first)
    if math.inf in (most, highest):
        return f"over {least / highest:.1f}" if highest < math.inf else "-"
    return f"{least / highest:.1f} to {most / fewest:.1f}"


def bounds(one: dict[str, Any]) -> tuple[float, float]:
    """The highest rate that passed, and the lowest above it that failed; the same where the search came to its end."""
    passed = one["best_rate"]
    failed = [point["rate"] for point in one["points"] if not point["within"] and point["rate"] > passed]
    return passed, passed if one["searched"] else min(failed, default=math.inf)


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
    """The latency of all servers at loads that do not depend on them."""
    loads = max((arm["same_loads"] for arm in arms.values()), key=len)
    columns = [f"p50 / p99, ms, at {load['rate']:.0f}/s ({100 * load['part']:.0f} %)" for load in loads]
    rows = []
    for name, arm in highest_first(arms):
        found = [f"{milliseconds(load['p50'])} / {milliseconds(load['p99'])}" for load in arm["same_loads"]]
        rows.append([title(name, arm), *found, *["-"] * (len(loads) - len(found))])
    return "In parts of what onnxruntime alone does at best.\n\n" + table(["server", *columns], rows)


def overload(arms: dict[str, Any], chosen: dict[str, Any]) -> str:
    rows = []
    for name, arm in highest_first(arms):
        found = arm.get("overload")
        if found is None or not arm["best_rate"]:
            rows.append([title(name, arm), *["-"] * 6])
            continue
        rows.append(
            [
                title(name, arm),
                f"{found['rate']:.0f}",
                f"{found['goodput']:.0f} ({100 * found['goodput'] / arm['best_rate']:.0f} %)",
                f"{100 * found['shed']:.0f} %",
                f"{100 * (found['failed'] - found['shed']):.0f} %",
                milliseconds(found["p99_answered"]),
                "-" if found["longest"] is None else f"{found['longest']:.1f}",
            ]
        )
    within = f"good within {chosen['timeout']:g} s, texts/s (of the highest rate)"
    head = ["server", "sent, texts/s", within, "refused: 429, 503", "failed else, given up", "p99 of answers, ms"]
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
    return table(["server", "first answer after, s", "memory, MB", "after the overload, MB", "installed, MB"], rows)


def settings(arms: dict[str, Any]) -> str:
    return "\n".join(f"- {title(name, arm)}: {arm['settings']}" for name, arm in sorted(arms.items()))


def raw(runs: list[dict[str, Any]]) -> str:
    rows = []
    for budget in runs[0]["texts_per_second"]:
        found = [run["texts_per_second"][budget] for run in runs]
        padding = runs[0]["padded_tokens_per_token"][budget]
        rows.append([budget, f"{median(found):.0f}", f"{min(found):.0f} to {max(found):.0f}", f"{padding:.2f}"])
    load = median(run["load_seconds"] for run in runs)
    note = f"Loading the graph and the tokenizer and a first answer took {load:.2f} s."
    head = ["tokens of a batch, padding included", "texts/s", "over the run", "tokens computed a token"]
    return note + "\n\n" + table(head, rows)


def endpoints(found: dict[str, Any], chosen: dict[str, Any]) -> str:
    variants = found["variants"]
    first = variants.get(DENSE) or next(iter(variants.values()))
    rows = []
    for name, one in variants.items():
        if "idle" not in one:
            continue
        idle = one["idle"]["p50"]
        faster = first["idle"]["p50"] / idle if idle and first["idle"]["p50"] else None
        rows.append(
            [
                f"`{name}`",
                one["runtime"],
                highest_rate(one),
                times_as_many(one, first),
                milliseconds(idle),
                f"{faster:.1f}" if faster else "-",
            ]
        )
    limit = f"p99 <= {1000 * chosen['p99_limit']:.0f} ms"
    head = ["variant", "runtime", f"texts/s at {limit}", "times dense", "p50 of one client, ms", "times faster"]
    failure = f"\n\nIt failed before its end: `{found['error']}`" if found["error"] else ""
    return table(head, rows) + failure


def main() -> None:
    runs = {"## On one CPU": RESULTS, "## On all CPUs": SHARED}
    found = {head: json.loads(path.read_bytes()) for head, path in runs.items() if path.exists()}
    content = "\n\n".join(f"{head}\n\n{section(results)}" for head, results in found.items()) + "\n"
    write_between(PAGE, content)
    print(content)


if __name__ == "__main__":
    main()
