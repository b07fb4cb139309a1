"""Write the tables of docs/results.md, and its plots, from benchmarks/results/accuracy.json: none is typed there."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy import RESULTS, read_results
from benchmarks.accuracy_frontier import SHAPE, frontier, points
from benchmarks.accuracy_plots import accuracy_against_latency, accuracy_against_sparsity
from benchmarks.accuracy_scales import BASE, CHOICES, SCALES, SMALL
from benchmarks.accuracy_scores import mean_interval, mean_over_tasks, shared_tasks
from benchmarks.glue import TASKS
from benchmarks.markdown_tables import table, write_between

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
METRICS = {"f1": "F1", "mcc": "MCC", "accuracy": "accuracy"}
# BERT-base at 5 % of the encoder's weights, GLUE dev: Xu et al. 2021 (SparseBERT), table 1.
PUBLISHED_DROP = {"mrpc": 88.6 - 88.5, "rte": 69.3 - 69.1, "cola": 56.3 - 52.1}

Record = dict[str, Any]


def page(results: dict[str, list[Record]]) -> str:
    """Everything between the page's markers."""
    parts = []
    for name, scale in SCALES.items():
        runs = [run for run in results["runs"] if run["scale"] == name]
        latency = [one for one in results["latency"] if one["scale"] == name]
        if scale is CHOICES:
            if runs:
                parts += ["## How the settings of sparsebert-best were chosen", choices(runs)]
            continue
        if not runs:
            parts.append(f"## {scale.checkpoint}\n\nNothing has been measured at this scale yet.")
            continue
        parts += [f"## {scale.checkpoint}", described(runs), "### What it costs", accuracy(runs)]
        parts.append(f"![Points lost against sparsity](accuracy-sparsity-{name}.svg)")
        if name == "mpnet-base":
            parts.append(published(runs))
        if latency:
            parts += ["### What it gains", conditions(latency), speed(latency)]
            parts += [f"![Points lost against latency](accuracy-latency-{name}.svg)", least_lost(runs, latency)]
    return "\n\n".join(parts) + "\n"


def described(runs: Sequence[Record]) -> str:
    """How the runs were made."""
    machines = sorted(
        {f"{run['machine']['cpu']}, {run['device']}, {run['precision']}, threads: {run['threads']}" for run in runs}
    )
    days = sorted(run["finished_at"][:10] for run in runs)
    tasks = []
    for task in TASKS:
        of_task = [run for run in runs if run["task"] == task]
        if of_task:
            epochs = "/".join(f"{value:g}" for value in sorted({run["epochs"] for run in of_task if run["epochs"]}))
            tasks.append(f"{task} ({of_task[0]['train_rows']:,} rows, {epochs or 'no'} epochs)")
    count = f"{len(runs)} runs" if len(runs) > 1 else "1 run"
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return (
        f"{count}, {when}, on {'; '.join(machines)}. Training rows and epochs of every "
        f"student: {', '.join(tasks)}. A tenth of the training rows is held out for validation; scores are of GLUE's "
        "development set, which chose nothing. In brackets: points lost against the dense teacher, with the 95 % "
        "interval of a paired bootstrap over rows; of several seeds the mean, with the interval over seeds. KL is "
        "KL(teacher || student) of the answers to the held-out rows, in nats. Minutes are of the processor where there "
        "is no GPU."
    )


def accuracy(runs: Sequence[Record]) -> str:
    """Scores by method and level, a column a task."""
    tasks = [task for task in TASKS if any(run["task"] == task for run in runs)]
    cells: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        cells[run["method"], run["level"]][run["task"]].append(run)
    head = ["method", "level", "encoder weights kept", *(f"{task} {METRICS[TASKS[task].metric]}" for task in tasks)]
    # One figure a task, unless machines have trained teachers of their own: each row's loss is against its own.
    dense = {task: dict.fromkeys(f"{run['dense']:.1f}" for run in runs if run["task"] == task) for task in tasks}
    rows = [["dense teacher", "", "100 %", *(" or ".join(dense[task]) for task in tasks), "", "", "", ""]]
    majority = {run["task"]: f"{run['majority']:.1f}" for run in runs if "majority" in run}
    if majority:
        rows.append(
            ["always the most frequent label", "", "", *(majority.get(task, "-") for task in tasks), "", "", "", ""]
        )
    shared = shared_tasks(runs)
    for (method, level), by_task in sorted(cells.items(), key=lambda one: _rank(one[0], one[1], shared)):
        every = [run for found in by_task.values() for run in found]
        kept = 100 * sum(run["encoder_kept"] for run in every) / len(every)
        compared = [run for task in shared for run in by_task.get(task, [])]
        without = f" ({', '.join(task for task in shared if task in by_task)})" if _lacks(by_task, shared) else ""
        rows.append(
            [
                method,
                level,
                f"{kept:.1f} %",
                *(_score(by_task[task]) if task in by_task else "-" for task in tasks),
                f"{_mean_drop(by_task, shared):.1f}{without}" if compared else "-",
                _mean_if_known(compared, "agreement", "{:.1f} %"),
                _mean_if_known(compared, "divergence", "{:.3f}"),
                _mean(_known(every, "minutes"), "{:.1f}"),
            ]
        )
    of = ", ".join(shared)
    means = [f"{name} ({of})" for name in ("mean drop", "answers as the teacher", "KL")]
    return table([*head, *means, "minutes a run"], rows, figures=False)


