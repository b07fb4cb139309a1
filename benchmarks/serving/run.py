"""Measure the service against other servers with the same ONNX file, and its sparse endpoints against dense ones.

One server runs at a time, with one inference thread on one CPU and the load generator on another CPU. With `--shared`
both share all CPUs. The servers take turns until the highest rate of Poisson arrivals with p99 within the limit is
known for each. `--peer NAME=PYTHON` adds a server from another environment (see `arms.PEERS`). Results go to
benchmarks/results/ after every turn. If an arm fails, its error is recorded and the others continue. `publish` writes
the page.
"""

import argparse
import datetime
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.serving.arms import PEERS, SPARSERVE, THREADS, Arm, default_python, peer_arm, sparserve, store_of_one
from benchmarks.serving.endpoints import measure_endpoints
from benchmarks.serving.measure import Bench, Plan, Progress
from benchmarks.serving.rate_search import RateSearch
from benchmarks.serving.server_process import installed_bytes
from benchmarks.serving.texts import texts
from sparserve.models.bundle.store import Store
from sparserve.models.evaluation.machine import describe_machine
from sparserve.models.files import write_atomically
from sparserve.service.settings import Settings

RESULTS: Final = Path(__file__).parent.parent / "results" / "serving.json"
SHARED: Final = RESULTS.with_name("serving-shared.json")
SEED: Final = 0
P99_LIMIT: Final = 0.1
TIMEOUT: Final = 1.0
# Searches end after this fraction of the minutes of a run, finished or not.
SEARCH_PART: Final = 0.55
# Batches smaller than those of the service, to show their effect on this processor.
SMALLER_BUDGETS: Final = (256, 1024)


def measure_servers(
    bench: Bench, arms: list[Arm], budget: int, ends: float, save: Callable[[dict[str, Any]], None]
) -> float:
    """Run all turns of all servers and return the initial rate of the searches."""
    print("onnxruntime alone", flush=True)
    budgets = [budget, *SMALLER_BUDGETS]
    raw = [bench.ceiling(budgets)]
    best = max(raw[0]["texts_per_second"].values())
    progress = {
        arm.name: Progress(RateSearch(best / 2, bench.plan.p99_limit, bench.plan.resolution, bench.plan.max_points))
        for arm in arms
    }
    facts = {arm.name: facts_of(arm) for arm in arms}

    def write() -> None:
        records = {name: {**facts[name], **item.as_record()} for name, item in progress.items()}
        save({"raw": raw, "arms": records})

    def turns(measure: Callable[[Arm, Progress], None]) -> None:
        order = np.random.default_rng(len(raw)).permutation(len(arms))
        for arm in (arms[index] for index in order):
            one = progress[arm.name]
            if "error" in one.record:
                continue
            try:
                measure(arm, one)
            except Exception as error:  # a peer may fail in any way; the others continue
                one.record["error"] = f"{type(error).__name__}: {error}"
                print(f"  {arm.name} failed: {error}", flush=True)
            write()

    def search(arm: Arm, one: Progress) -> None:
        if one.search.rate is not None:
            bench.search_turn(arm, one)

    def last(arm: Arm, one: Progress) -> None:
        bench.last_turn(arm, one, best, beside_process=arm.name == SPARSERVE)

    def searching() -> bool:
        left = [one for one in progress.values() if one.search.rate is not None and "error" not in one.record]
        return bool(left) and time.monotonic() < ends

    while searching():
        print(f"round {len(raw)}", flush=True)
        turns(search)
        raw.append(bench.ceiling(budgets))
    print("around the highest rates", flush=True)
    turns(last)
    return float(best / 2)


