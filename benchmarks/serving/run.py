"""Measure the service with dense and sparse variants, and against other servers with the same graphs.

One server runs at a time, with one inference thread on one CPU and the load generator on another CPU. With `--shared`
both share all CPUs. `--peer NAME=PYTHON` adds a server from another environment (see `arms.PEERS`). The turns begin
with the most important figures (see `turns.plan`) and end with the minutes of the run. Results go to
benchmarks/results/ after every turn; `--resume` continues them. If an arm fails, its error is recorded and the others
continue. `publish` writes the page.
"""

import argparse
import datetime
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from benchmarks.serving.arms import (
    BARE,
    BARE_QUEUE,
    BARE_SERVERS,
    PEERS,
    THREADS,
    Arm,
    Graph,
    default_python,
    fastest_graph,
    peer_arm,
    sparserve,
    store_of_one,
    workers_arms,
)
from benchmarks.serving.load.texts import texts
from benchmarks.serving.measure import Bench, Plan
from benchmarks.serving.parts import PARTS, ceiling
from benchmarks.serving.publish.page import RESULTS, SHARED
from benchmarks.serving.publish.results import DENSE_INT8, SPARSE_INT8
from benchmarks.serving.publish.targets import targets
from benchmarks.serving.server_process import ROOT, installed_bytes
from benchmarks.serving.turns import CEILING, COMPARED, SECOND_CEILING, Turn, plan, run
from sparserve.models.bundle.store import Store
from sparserve.models.evaluation.machine import describe_machine
from sparserve.models.files import write_atomically

SEED: Final = 0
P99_LIMIT: Final = 0.1
TIMEOUT: Final = 1.0
WORKER_COUNTS: Final = (1, 2)


def facts_of(arm: Arm) -> dict[str, Any]:
    """Return facts about an arm that do not need it to run."""
    return {
        "server": arm.server,
        "variant": arm.graph.variant,
        "runtime": arm.graph.runtime,
        "workers": arm.workers,
        "all_cpus": arm.all_cpus,
        "reference": arm.server in BARE_SERVERS,
        "package": arm.package,
        "version": version_of(arm.python, arm.package),
        "settings": arm.settings,
        "installed_bytes": installed(arm.python),
        "starts": [],
        "measured": [],
    }


