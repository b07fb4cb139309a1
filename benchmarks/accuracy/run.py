"""Compare all methods with the same teacher, rows and epochs: accuracy lost and speed gained.

    python -m benchmarks.accuracy --data FOLDER                        the small scale: hours on two cores
    python -m benchmarks.accuracy --data FOLDER --task mrpc --method sparsebert-best --level "95 %"
    python -m benchmarks.accuracy --data FOLDER --scale mpnet-base     the base scale: hours per run, minutes on a GPU
    python -m benchmarks.accuracy --data FOLDER --plan                 list the runs and their estimated time

Every run is cached in --work: the same command resumes and repeats only steps whose inputs changed. The figures of a
run are added to benchmarks/results/accuracy.json when it ends; other records stay there. A recorded run is skipped, on
any machine, unless its recipe, data or code has changed, or with --again.
"""

import argparse
import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from benchmarks.accuracy.base_checkpoint import mpnet_base
from benchmarks.accuracy.glue import TASKS
from benchmarks.accuracy.grid import SEEDS, WITHOUT_TRAINING, Cell, Scale, cells
from benchmarks.accuracy.latency import measured
from benchmarks.accuracy.scales import BASE, SCALES, SMALL
from benchmarks.accuracy.scores import divergence, logits, paired_drop
from benchmarks.accuracy.stopwatch import Stopwatch
from sparserve.models.cpus import available_cpus
from sparserve.models.data.dataset import Dataset
from sparserve.models.data.defaults import default_checkpoint
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier, resolve_checkpoint
from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.errors import SparserveError
from sparserve.models.evaluation.machine import describe_machine
from sparserve.models.files import write_atomically
from sparserve.models.pipeline.estimate import estimate_seconds
from sparserve.models.pipeline.execution import train_networks
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.plan import Plan, plan_job
from sparserve.models.pipeline.step_cache import Context, Workspace
from sparserve.models.progress import PlainReporter, Reporter
from sparserve.models.recipes.loading import load_recipe
from sparserve.models.recipes.schema import Training
from sparserve.models.training.precision import trains_in_bf16

RESULTS = Path(__file__).parent.parent / "results" / "accuracy.json"
RUN_FIELDS = ("scale", "task", "method", "level", "seed")
LATENCY_FIELDS = ("scale", "task", "method", "level")
LATENCY_TASK = "mrpc"


