"""Compare all methods with the same teacher, rows and epochs: accuracy lost and speed gained.

    python -m benchmarks.accuracy --data FOLDER                        the small scale: hours on two cores
    python -m benchmarks.accuracy --data FOLDER --task mrpc --method sparsebert-best --level "95 %"
    python -m benchmarks.accuracy --data FOLDER --scale mpnet-base     the base scale: hours per run, minutes on a GPU
    python -m benchmarks.accuracy --data FOLDER --plan                 list the runs and their estimated time
    python -m benchmarks.accuracy --data FOLDER --scale mpnet-base --plan-minutes 12
                                    what fits into 12 minutes on this machine, largest gap to the targets first
    python -m benchmarks.accuracy --merge FILE                         add the results of another machine

Every run is cached in --work: the same command resumes and repeats only steps whose inputs changed. The figures of a
run are added to benchmarks/results/accuracy.json when it ends; other records stay there. A recorded run is skipped, on
any machine, unless its recipe, data or code has changed, or with --again.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.accuracy.benchmark import Benchmark
from benchmarks.accuracy.checkpoints.minilm_l3 import minilm_l3
from benchmarks.accuracy.checkpoints.mpnet_base import mpnet_base
from benchmarks.accuracy.minutes import Planned, by_gap, fitting
from benchmarks.accuracy.results import RESULTS, merge_results, read_results
from benchmarks.accuracy.scales import SCALES
from benchmarks.accuracy.scales.base import BASE
from benchmarks.accuracy.scales.grid import Cell, Scale, cells
from benchmarks.accuracy.scales.small import SMALL, SMALLER
from benchmarks.accuracy.tasks import TASKS
from sparserve.models.cpus import available_cpus
from sparserve.models.data.defaults import default_checkpoint
from sparserve.models.encoders.checkpoint import resolve_checkpoint
from sparserve.models.errors import SparserveError
from sparserve.models.progress import PlainReporter

LATENCY_TASK = "mrpc"
CHECKPOINTS = {SMALL.checkpoint: default_checkpoint, SMALLER.checkpoint: minilm_l3, BASE.checkpoint: mpnet_base}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the JSON lines of every task")
    parser.add_argument("--scale", choices=list(SCALES), default=SMALL.name)
    parser.add_argument("--task", action="append", choices=list(TASKS))
    parser.add_argument("--method", action="append")
    parser.add_argument("--level", action="append")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds for the methods that are repeated")
    parser.add_argument("--work", type=Path, default=Path(".cache") / "accuracy")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--merge", type=Path, metavar="FILE", help="add the records of another machine's results")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--latency", action="store_true", help="measure the latency of cached runs; train nothing")
    parser.add_argument("--again", action="store_true", help="repeat recorded runs")
    parser.add_argument("--plan", "--dry-run", action="store_true", help="list the runs and their estimated time")
    parser.add_argument(
        "--plan-minutes",
        type=float,
        metavar="N",
        help="run what fits into N minutes on this machine, by its measured speed: missing runs, the largest gap to "
        "the targets first; with --plan only list them",
    )
    options = parser.parse_args(arguments)
    if options.merge is not None:
        print(f"{merge_results(options.merge, options.results)} records added to {options.results}")
        return
    scale = SCALES[options.scale]
    unknown = set(options.task or ()) - set(scale.epochs) | set(options.method or ()) - {m.name for m in scale.methods}
    if unknown:
        parser.error(f"unknown in the scale {scale.name}: {', '.join(sorted(unknown))}")
    if options.data is None:
        parser.error("--data is missing: the folder with the JSON lines of every task")
    tasks = options.task or list(scale.epochs)
    files = [path for task in tasks for path in TASKS[task].files(options.data).values()]
    torch.set_num_threads(options.threads)
    methods = options.method
    if methods is None and options.plan_minutes is not None:
        methods = [method.name for method in scale.methods]  # those that run only if named, too
    grid = list(cells(scale, tasks, methods, options.level, seeds=options.seeds))
    if not grid:
        levels = sorted({level for method in scale.methods for level in method.levels})
        parser.error(
            f"no run has these tasks, methods and levels together. Levels (not every method has all): "
            f"{', '.join(levels)}. Tasks with unlabelled rows: "
            f"{', '.join(task.name for task in TASKS.values() if task.unlabeled)}."
        )
    files += [options.data / (TASKS[cell.task].unlabeled or "") for cell in grid if cell.method.unlabeled]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        parser.error(f"{missing[0]} is missing. docs/benchmarks/accuracy.md describes the content of --data.")
    bigger = {cell.method.taught_by.name for cell in grid if cell.method.taught_by is not None}
    benchmarks = {name: _benchmark(SCALES[name], options) for name in sorted({scale.name} | bigger)}
    benchmark = replace(benchmarks[scale.name], bigger_scales=benchmarks)
    if options.plan_minutes is not None:
        _run_within(benchmark, grid, 60 * options.plan_minutes, only_list=options.plan)
        return
    if options.plan:
        total = 0.0
        for cell in grid:
            seconds = benchmark.seconds(cell)
            total += seconds
            expected = f"about {seconds / 60:.0f} min" if seconds else "no student to train"
            print(f"{cell.title:<60} {'done' if benchmark.is_recorded(cell) else expected}")
        print(f"{len(grid)} runs, about {total / 3600:.1f} hours plus the teachers")
        return
    for cell in grid:
        if not options.latency:
            if options.again or not benchmark.is_recorded(cell):
                _run(benchmark, cell)
        elif benchmark.has(cell) and cell.seed == 0 and cell.task in (options.task or [LATENCY_TASK]):
            _run(benchmark, cell, latency=True)


def _benchmark(scale: Scale, options: argparse.Namespace) -> Benchmark:
    folder = CHECKPOINTS[scale.checkpoint](options.work / "downloads")
    checkpoint = resolve_checkpoint(str(folder), name=scale.checkpoint)
    return Benchmark(scale, checkpoint, options.data, options.work, options.results, options.threads)


def _run_within(benchmark: Benchmark, grid: Sequence[Cell], limit: float, *, only_list: bool) -> None:
    """Print the missing runs that fit into `limit` seconds and do them, as long as the time suffices."""
    begin = time.monotonic()
    absent = [cell for cell in grid if not benchmark.is_recorded(cell)]
    ranked = by_gap(absent, read_results(benchmark.results)["runs"])
    planned: list[Planned] = []
    for plan in fitting(ranked, benchmark.remaining, limit):
        print(plan, flush=True)
        planned.append(plan)
    expected = sum(plan.seconds for plan in planned)
    print(
        f"{len(planned)} of {len(absent)} missing runs fit into {limit / 60:g} minutes: about {expected / 60:.0f} "
        "minutes on this machine"
    )
    if only_list:
        return
    pace = 1.0  # seconds of the last run, in expected seconds
    for plan in planned:
        spent = time.monotonic() - begin
        if spent + pace * plan.seconds > limit:
            print(f"{plan.cell.title}: left out, {(limit - spent) / 60:.1f} minutes are left")
            continue
        began = time.monotonic()
        _run(benchmark, plan.cell)
        pace = max(1.0, (time.monotonic() - began) / plan.seconds)


def _run(benchmark: Benchmark, cell: Cell, *, latency: bool = False) -> None:
    reporter = PlainReporter()
    try:
        if latency:
            benchmark.measure(cell, reporter)
        else:
            benchmark.run(cell, reporter)
    except SparserveError as error:
        # A failing method must not stop the other runs.
        print(f"{cell.title}: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
