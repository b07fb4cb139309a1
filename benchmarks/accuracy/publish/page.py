"""Write the tables and plots of docs/benchmarks/accuracy.md from benchmarks/results/accuracy.json."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.publish.cells import METRICS, Marks, Record, machines, mean_if_known, teachers
from benchmarks.accuracy.publish.choices import choices
from benchmarks.accuracy.publish.plots import accuracy_against_latency, accuracy_against_sparsity
from benchmarks.accuracy.publish.speed import conditions, frontier_table, speed
from benchmarks.accuracy.results import RESULTS, read_results
from benchmarks.accuracy.scales import SCALES
from benchmarks.accuracy.scales.base import BASE
from benchmarks.accuracy.scales.choices import CHOICES
from benchmarks.accuracy.scales.small import SMALL
from benchmarks.accuracy.scores import mean_interval, mean_over_tasks, shared_tasks, teacher_kind
from benchmarks.accuracy.tasks import TASKS
from benchmarks.markdown_tables import table, write_between

PAGE = Path(__file__).parents[3] / "docs" / "benchmarks" / "accuracy.md"
PLOTTED = (SMALL, BASE)
OTHER_MEANS = {"agreement": "{:.1f} %", "divergence": "{:.3f}", "minutes": "{:.1f}"}
# BERT-base at 5 % of the encoder's weights, GLUE dev: Xu et al. 2021 (SparseBERT), table 1.
PUBLISHED_DROP = {"mrpc": 88.6 - 88.5, "rte": 69.3 - 69.1, "cola": 56.3 - 52.1}


def page(results: dict[str, list[Record]]) -> str:
    """Return the generated section of the page."""
    parts = []
    for name, scale in SCALES.items():
        runs = [run for run in results["runs"] if run["scale"] == name]
        latency = [one for one in results["latency"] if one["scale"] == name]
        if scale is CHOICES:
            if runs:
                parts += ["## Choice of the settings of sparsebert-best", choices(runs)]
            continue
        if not runs:
            parts.append(f"## {scale.checkpoint}\n\nThere are no measurements at this scale yet.")
            continue
        parts += [f"## {scale.checkpoint}", described(runs), "### Accuracy", accuracy(runs)]
        if scale in PLOTTED:
            parts.append(f"![Points lost against sparsity](accuracy-sparsity-{name}.svg)")
        if scale is BASE:
            parts.append(published(runs))
        if latency:
            parts += ["### Speed", conditions(latency), speed(latency)]
            parts += [f"![Points lost against latency](accuracy-latency-{name}.svg)", frontier_table(runs, latency)]
    return "\n\n".join(parts) + "\n"


def described(runs: Sequence[Record]) -> str:
    """Describe the conditions of the runs."""
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
        f"{count}, {when}, on {machines(runs)}. Training rows and epochs of the "
        f"students: {', '.join(tasks)}. The rows held out for validation are not among them. Scores are those of the "
        "test rows, which were not used for any choice. In brackets: points lost against the dense teacher "
        "with the 95 % interval of a paired bootstrap over rows; for several seeds their mean with the interval over "
        "seeds. KL is KL(teacher || student) of the predictions for the held-out rows, in nats. Without a GPU, minutes "
        "are processor time."
    )


def accuracy(runs: Sequence[Record]) -> str:
    """Return the table of scores by method and level, one column per task."""
    tasks = [task for task in TASKS if any(run["task"] == task for run in runs)]
    cells: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        cells[run["method"], run["level"]][run["task"]].append(run)
    head = [
        "method",
        "level",
        "teacher",
        "encoder weights kept",
        *(f"{task} {METRICS[TASKS[task].metric]}" for task in tasks),
    ]
    # A figure per task, or several if machines trained separate teachers; each row is compared with its own teacher.
    rows = []
    for kind in sorted({teacher_kind(run) for run in runs}):
        of_kind = [run for run in runs if teacher_kind(run) == kind]
        dense = [dict.fromkeys(f"{run['dense']:.1f}" for run in of_kind if run["task"] == task) for task in tasks]
        rows.append(
            ["dense teacher", "", teachers(of_kind), "100 %", *(" or ".join(d) or "-" for d in dense)] + [""] * 4
        )
    majority = {run["task"]: f"{run['majority']:.1f}" for run in runs if "majority" in run}
    if majority:
        rows.append(["most frequent label", "", "", "", *(majority.get(task, "-") for task in tasks), "", "", "", ""])
    shared, marks = shared_tasks(runs), Marks(runs)
    for (method, level), by_task in sorted(cells.items(), key=lambda item: _rank(*item, shared)):
        of_row = [run for task_runs in by_task.values() for run in task_runs]
        kept = 100 * sum(run["encoder_kept"] for run in of_row) / len(of_row)
        compared = [run for task in shared for run in by_task.get(task, [])]
        note = f" ({', '.join(task for task in shared if task in by_task)})" if _is_incomplete(by_task, shared) else ""
        means = [
            f"{_mean_drop(by_task, shared):.1f}" if compared else "-",
            *(mean_if_known(compared, name, form) for name, form in OTHER_MEANS.items()),
        ]
        rows.append(
            [
                method,
                level,
                teachers(of_row),
                f"{kept:.1f} %",
                *(_score(by_task[task]) + marks.of(by_task[task]) if task in by_task else "-" for task in tasks),
                *(text if text == "-" else text + note for text in means),
            ]
        )
    names = ", ".join(shared)
    titles = [f"{name} ({names})" for name in ("mean drop", "agreement with teacher", "KL", "minutes per run")]
    return table([*head, *titles], rows, figures=False) + marks.explanation + _out_of_scope(runs)


def _out_of_scope(runs: Sequence[Record]) -> str:
    """Return the recalls of out-of-scope rows, which the scores leave out; an empty string without such rows."""
    parts = [
        f"{run['task']} {run['out_of_scope_recall']['dense']:.1f} % by the teacher, "
        f"{run['out_of_scope_recall']['score']:.1f} % by {run['method']} {run['level']}"
        for run in runs
        if run["seed"] == 0 and "out_of_scope_recall" in run
    ]
    text = "Out-of-scope rows do not count in the scores. The share of them that is recognised: "
    return f"\n\n{text}{'; '.join(parts)}." if parts else ""


def published(runs: Sequence[Record]) -> str:
    """Return the table of the drop and that of the paper, at the paper's 5 % of weights."""
    rows, marks = [], Marks(runs)
    for task, paper in PUBLISHED_DROP.items():
        of_task = [run for run in runs if run["task"] == task and run["level"] == "95 %"]
        for method in dict.fromkeys(run["method"] for run in of_task):
            of_method = [run for run in of_task if run["method"] == method]
            drop, _ = mean_interval([run["drop"]["points"] for run in of_method])
            rows.append([task, method, f"{drop:.1f}{marks.of(of_method)}", f"{paper:.1f}"])
    title = (
        "Points lost at 95 %, and the loss that the SparseBERT paper reports for BERT-base (Xu et al. 2021, table 1):"
    )
    if not rows:
        return ""
    head = ["task", "method", "lost here", "lost in the paper"]
    return f"{title}\n\n{table(head, rows, figures=False)}{marks.explanation}"


