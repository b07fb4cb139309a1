"""Write the tables of docs/benchmarks/serving.md from benchmarks/results/serving*.json."""

from pathlib import Path
from typing import Any, Final

from benchmarks.markdown_tables import table, write_between
from benchmarks.serving.parts import OVERLOAD
from benchmarks.serving.publish import tables
from benchmarks.serving.publish.results import Record, Results, read, upgraded, variants
from benchmarks.serving.publish.targets import targets

PAGE = Path(__file__).parents[3] / "docs" / "benchmarks" / "serving.md"
RESULTS: Final = Path(__file__).parents[2] / "results" / "serving.json"
SHARED: Final = RESULTS.with_name("serving-shared.json")


def section(found: Results) -> str:
    """Return the section of one run.

    Raises:
        SystemExit: it was a --quick run, whose figures are meaningless.
    """
    results = upgraded(found)
    if results["settings"]["quick"]:
        raise SystemExit("The results come from a --quick run. Measure again without it.")
    rows = [[row["target"], row["measured"], "yes" if row["met"] else "**no**"] for row in targets(results)]
    parts = [
        ("", introduction(results)),
        ("Targets", table(["target", "measured", "met"], rows) if rows else ""),
        ("Gain of a client", tables.gains(results)),
        ("Server CPU per request", tables.cpu(results)),
        ("An idle server", tables.idle(results)),
        ("Many texts in one request", tables.many(results)),
        ("Worker processes", tables.workers(results)),
        ("Highest rate of each server", tables.by_variant(results, tables.rates)),
        ("Equal loads", tables.by_variant(results, tables.same_loads)),
        (f"Overload: {OVERLOAD:g} times the highest rate", tables.by_variant(results, tables.overload)),
        ("Start, memory, disk", tables.by_variant(results, tables.footprint)),
        ("onnxruntime alone", tables.raw(results)),
        ("Configuration", configuration(results)),
        ("Failures and arms without time", failures(results)),
    ]
    return "\n\n".join(f"### {title}\n\n{text}" if title else text for title, text in parts if text)


def introduction(results: Results) -> str:
    machine, chosen, tokens = results["machine"], results["settings"], results["raw"][0]["tokens"]
    if chosen["pinned"]:
        pinned = "The server and all its processes ran on one CPU, the load generator on another"
    elif chosen["shared"]:
        pinned = "The server and the load generator shared all CPUs"
    else:
        pinned = "Processes could not be pinned: server and load generator shared the CPUs"
    loads = [load for record in results["arms"].values() for load in tables.loads_of(record)]
    busiest = max((load["generator_cpu"] for load in loads), default=0.0)
    lags = [load["generator_lag_p99"] for load in loads if load["generator_lag_p99"] is not None]
    files = ", ".join(f"{name} ({graph['bytes'] / 1e6:.1f} MB)" for name, graph in chosen["graphs"].items())
    return (
        f"`make bench-serving`, {results['measured_at']}, {results['minutes']:.0f} minutes: {machine['cpu']} "
        f"({', '.join(machine['isa'])}), {machine['cores']} cores, onnxruntime {machine['onnxruntime']}; task "
        f"{chosen['task']}: {files}. {pinned}; "
        f"{chosen['threads']} thread for inference. {chosen['texts']} texts of {tokens['mean']:.0f} tokens on average "
        f"(median {tokens['p50']:.0f}, 95 % have at most {tokens['p95']:.0f}), one per request; loads of "
        f"{chosen['seconds']:g} s. Over all loads the generator used at most {100 * busiest:.0f} % of a CPU, and the "
        f"99th percentile of its delay was at most {tables.milliseconds(max(lags, default=None))} ms. "
        f"{same_answers(results)}"
    )


def same_answers(results: Results) -> str:
    """Return a sentence on the difference between the servers' scores of one text, for the same graph."""
    differences = []
    for variant in variants(results):
        arms = [arm for arm in results["arms"].values() if arm["variant"] == variant and not is_constant(arm)]
        rows = [arm["scores"] for arm in arms if "scores" in arm]
        differences += [abs(row[label] - rows[0][label]) for row in rows[1:] for label in rows[0]]
    if not differences:
        return ""
    return f"With the same graph the scores of a text differ by at most {max(differences):.1g} between servers."


def is_constant(arm: Record) -> bool:
    """Return True for a reference without a model."""
    return bool(arm.get("reference")) and not any("model_cpu" in load for load in arm.get("closed_loads", []))


def configuration(results: Results) -> str:
    lines: dict[str, str] = {}
    for arm in results["arms"].values():
        workers = f" with {arm['workers']} workers" if arm.get("all_cpus") else ""
        lines.setdefault(f"{tables.title(arm)}{workers}", arm["settings"])
    return "\n".join(f"- {name}: {settings}" for name, settings in sorted(lines.items()))


def failures(results: Results) -> str:
    lines = [
        f"- {name}: `{' '.join(arm['error'].split())}`" for name, arm in results["arms"].items() if arm.get("error")
    ]
    lines += [f"- {item['arm']}: no time for {', '.join(item['parts'])}" for item in results.get("skipped", [])]
    return "\n".join(lines)


def main() -> None:
    runs = {"## On one CPU": RESULTS, "## On all CPUs": SHARED}
    measured: dict[str, Any] = {head: read(path) for head, path in runs.items() if path.exists()}
    content = "\n\n".join(f"{head}\n\n{section(results)}" for head, results in measured.items()) + "\n"
    write_between(PAGE, content)
    print(content)