@cache
def version_of(python: Path, package: str) -> str | None:
    """Return the version of a package in an environment."""
    command = [str(python), "-c", f"from importlib.metadata import version; print(version({package!r}))"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None


installed = cache(installed_bytes)


@cache
def has_workers(python: Path) -> bool:
    """Return True if the service of this environment has the option `--workers`."""
    command = [str(python), "-m", "sparserve.service", "--help"]
    return "--workers" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def arms_of(
    arguments: argparse.Namespace, graphs: dict[str, Graph], folder: Path, configuration: Path | None
) -> list[Turn]:
    """Return the turns of this run. `folder` gets one store per variant."""
    options = dict(option.split("=", 1) for option in arguments.option)
    python = arguments.service
    one = {"workers": "1"} if has_workers(python) else {}
    stores = {name: store_of_one(graph.bundle, folder / name) for name, graph in graphs.items()}
    own = {
        name: sparserve(python, stores[name], graph, timeout=TIMEOUT, options={**one, **options})
        for name, graph in graphs.items()
    }
    compared = [graphs[name] for name in COMPARED if name in graphs]
    bare, workers, peers = [], [], []
    if compared:
        bare = [peer_arm(name, python, compared[-1], TIMEOUT) for name in (BARE, BARE_QUEUE)]
    if SPARSE_INT8 in graphs and not arguments.shared:
        workers = workers_arms(
            python, stores[SPARSE_INT8], graphs[SPARSE_INT8], timeout=TIMEOUT, options=options, counts=WORKER_COUNTS
        )
    for peer in arguments.peer:
        name, _, interpreter = peer.partition("=")
        # Not resolved: Python finds a virtual environment through this link.
        path = Path(interpreter).absolute()
        served = [graph for graph in compared if graph.runtime in PEERS[name].runtimes]
        if "sparse" not in PEERS[name].runtimes and DENSE_INT8 in graphs:
            served.append(graphs[DENSE_INT8])
        needed = configuration if name == "infinity" else None
        peers += [peer_arm(name, path, graph, TIMEOUT, needed) for graph in served]
    return plan(own, bare, workers, peers)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--task", help="task to serve; default: the only task of the store")
    parser.add_argument("--variants", nargs="+", help="variants to measure; default: all")
    parser.add_argument("--service", type=Path, default=default_python(), help="interpreter that runs the service")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="setting of the service")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", help=f"peer to add: {', '.join(PEERS)}"
    )
    parser.add_argument("--only", nargs="+", help="measure only these servers or arms; default: all")
    parser.add_argument("--shared", action="store_true", help="let server and load generator share all CPUs")
    parser.add_argument("--seconds", type=float, default=5, help="seconds of each load")
    parser.add_argument("--minutes", type=float, default=30, help="no turn begins that would end later")
    parser.add_argument("--resume", action="store_true", help="continue the results of an earlier run")
    parser.add_argument("--list", action="store_true", help="print the turns and their estimated minutes, and stop")
    parser.add_argument("--quick", action="store_true", help="smoke test; its figures are meaningless")
    parser.add_argument("--output", type=Path, help=f"default: {RESULTS.name}, or {SHARED.name} with --shared")
    arguments = parser.parse_args()
    for peer in arguments.peer:
        name, _, python = peer.partition("=")
        if name not in PEERS or not python:
            parser.error(f"--peer {peer}: use NAME=PYTHON with one of these names: {', '.join(PEERS)}.")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    store = Store(arguments.store.resolve())
    tasks = [arguments.task] if arguments.task else store.tasks()
    if len(tasks) != 1:
        raise SystemExit(f"Choose a task with --task. Tasks: {', '.join(tasks) or 'none'}.")
    (task,) = tasks
    graphs = {name: fastest_graph(store.open(task, name)) for name in arguments.variants or store.variants(task)}
    if not graphs:
        raise SystemExit(f"The store {store.root} has no variants of {task}.")
    configured = (graph.bundle.folder / "checkpoint" for graph in graphs.values())
    configuration = next((folder for folder in configured if (folder / "config.json").is_file()), None)
    quick = arguments.quick
    seconds = min(arguments.seconds, 1.0) if quick else arguments.seconds
    measured = Plan(seconds, P99_LIMIT, TIMEOUT, resolution=0.5 if quick else 0.05, max_points=2 if quick else 12)
    longest = min(graph.bundle.manifest.max_length for graph in graphs.values())
    bench = Bench(measured, texts(32 if quick else 512, SEED, longest), pin=not arguments.shared)
    settings = {
        "seconds": seconds, "p99_limit": P99_LIMIT, "timeout": TIMEOUT, "threads": THREADS,
        "pinned": bench.server_cpus is not None, "shared": arguments.shared, "quick": quick, "task": task,
        "texts": len(bench.texts), "options": dict(option.split("=", 1) for option in arguments.option),
        "graphs": {name: {"runtime": graph.runtime, "bytes": graph.bytes} for name, graph in graphs.items()},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        turns = arms_of(arguments, graphs, Path(folder), configuration)
        if arguments.only:
            turns = [turn for turn in turns if {turn.arm.server, turn.arm.name} & set(arguments.only)]
        if arguments.list:
            print_turns(turns, seconds)
            return
        output = arguments.output or (SHARED if arguments.shared else RESULTS)
        measure_turns(bench, turns, settings, output, minutes=arguments.minutes, resume=arguments.resume)


def print_turns(turns: Sequence[Turn], load_seconds: float) -> None:
    """Print the turns with the estimated minutes at which each ends."""
    minutes = 0.0
    for turn in turns:
        minutes += turn.seconds(load_seconds) / 60
        print(f"{minutes:6.1f}  {turn.arm.name:36}{', '.join(turn.parts)}")


def started(settings: dict[str, Any], output: Path, *, resume: bool) -> dict[str, Any]:
    """Return the results so far: none, or with `resume` those of an earlier run with the same settings.

    Raises:
        SystemExit: the earlier run had other settings.
    """
    if resume and output.exists():
        results: dict[str, Any] = json.loads(output.read_bytes())
        if results["settings"] != settings:
            raise SystemExit(f"{output} is of a run with other settings. Leave out --resume, or choose an --output.")
        for record in results["arms"].values():
            record.pop("error", None)
        return results
    return {
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine().model_dump(mode="json"),
        "settings": settings, "raw": [], "arms": {}, "minutes": 0.0, "skipped": [], "targets": [],
    }  # fmt: skip


def measure_turns(
    bench: Bench, turns: Sequence[Turn], settings: dict[str, Any], output: Path, *, minutes: float, resume: bool
) -> None:
    """Run the turns and write the results after each."""
    results = started(settings, output, resume=resume)
    began, before = time.monotonic(), results["minutes"]
    for turn in turns:
        results["arms"].setdefault(turn.arm.name, facts_of(turn.arm))

    def save() -> None:
        results["targets"] = targets(results)
        results["minutes"] = before + (time.monotonic() - began) / 60
        write_atomically(output, json.dumps(results, indent=1) + "\n")

    def measure(arm: Arm, parts: Sequence[str], record: dict[str, Any]) -> Iterator[str]:
        print(f"{(time.monotonic() - began) / 60:5.1f} minutes: {arm.name}", flush=True)
        for part in parts:
            if part in (CEILING, SECOND_CEILING):
                ceiling(bench, arm, results)
                yield part
        if left := [part for part in parts if part in PARTS]:
            with bench.serving(arm) as one:
                record["starts"].append(one.server.start_seconds)
                for part in left:
                    PARTS[part](bench, one, record, results)
                    yield part

    ends = began + 60 * minutes
    results["skipped"] = run(turns, results["arms"], measure, save, load_seconds=bench.plan.seconds, ends=ends)
    results["arms"] = {name: arm for name, arm in results["arms"].items() if arm["measured"] or "error" in arm}
    save()
    print(f"\n{results['minutes']:.1f} minutes, written to {output}")


if __name__ == "__main__":
    main()