def _score(runs: Sequence[Record]) -> str:
    score, _ = mean_interval([run["score"] for run in runs])
    drop, interval = mean_interval([run["drop"]["points"] for run in runs])
    if interval is not None:
        return f"{score:.1f} ({drop:+.1f} ± {interval:.1f}, {len(runs)} seeds)"
    only = runs[0]["drop"]
    return f"{score:.1f} ({drop:+.1f}, {only['low']:+.1f} to {only['high']:+.1f})"


def _is_incomplete(by_task: dict[str, list[Record]], tasks: Sequence[str]) -> bool:
    return any(task not in by_task for task in tasks)


def _mean_drop(by_task: dict[str, list[Record]], tasks: Sequence[str]) -> float:
    """Return the mean of the points lost over the tasks that have runs."""
    runs = [run for task in tasks for run in by_task.get(task, [])]
    return mean_over_tasks(runs, lambda run: run["drop"]["points"]) if runs else 0.0


def _rank(
    name: tuple[str, str], by_task: dict[str, list[Record]], tasks: Sequence[str]
) -> tuple[str, bool, float, tuple[str, str]]:
    """Sort key: by level, complete rows first, smallest mean drop first."""
    return name[1], _is_incomplete(by_task, tasks), _mean_drop(by_task, tasks), name


def main() -> None:
    results = read_results(RESULTS)
    write_between(PAGE, page(results))
    for name in (scale.name for scale in PLOTTED):
        runs = [run for run in results["runs"] if run["scale"] == name]
        latency = [one for one in results["latency"] if one["scale"] == name]
        if runs:
            accuracy_against_sparsity(runs, PAGE.parent / f"accuracy-sparsity-{name}.svg")
        if latency:
            accuracy_against_latency(runs, latency, PAGE.parent / f"accuracy-latency-{name}.svg")