def _mean_if_known(runs: Sequence[Record], name: str, form: str) -> str:
    """The mean over tasks of a figure that every run has; older ones lack some."""
    known = runs and all(name in run for run in runs)
    return form.format(mean_over_tasks(runs, lambda run: run[name])) if known else "-"


def choices(runs: Sequence[Record]) -> str:
    """Validation scores by the setting that was changed, the best mean first."""
    tasks = [task for task in TASKS if any(run["task"] == task for run in runs)]
    by_level: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
    for run in runs:
        by_level[run["method"], run["level"]][run["task"]] = run
    counts = ", ".join(f"{task} ({next(run for run in runs if run['task'] == task)['train_rows']:,})" for task in tasks)
    rows = []
    for (method, level), found in sorted(by_level.items(), key=lambda one: _rank_by_validation(one[1], tasks)):
        cells = [_validated(found[task]) if task in found else "-" for task in tasks]
        rows.append([method, level, *cells, _mean(_known(list(found.values()), "minutes"), "{:.1f}")])
    text = (
        f"{SMALL.checkpoint}, 95 % of the encoder's linears, one seed (`make bench-accuracy SCALE=choices`); training "
        f"rows: {counts}. Scores are of the held-out tenth of the training rows, never of the development set; in "
        "brackets the divergence KL(teacher || student) of the answers to these rows, in nats, which tells settings "
        "apart where scores of so few rows cannot. A row changes what it names of the first "
        "settings (weights go by magnitude, as many in every matrix, half of them at the "
        "first update and the last after half of the steps, learning rate 1e-3 falling in the last 60 %, hidden states "
        'with weight 20, T = 2, from the fine-tuned teacher); or of "layer by layer", which is these with layer-wise '
        "Optimal Brain Surgeon, 12 updates and learning rate 2e-3; or of the recipe as shipped, which is that with "
        "outputs weighed by the loss's gradients, one ranking over all matrices and the first update after a tenth of "
        "the steps."
    )
    if len({run["method"] for run in runs}) > 1:
        text += " Rows of other recipes are there so that none loses for want of tuning."
    scored = [f"{task} validation {METRICS[TASKS[task].metric]} (KL)" for task in tasks]
    return f"{text}\n\n{table(['recipe', 'setting', *scored, 'minutes a run'], rows, figures=False)}"


def _validated(run: Record) -> str:
    return f"{run['validation']:.1f}" + (f" ({run['divergence']:.3f})" if "divergence" in run else "")


def _known(runs: Sequence[Record], name: str) -> list[float]:
    """A figure of the runs that have it."""
    return [run[name] for run in runs if run.get(name) is not None]


def _mean(values: Iterable[float], form: str) -> str:
    found = list(values)
    return form.format(sum(found) / len(found)) if found else "-"


def _rank_by_validation(found: dict[str, Record], tasks: Sequence[str]) -> tuple[bool, float]:
    scores = [found[task]["validation"] for task in tasks if task in found]
    return len(scores) < len(tasks), -sum(scores) / len(scores)


def published(runs: Sequence[Record]) -> str:
    """The drop beside the paper's, at the paper's 5 %."""
    rows = []
    for task, paper in PUBLISHED_DROP.items():
        found = [run for run in runs if run["task"] == task and run["level"] == "95 %"]
        for method in dict.fromkeys(run["method"] for run in found):
            drop, _ = mean_interval([run["drop"]["points"] for run in found if run["method"] == method])
            rows.append([task, method, f"{drop:.1f}", f"{paper:.1f}"])
    title = "Points lost at 95 %, beside what SparseBERT's paper reports for BERT-base (Xu et al. 2021, table 1):"
    if not rows:
        return ""
    return f"{title}\n\n{table(['task', 'method', 'lost here', 'lost in the paper'], rows, figures=False)}"


def conditions(latency: Sequence[Record]) -> str:
    """How latency was measured."""
    first = latency[0]
    return (
        f"Median milliseconds on one thread, all graphs of a row and the dense ones interleaved in one process "
        f"({first['machine']['cpu']}, onnxruntime {first['machine']['onnxruntime']}). "
        '"Sparse" is this project\'s runtime, "ORT" stock onnxruntime. Times faster are of the fastest graph of the '
        "row, against ORT fp32 dense and ORT int8 dense of the same session. Scores are the file's own, in its runtime."
    )


