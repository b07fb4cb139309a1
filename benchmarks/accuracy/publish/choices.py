"""The table of docs/benchmarks/accuracy.md on the choice of the settings of sparsebert-best."""

from collections import defaultdict
from collections.abc import Sequence

from benchmarks.accuracy.publish.cells import METRICS, Marks, Record, known, machines, mean
from benchmarks.accuracy.scales.choices import CHOICES
from benchmarks.accuracy.scales.small import SMALL
from benchmarks.accuracy.tasks import TASKS
from benchmarks.markdown_tables import table


def choices(runs: Sequence[Record]) -> str:
    """Return the validation scores by changed setting, best mean first."""
    tasks = [task for task in TASKS if any(run["task"] == task for run in runs)]
    by_level: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
    for run in runs:
        by_level[run["method"], run["level"]][run["task"]] = run
    counts = ", ".join(f"{task} ({next(run for run in runs if run['task'] == task)['train_rows']:,})" for task in tasks)
    rows, marks = [], Marks(runs)
    for (method, level), by_task in sorted(by_level.items(), key=lambda item: _rank_by_validation(item[1], tasks)):
        cells = [_validation(by_task[task]) + marks.of([by_task[task]]) if task in by_task else "-" for task in tasks]
        rows.append([method, level, *cells, mean(known(list(by_task.values()), "minutes"), "{:.1f}")])
    text = (
        f"{SMALL.checkpoint}, 95 % zeros in the encoder's linear layers, one seed (`make bench-accuracy "
        f"SCALE=choices`). Training rows: {counts}. Machines: {machines(runs)}. Scores are those of the held-out tenth "
        "of the training rows, never of the development set. In brackets: the divergence KL(teacher || student) of the "
        "predictions for these rows, in nats. It separates settings that the scores of so few rows cannot separate. "
        "Each row changes the named settings of one of three recipes. The first settings: pruning by magnitude with "
        "uniform allocation, half of the sparsity at the first update and the last update after half of the steps, a "
        "learning rate of 1e-3 that decays in the last 60 %, hidden states with weight 20, T = 2, and a start from the "
        'fine-tuned teacher. "Layer by layer": the same with layer-wise Optimal Brain Surgeon, 12 updates from 2 % of '
        "the steps and a learning rate of 2e-3. The recipe as shipped: layer by layer with outputs weighted by the "
        "loss gradients, global allocation and the first update after a tenth of the steps."
    )
    recipes = {method.name: method.recipe for method in CHOICES.methods}
    if len({recipes[run["method"]] for run in runs}) > 1:
        text += " Rows of other recipes show that they do not lose for lack of tuning."
    scored = [f"{task} validation {METRICS[TASKS[task].metric]} (KL)" for task in tasks]
    return (
        f"{text}\n\n{table(['recipe', 'setting', *scored, 'minutes per run'], rows, figures=False)}{marks.explanation}"
    )


def _validation(run: Record) -> str:
    return f"{run['validation']:.1f}" + (f" ({run['divergence']:.3f})" if "divergence" in run else "")


def _rank_by_validation(by_task: dict[str, Record], tasks: Sequence[str]) -> tuple[int, list[str], float]:
    """Sort key: complete rows first, then rows with the same tasks together, best mean first."""
    present = [task for task in tasks if task in by_task]
    return len(tasks) - len(present), present, -sum(by_task[task]["validation"] for task in present) / len(present)