def facts_of(arm: Arm) -> dict[str, Any]:
    """Return facts about a server that do not need it to run."""
    command = [str(arm.python), "-c", f"from importlib.metadata import version; print(version({arm.package!r}))"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return {
        "package": arm.package,
        "version": asked.stdout.strip() or None,
        "settings": arm.settings,
        "installed_bytes": installed_bytes(arm.python),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--task", help="task to serve; default: the only task of the store")
    parser.add_argument("--variant", default="dense", help="variant whose model.onnx every server serves")
    parser.add_argument("--endpoints", nargs="*", help="variants to compare in one service; default: all")
    parser.add_argument("--service", type=Path, default=default_python(), help="interpreter that runs the service")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="setting of the service")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", help=f"peer to add: {', '.join(PEERS)}"
    )
    parser.add_argument("--shared", action="store_true", help="let server and load generator share all CPUs")
    parser.add_argument("--seconds", type=float, default=8, help="seconds of each load")
    parser.add_argument("--minutes", type=float, default=25, help="approximate minutes of the whole run")
    parser.add_argument("--quick", action="store_true", help="smoke test; its figures are meaningless")
    parser.add_argument("--output", type=Path, help=f"default: {RESULTS.name}, or {SHARED.name} with --shared")
    arguments = parser.parse_args()
    store = Store(arguments.store.resolve())
    tasks = [arguments.task] if arguments.task else store.tasks()
    if len(tasks) != 1:
        raise SystemExit(f"Choose a task with --task. Tasks: {', '.join(tasks) or 'none'}.")
    (task,) = tasks
    options = dict(option.split("=", 1) for option in arguments.option)
    bundle = store.open(task, arguments.variant)
    plan = Plan(
        seconds=min(arguments.seconds, 1.0) if arguments.quick else arguments.seconds,
        p99_limit=P99_LIMIT,
        timeout=TIMEOUT,
        resolution=0.5 if arguments.quick else 0.05,
        max_points=2 if arguments.quick else 12,
    )
    bench = Bench(
        plan,
        texts(32 if arguments.quick else 512, SEED, bundle.manifest.max_length),
        bundle.folder,
        pin=not arguments.shared,
    )
    output = arguments.output or (SHARED if arguments.shared else RESULTS)
    began = time.monotonic()
    result: dict[str, Any] = {
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine().model_dump(mode="json"),
        "settings": {
            "seconds": plan.seconds, "p99_limit": plan.p99_limit, "timeout": plan.timeout, "threads": THREADS,
            "pinned": bench.server_cpus is not None, "shared": arguments.shared, "quick": arguments.quick,
            "task": task, "texts": len(bench.texts), "variant": arguments.variant,
            "model_bytes": bundle.model_path.stat().st_size, "options": options,
        },
    }  # fmt: skip

    def save(part: dict[str, Any]) -> None:
        result.update(part)
        result["minutes"] = (time.monotonic() - began) / 60
        write_atomically(output, json.dumps(result, indent=1) + "\n")

    budget = int(options.get("max-batch-tokens", Settings.model_fields["max_batch_tokens"].default))
    result["settings"]["budget"] = budget
    with tempfile.TemporaryDirectory() as folder:
        alone = store_of_one(bundle, Path(folder))
        arms = [
            sparserve(
                arguments.service, alone, task, arguments.variant, runtime="onnx", timeout=TIMEOUT, options=options
            )
        ]
        for peer in arguments.peer:
            name, _, python = peer.partition("=")
            if name not in PEERS or not python:
                parser.error(f"--peer {peer}: use NAME=PYTHON with one of these names: {', '.join(PEERS)}.")
            # Not resolved: Python finds a virtual environment through this link.
            arms.append(peer_arm(name, Path(python).absolute(), bundle, TIMEOUT))
        start = measure_servers(bench, arms, budget, began + 60 * SEARCH_PART * arguments.minutes, save)
    variants = arguments.endpoints if arguments.endpoints is not None else store.variants(task)
    if variants:
        endpoints = {
            variant: sparserve(
                arguments.service, store.root, task, variant, runtime="auto", timeout=TIMEOUT, options=options
            )
            for variant in variants
        }
        save({"endpoints": measure_endpoints(bench, endpoints, start, began + 60 * arguments.minutes)})
    save({})
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes, written to {output}")


if __name__ == "__main__":
    main()
