"""Write the tables and plots of docs/benchmarks/accuracy.md from benchmarks/results/accuracy.json."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.cells import METRICS, Marks, Record, machines, mean_if_known
from benchmarks.accuracy.choices import choices
from benchmarks.accuracy.glue import TASKS
from benchmarks.accuracy.plots import accuracy_against_latency, accuracy_against_sparsity
from benchmarks.accuracy.run import RESULTS, read_results
from benchmarks.accuracy.scales import BASE, CHOICES, SCALES, SMALL
from benchmarks.accuracy.scores import mean_interval, mean_over_tasks, shared_tasks
from benchmarks.accuracy.speed import conditions, least_lost, speed
from benchmarks.markdown_tables import table, write_between

PAGE = Path(__file__).parent.parent.parent / "docs" / "benchmarks" / "accuracy.md"
OTHER_MEANS = {"agreement": "{:.1f} %", "divergence": "{:.3f}", "minutes": "{:.1f}"}
# BERT-base at 5 % of the encoder's weights, GLUE dev: Xu et al. 2021 (SparseBERT), table 1.
PUBLISHED_DROP = {"mrpc": 88.6 - 88.5, "rte": 69.3 - 69.1, "cola": 56.3 - 52.1}


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
        f"{count}, {when}, on {machines(runs)}. Training rows and epochs of every "
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
    shared, marks = shared_tasks(runs), Marks(runs)
    for (method, level), by_task in sorted(cells.items(), key=lambda one: _rank(one[0], one[1], shared)):
        every = [run for found in by_task.values() for run in found]
        kept = 100 * sum(run["encoder_kept"] for run in every) / len(every)
        compared = [run for task in shared for run in by_task.get(task, [])]
        without = f" ({', '.join(task for task in shared if task in by_task)})" if _lacks(by_task, shared) else ""
        means = [
            f"{_mean_drop(by_task, shared):.1f}" if compared else "-",
            *(mean_if_known(compared, name, form) for name, form in OTHER_MEANS.items()),
        ]
        rows.append(
            [
                method,
                level,
                f"{kept:.1f} %",
                *(_score(by_task[task]) + marks.of(by_task[task]) if task in by_task else "-" for task in tasks),
                *(one if one == "-" else one + without for one in means),
            ]
        )
    of = ", ".join(shared)
    titles = [f"{name} ({of})" for name in ("mean drop", "answers as the teacher", "KL", "minutes a run")]
    return table([*head, *titles], rows, figures=False) + marks.explained


def published(runs: Sequence[Record]) -> str:
    """The drop beside the paper's, at the paper's 5 %."""
    rows, marks = [], Marks(runs)
    for task, paper in PUBLISHED_DROP.items():
        found = [run for run in runs if run["task"] == task and run["level"] == "95 %"]
        for method in dict.fromkeys(run["method"] for run in found):
            own = [run for run in found if run["method"] == method]
            drop, _ = mean_interval([run["drop"]["points"] for run in own])
            rows.append([task, method, f"{drop:.1f}{marks.of(own)}", f"{paper:.1f}"])
    title = "Points lost at 95 %, beside what SparseBERT's paper reports for BERT-base (Xu et al. 2021, table 1):"
    if not rows:
        return ""
    head = ["task", "method", "lost here", "lost in the paper"]
    return f"{title}\n\n{table(head, rows, figures=False)}{marks.explained}"


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