def speed(latency: Sequence[Record]) -> str:
    """Milliseconds by method and level."""
    shapes = list(next(iter(latency[0]["arms"].values()))["milliseconds"])
    kinds = ("fp32", "int8", "sparse fp32", "sparse int8")
    rows = []
    for one in sorted(latency, key=lambda one: _fastest(one, shapes[0])):
        arms = one["arms"]
        for shape in shapes:
            best = _fastest(one, shape)
            times = [f"{arms[kind]['milliseconds'][shape]:.2f}" if kind in arms else "-" for kind in kinds]
            dense, int8 = (arms[name]["milliseconds"][shape] for name in ("dense", "dense-int8"))
            smallest = min((arms[kind] for kind in kinds if kind in arms), key=lambda arm: arm["bytes"])
            rows.append(
                [
                    f"{one['method']} {one['level']} ({one['task']})",
                    shape.replace("x", " x "),
                    f"{dense:.2f}",
                    f"{int8:.2f}",
                    *times,
                    f"{dense / best:.1f} / {int8 / best:.1f}",
                    f"{smallest['bytes'] / 1e6:.1f} of {arms['dense']['bytes'] / 1e6:.1f}",
                    f"{smallest['score']:.1f} of {arms['dense']['score']:.1f}, int8 {arms['dense-int8']['score']:.1f}",
                ]
            )
    head = ["method", "batch x tokens", "ORT dense", "ORT dense int8", "ORT", "ORT int8", "sparse", "sparse int8"]
    return table([*head, "times faster (fp32 / int8)", "smallest file, MB", "its score"], rows, figures=False)


def least_lost(runs: Sequence[Record], latency: Sequence[Record]) -> str:
    """What no other row beats in both speed and accuracy, the fastest first."""
    rows = [
        [
            f"{point.method} {point.level}",
            f"{point.dense / point.milliseconds:.1f} / {point.speed:.1f}",
            f"{point.milliseconds:.2f}",
            f"{point.lost:.1f}",
            _mean_if_known(point.runs, "divergence", "{:.3f}"),
            _mean(_known(point.runs, "minutes"), "{:.1f}"),
        ]
        for point in frontier(points(runs, latency))
    ]
    if not rows:
        return ""
    text = (
        "What none of the others beats in both: their fastest files against ORT fp32 and int8 dense, "
        f"{SHAPE.replace('x', ' x ')} tokens, and the mean of the points lost. Rows nearer to each other than the "
        "intervals above may change places with other seeds."
    )
    head = ["method", "times faster (fp32 / int8)", "milliseconds", "mean drop", "KL", "minutes a run"]
    return f"{text}\n\n{table(head, rows)}"


def _fastest(one: Record, shape: str) -> float:
    return min(arm["milliseconds"][shape] for name, arm in one["arms"].items() if not name.startswith("dense"))


def _score(runs: Sequence[Record]) -> str:
    score, _ = mean_interval([run["score"] for run in runs])
    drop, interval = mean_interval([run["drop"]["points"] for run in runs])
    if interval is not None:
        return f"{score:.1f} ({drop:+.1f} ± {interval:.1f}, {len(runs)} seeds)"
    only = runs[0]["drop"]
    return f"{score:.1f} ({drop:+.1f}, {only['low']:+.1f} to {only['high']:+.1f})"


def _lacks(by_task: dict[str, list[Record]], tasks: Sequence[str]) -> bool:
    return any(task not in by_task for task in tasks)


def _mean_drop(by_task: dict[str, list[Record]], tasks: Sequence[str]) -> float:
    """Mean of the points lost over those of the tasks that there are."""
    runs = [run for task in tasks for run in by_task.get(task, [])]
    return mean_over_tasks(runs, lambda run: run["drop"]["points"]) if runs else 0.0


def _rank(
    name: tuple[str, str], by_task: dict[str, list[Record]], tasks: Sequence[str]
) -> tuple[str, bool, float, tuple[str, str]]:
    """By level, the least mean drop first, incomplete rows last."""
    return name[1], _lacks(by_task, tasks), _mean_drop(by_task, tasks), name


def main() -> None:
    results = read_results(RESULTS)
    write_between(PAGE, page(results))
    for name in (SMALL.name, BASE.name):
        runs = [run for run in results["runs"] if run["scale"] == name]
        latency = [one for one in results["latency"] if one["scale"] == name]
        if runs:
            accuracy_against_sparsity(runs, PAGE.parent / f"accuracy-sparsity-{name}.svg")
        if latency:
            accuracy_against_latency(runs, latency, PAGE.parent / f"accuracy-latency-{name}.svg")


if __name__ == "__main__":
    main()