@dataclass
class Benchmark:
    """The runs of one scale, with the places of their data, cache and results."""

    scale: Scale
    checkpoint: Checkpoint
    data: Path
    work: Path
    results: Path
    threads: int
    datasets: dict[str, Dataset] = field(default_factory=dict)
    estimates: dict[str, float] = field(default_factory=dict)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.work / "steps")

    def job(self, cell: Cell, teacher: Checkpoint | None = None) -> Job:
        """Return the job of a run. All seeds of a task share the teacher of seed 0."""
        if cell.task not in self.datasets:
            self.datasets[cell.task] = TASKS[cell.task].load(self.data, self.work)
        recipe = load_recipe(cell.method.recipe, overrides=cell.overrides)
        seed = cell.seed if teacher else SEEDS[0]
        dataset = self.datasets[cell.task]
        return Job(cell.task, recipe, self.checkpoint, teacher, dataset, cell.task, seed, self.threads)

    def key(self, cell: Cell) -> str:
        """Return the digest of all inputs of a run except the machine; it does not need the fine-tuned teacher."""
        plan = plan_job(self.job(cell))
        return f"{plan.teacher.key}-{plan.student.key}-{cell.seed}"

    def is_recorded(self, cell: Cell) -> bool:
        """Return True if the results contain exactly this run."""
        identity = {"key": self.key(cell), "scale": cell.scale.name, "method": cell.method.name, "level": cell.level}
        return any(identity.items() <= record.items() for record in read_results(self.results)["runs"])

    def plan(self, cell: Cell, reporter: Reporter) -> Plan:
        """Return the plan of a run. Fine-tune its teacher first if there is none."""
        fine_tuning = plan_job(self.job(cell))
        name = fine_tuning.job.teacher_or_checkpoint.name
        teacher = Context(self.workspace, reporter).checkpoint(fine_tuning.teacher, name)
        return plan_job(self.job(cell, teacher))

    def has(self, cell: Cell) -> bool:
        """Return True if the student of a run is cached."""
        teacher = plan_job(self.job(cell)).teacher
        if teacher is None or not self.workspace.has(teacher):
            return False
        return self.workspace.has(self.plan(cell, PlainReporter()).student)

    def seconds(self, cell: Cell) -> float:
        """Estimate the remaining training time of a run, from the first estimate for its task."""
        if cell.method.recipe in WITHOUT_TRAINING or self.is_recorded(cell) or self.has(cell):
            return 0.0
        if cell.task not in self.estimates:
            self.estimates[cell.task] = _student_seconds(plan_job(self.job(cell)))
        return self.estimates[cell.task]

    def run(self, cell: Cell, reporter: Reporter) -> None:
        """Train and score a run, reusing cached steps, and add its record to the results."""
        plan = self.plan(cell, reporter)
        counted = [step for step in plan.steps if step.name in ("squeeze", "student")]
        clock = Stopwatch(self.work / "step-minutes", {step.name: step.key for step in counted})
        teacher, student = train_networks(plan, Context(self.workspace, clock))
        record = self._scored(cell, plan, teacher, student) | {"minutes": clock.minutes}
        self._save("runs", record, RUN_FIELDS)
        print(
            f"{cell.title}: {record['score']:.1f}, dense {record['dense']:.1f}, drop {record['drop']['points']:+.1f} "
            f"({record['drop']['low']:+.1f} to {record['drop']['high']:+.1f}), {clock.minutes} min",
            flush=True,
        )

    def measure(self, cell: Cell, reporter: Reporter) -> None:
        """Measure the latency of the graphs of a run, interleaved with the dense ones."""
        plan, context = self.plan(cell, reporter), Context(self.workspace, reporter)
        teacher, _ = train_networks(plan, context)
        record = measured(plan, teacher, TASKS[cell.task], context)
        identity = {"key": self.key(cell), "scale": self.scale.name, "task": cell.task}
        identity |= {"method": cell.method.name, "kind": cell.method.kind, "level": cell.level}
        self._save("latency", {**identity, **record}, LATENCY_FIELDS)

    def _scored(self, cell: Cell, plan: Plan, teacher: Checkpoint, student: Checkpoint) -> dict[str, Any]:
        dataset, task, recipe = plan.job.dataset, TASKS[cell.task], plan.job.recipe
        labels = np.asarray(dataset.test.labels)
        dense, predicted = (
            logits(network, dataset, recipe.max_length, "test").argmax(-1) for network in (teacher, student)
        )
        held_out = [logits(network, dataset, recipe.max_length, "validation") for network in (teacher, student)]

        def score(predictions: Any, truth: Any) -> float:
            return task.score(predictions, truth, dataset.label_names)

        kept, whole = _encoder_weights(student, dataset), _encoder_weights(teacher, dataset)
        return {
            "key": self.key(cell),
            "scale": self.scale.name,
            "task": cell.task,
            "metric": task.metric,
            "method": cell.method.name,
            "kind": cell.method.kind,
            "level": cell.level,
            "seed": cell.seed,
            "train_rows": len(dataset.train),
            "test_rows": len(dataset.test),
            "epochs": recipe.student.epochs,
            "majority": score(np.full_like(labels, np.bincount(dataset.train.labels).argmax()), labels),
            "dense": score(dense, labels),
            "score": score(predicted, labels),
            "validation": score(held_out[1].argmax(-1), np.asarray(dataset.validation.labels)),
            "divergence": divergence(*held_out),
            "agreement": 100 * float((dense == predicted).mean()),
            "drop": paired_drop(score, dense, predicted, labels),
            "encoder_kept": kept / whole,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": self.threads,
            "precision": _precision(recipe.student),
            "machine": describe_machine().model_dump(mode="json"),
            "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def _save(self, kind: str, record: dict[str, Any], identity: Sequence[str]) -> None:
        """Add a record and replace the one that is equal in the fields `identity`."""
        with FileLock(self.work / "results.lock"):
            content = read_results(self.results)
            others = [old for old in content[kind] if any(old[name] != record[name] for name in identity)]
            content[kind] = sorted([*others, record], key=lambda item: [str(item[name]) for name in identity])
            write_atomically(self.results, json.dumps(content, indent=1) + "\n")


def read_results(path: Path) -> dict[str, Any]:
    """Read the recorded results."""
    content: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {"runs": [], "latency": []}
    return content


def _precision(training: Training) -> str:
    """Return the precision of the training on this machine."""
    return "bf16" if trains_in_bf16(training) else "fp32"


def _student_seconds(plan: Plan) -> float:
    return estimate_seconds(plan.job, [plan.student])["student"]


def _encoder_weights(checkpoint: Checkpoint, dataset: Dataset) -> int:
    """Return the number of nonzero weights in the linear layers of the encoder."""
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type)
    return sum(int(linear.weight.count_nonzero()) for linear in encoder_linears(model).values())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder of JSON lines per task")
    parser.add_argument("--scale", choices=list(SCALES), default=SMALL.name)
    parser.add_argument("--task", action="append", choices=list(TASKS))
    parser.add_argument("--method", action="append")
    parser.add_argument("--level", action="append")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds for the methods that are repeated")
    parser.add_argument("--work", type=Path, default=Path(".cache") / "accuracy")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--latency", action="store_true", help="measure the latency of cached runs; train nothing")
    parser.add_argument("--again", action="store_true", help="repeat recorded runs")
    parser.add_argument("--plan", action="store_true", help="list the runs and their estimated time")
    options = parser.parse_args(arguments)
    scale = SCALES[options.scale]
    unknown = set(options.task or ()) - set(scale.epochs) | set(options.method or ()) - {m.name for m in scale.methods}
    if unknown:
        parser.error(f"unknown in the scale {scale.name}: {', '.join(sorted(unknown))}")
    tasks = options.task or list(scale.epochs)
    missing = [str(path) for task in tasks for path in TASKS[task].files(options.data) if not path.is_file()]
    if missing:
        parser.error(f"{missing[0]} is missing. docs/benchmarks/accuracy.md describes the content of --data.")
    torch.set_num_threads(options.threads)
    fetch = mpnet_base if scale is BASE else default_checkpoint
    checkpoint = resolve_checkpoint(str(fetch(options.work / "downloads")), name=scale.checkpoint)
    benchmark = Benchmark(scale, checkpoint, options.data, options.work, options.results, options.threads)
    grid = list(cells(scale, tasks, options.method, options.level, seeds=options.seeds))
    if not grid:
        levels = sorted({level for method in scale.methods for level in method.levels})
        parser.error(f"no run has this level. Levels (not every method has all): {', '.join(levels)}.")
    if options.plan:
        total = 0.0
        for cell in grid:
            seconds = benchmark.seconds(cell)
            total += seconds
            print(f"{cell.title:<60} {'done' if not seconds else f'about {seconds / 60:.0f} min'}")
        print(f"{len(grid)} runs, about {total / 3600:.1f} hours plus the teachers")
        return
    reporter = PlainReporter()
    for cell in grid:
        try:
            if not options.latency:
                if options.again or not benchmark.is_recorded(cell):
                    benchmark.run(cell, reporter)
            elif benchmark.has(cell) and cell.seed == 0 and cell.task in (options.task or [LATENCY_TASK]):
                benchmark.measure(cell, reporter)
        except SparserveError as error:
            # A failing method must not stop the other runs.
            print(f"{cell.title}: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
