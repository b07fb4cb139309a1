"""The table of docs/benchmarks/accuracy.md that says how the settings of sparsebert-best were chosen."""

from collections import defaultdict
from collections.abc import Sequence

from benchmarks.accuracy.cells import METRICS, Marks, Record, known, machines, mean
from benchmarks.accuracy.glue import TASKS
from benchmarks.accuracy.scales import CHOICES, SMALL
from benchmarks.markdown_tables import table


def choices(runs: Sequence[Record]) -> str:
    """Validation scores by the setting that was changed, the best mean first."""
    tasks = [task for task in TASKS if any(run["task"] == task for run in runs)]
    by_level: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
    for run in runs:
        by_level[run["method"], run["level"]][run["task"]] = run
    counts = ", ".join(f"{task} ({next(run for run in runs if run['task'] == task)['train_rows']:,})" for task in tasks)
    rows, marks = [], Marks(runs)
    for (method, level), found in sorted(by_level.items(), key=lambda one: _rank_by_validation(one[1], tasks)):
        cells = [_validated(found[task]) + marks.of([found[task]]) if task in found else "-" for task in tasks]
        rows.append([method, level, *cells, mean(known(list(found.values()), "minutes"), "{:.1f}")])
    text = (
        f"{SMALL.checkpoint}, 95 % of the encoder's linears, one seed (`make bench-accuracy SCALE=choices`); training "
        f"rows: {counts}; on {machines(runs)}. Scores are of the held-out tenth of the training rows, never of the "
        "development set; in brackets the divergence KL(teacher || student) of the answers to these rows, in nats, "
        "which tells settings apart where scores of so few rows cannot. A row changes what it names of the first "
        "settings (weights go by magnitude, as many in every matrix, half of them at the first update and the last "
        "after half of the steps, learning rate 1e-3 falling in the last 60 %, hidden states with weight 20, T = 2, "
        'from the fine-tuned teacher); or of "layer by layer", which is these with layer-wise Optimal Brain Surgeon, '
        "12 updates from 2 % of the steps on and learning rate 2e-3; or of the recipe as shipped, which is that with "
        "outputs weighed by the loss's gradients, one ranking over all matrices and the first update after a tenth of "
        "the steps."
    )
    recipes = {method.name: method.recipe for method in CHOICES.methods}
    if len({recipes[run["method"]] for run in runs}) > 1:
        text += " Rows of other recipes are there so that none loses for want of tuning."
    scored = [f"{task} validation {METRICS[TASKS[task].metric]} (KL)" for task in tasks]
    return f"{text}\n\n{table(['recipe', 'setting', *scored, 'minutes a run'], rows, figures=False)}{marks.explained}"


def _validated(run: Record) -> str:
    return f"{run['validation']:.1f}" + (f" ({run['divergence']:.3f})" if "divergence" in run else "")


def _rank_by_validation(found: dict[str, Record], tasks: Sequence[str]) -> tuple[int, list[str], float]:
    """Rows of all tasks first, then those of the same tasks together, the best mean first."""
    there = [task for task in tasks if task in found]
    return len(tasks) - len(there), there, -sum(found[task]["validation"] for task in there) / len(there)
