"""The runs of one scale: cached in a workspace, recorded as JSON."""

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock

from benchmarks.accuracy.latency import measured
from benchmarks.accuracy.minutes import OVERHEAD_SECONDS, token_seconds
from benchmarks.accuracy.results import read_results, save_record
from benchmarks.accuracy.scales.grid import SEEDS, WITHOUT_TRAINING, Cell, Scale
from benchmarks.accuracy.scores import divergence, logits, paired_drop
from benchmarks.accuracy.stopwatch import Stopwatch
from benchmarks.accuracy.tasks import TASKS
from sparserve.models.bundle.variants import DENSE, Arm, Variant
from sparserve.models.data.dataset import Dataset
from sparserve.models.data.unlabeled import UnlabeledRows
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier
from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.errors import EnvironmentFault
from sparserve.models.evaluation.machine import describe_machine
from sparserve.models.pipeline.estimate import Costs, estimate_seconds, measure_costs
from sparserve.models.pipeline.execution import train_networks
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.plan import Plan, plan_job
from sparserve.models.pipeline.stages.augmentation import student_rows
from sparserve.models.pipeline.stages.prediction import read_logits
from sparserve.models.pipeline.stages.teacher import training_of
from sparserve.models.pipeline.step_cache import Context, Step, Workspace
from sparserve.models.progress import PlainReporter, Reporter
from sparserve.models.recipes.loading import load_recipe
from sparserve.models.recipes.schema import Training
from sparserve.models.training.precision import trains_in_bf16
from sparserve.models.training.teacher import training_record
from sparserve.models.training.tuning.settings import read_settings

DENSE_INT8 = Variant(DENSE, "int8")
Logits = npt.NDArray[np.float32]


@dataclass
class Benchmark:
    """The runs of one scale, with the places of their data, cache and results."""

    scale: Scale
    checkpoint: Checkpoint
    data: Path
    work: Path
    results: Path
    threads: int
    bigger_scales: Mapping[str, "Benchmark"] = field(default_factory=dict)
    """The scales of bigger teachers by name."""
    datasets: dict[str, Dataset] = field(default_factory=dict)
    unlabeled: dict[str, UnlabeledRows] = field(default_factory=dict)
    estimates: dict[str, float] = field(default_factory=dict)
    costs: dict[str, Costs] = field(default_factory=dict)
    """Measured costs by task."""

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.work / "steps")

    def job(self, cell: Cell, teacher: Checkpoint | None = None, bigger: Checkpoint | None = None) -> Job:
        """Return the job of a run. All seeds of a task share the teacher of seed 0."""
        task = TASKS[cell.task]
        if cell.task not in self.datasets:
            self.datasets[cell.task] = task.load(self.data, self.work)
        dataset = self.datasets[cell.task]
        if cell.method.unlabeled and cell.task not in self.unlabeled:
            self.unlabeled[cell.task] = task.load_unlabeled(self.data, dataset)
        recipe = load_recipe(cell.method.recipe, overrides=cell.overrides)
        return Job(
            cell.task,
            recipe,
            self.checkpoint,
            teacher,
            dataset,
            cell.task,
            cell.seed if teacher else SEEDS[0],
            self.threads,
            unlabeled=self.unlabeled[cell.task] if cell.method.unlabeled else None,
            bigger_teacher=bigger,
        )

    def key(self, cell: Cell) -> str:
        """Return the digest of the inputs of a run except the machine; it does not need the fine-tuned teachers.

        That of a chain has the bigger teacher's inputs, and those of the run without the bigger teacher.
        """
        plan = plan_job(self.job(cell))
        key = f"{plan.teacher.key}-{_made(plan, cell).key}-{cell.seed}"
        if cell.method.taught_by is None:
            return key
        scale = self.bigger_scales[cell.method.taught_by.name]
        return f"{plan_job(scale.job(scale.labels_cell(cell.task))).teacher.key}-{key}"

    def labels_cell(self, task: str) -> Cell:
        """Return a run whose dense teacher is the scale's own for a task: it learned the labels."""
        method = next(method for method in self.scale.methods if method.taught_by is None and not method.unlabeled)
        return Cell(self.scale, method, next(iter(method.levels)), task, SEEDS[0])

    def is_recorded(self, cell: Cell) -> bool:
        """Return True if the results contain exactly this run."""
        identity = {"key": self.key(cell), "scale": cell.scale.name, "method": cell.method.name, "level": cell.level}
        return any(identity.items() <= record.items() for record in read_results(self.results)["runs"])

    def plan(self, cell: Cell, reporter: Reporter) -> Plan:
        """Return the plan of a run. Fine-tune its teachers first if there are none."""
        bigger = None
        if cell.method.taught_by is not None:
            bigger = self.bigger_scales[cell.method.taught_by.name].teacher(cell.task, reporter)
        return plan_job(self.job(cell, self._dense(self.job(cell, bigger=bigger), reporter), bigger))

    def teacher(self, task: str, reporter: Reporter) -> Checkpoint:
        """Return the dense teacher of a task that learned the labels. Fine-tune it first if there is none."""
        return self._dense(self.job(self.labels_cell(task)), reporter)

    def _dense(self, job: Job, reporter: Reporter) -> Checkpoint:
        step = plan_job(job).teacher
        return Context(self.workspace, reporter).checkpoint(step, job.teacher_or_checkpoint.name)

    def has(self, cell: Cell) -> bool:
        """Return True if the network of a run is cached."""
        return self.has_teacher(cell) and self.workspace.has(_made(self.plan(cell, PlainReporter()), cell))

    def has_teacher(self, cell: Cell) -> bool:
        """Return True if the dense teacher of a run is cached and, in a chain, the bigger one."""
        bigger = None
        if cell.method.taught_by is not None:
            scale = self.bigger_scales[cell.method.taught_by.name]
            if not scale.has_teacher(scale.labels_cell(cell.task)):
                return False
            bigger = scale.teacher(cell.task, PlainReporter())
        return self.workspace.has(plan_job(self.job(cell, bigger=bigger)).teacher)

    def seconds(self, cell: Cell) -> float:
        """Estimate the remaining training time of a run, from the first estimate for its task."""
        if cell.method.recipe in WITHOUT_TRAINING or self.is_recorded(cell) or self.has(cell):
            return 0.0
        if cell.task not in self.estimates:
            plan = plan_job(self.job(cell))
            self.estimates[cell.task] = estimate_seconds(plan.job, [plan.student])["student"]
        return self.estimates[cell.task]

    def remaining(self, cell: Cell) -> dict[str, float]:
        """Return the expected seconds of what is missing for a run, by key; runs share the steps of a teacher.

        They follow from the speed of a few training steps on this machine.
        """
        fine_tuning = plan_job(self.job(cell))
        costs = self._costs(fine_tuning.job)
        plan = self.plan(cell, PlainReporter()) if self.has_teacher(cell) else fine_tuning
        scored = OVERHEAD_SECONDS + 2 * costs.forward(costs.test + costs.validation)
        result = {cell.title: scored, **self._absent(_made(plan, cell), costs)}
        if cell.method.taught_by is not None:
            larger = self.bigger_scales[cell.method.taught_by.name]
            bigger_plan = plan_job(larger.job(larger.labels_cell(cell.task)))
            result |= larger._absent(bigger_plan.teacher, larger._costs(bigger_plan.job))
            result |= self._absent(plan_job(self.job(self.labels_cell(cell.task))).teacher, costs)
            if not self.has_teacher(cell):  # the one that learns from the bigger teacher
                result[f"{cell.title}: dense teacher"] = fine_tuning.teacher.estimate(costs)
        return result

    def _absent(self, step: Step, costs: Costs) -> dict[str, float]:
        """Return the expected seconds of a step and all that it needs, as far as they are not cached, by key."""
        return {one.key: one.estimate(costs) for one in _with_needs(step) if not self.workspace.has(one)}

    def _costs(self, job: Job) -> Costs:
        if job.task not in self.costs:
            self.costs[job.task] = replace(measure_costs(job), token_seconds=token_seconds(job))
        return self.costs[job.task]

    def run(self, cell: Cell, reporter: Reporter) -> None:
        """Train and score a run, reusing cached steps, and add its record to the results."""
        plan = self.plan(cell, reporter)
        counted = [step for step in plan.steps if step.name in ("squeeze", "student")]
        clock = Stopwatch(self.work / "step-minutes", {step.name: step.key for step in counted})
        context = Context(self.workspace, clock)
        if cell.method.kind == "dense":
            teacher = student = context.checkpoint(plan.teacher, plan.job.teacher_or_checkpoint.name)
        else:
            teacher, student = train_networks(plan, context)
        arm = _arm(plan, cell)
        if arm is None:
            answers = _answers(student, plan.job)
        elif arm in plan.predictions:
            answers = [read_logits(context.result(steps[arm])) for steps in (plan.predictions, plan.validations)]
        else:
            raise EnvironmentFault(
                f"{cell.method.name} is scored in the sparse runtime, which was not built here: install a C++20 "
                "compiler and then sparserve again. The same command then continues from the trained network."
            )
        reference = teacher if cell.method.taught_by is None else self.teacher(cell.task, reporter)
        record = self._scored(cell, plan, reference, student, answers) | {
            "teacher": self._course(cell, context),
            "learning_rate": _student_rate(plan, context),
            "steps": None if cell.method.kind == "dense" else _steps(plan, context),
            "minutes": clock.minutes,
        }
        self._save("runs", record)
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
        self._save("latency", {**identity, **record})

    def _scored(
        self, cell: Cell, plan: Plan, teacher: Checkpoint, student: Checkpoint, answers: Sequence[Logits]
    ) -> dict[str, Any]:
        dataset, task, recipe = plan.job.dataset, TASKS[cell.task], plan.job.recipe
        labels = np.asarray(dataset.test.labels)
        dense_test, dense_validation = _answers(teacher, plan.job)
        dense, predicted = dense_test.argmax(-1), answers[0].argmax(-1)

        def score(predictions: Any, truth: Any) -> float:
            return task.score(predictions, truth, dataset.label_names)

        recalls = {
            name: task.out_of_scope_recall(predictions, labels, dataset.label_names)
            for name, predictions in (("dense", dense), ("score", predicted))
        }
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
            "validation": score(answers[1].argmax(-1), np.asarray(dataset.validation.labels)),
            "divergence": divergence(dense_validation, answers[1]),
            "agreement": 100 * float((dense == predicted).mean()),
            "drop": paired_drop(score, dense, predicted, labels),
            **({} if task.out_of_scope is None else {"out_of_scope_recall": recalls}),
            "encoder_kept": kept / whole,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": self.threads,
            "precision": _precision(recipe.student),
            "machine": describe_machine().model_dump(mode="json"),
            "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def _course(self, cell: Cell, context: Context) -> dict[str, Any]:
        """Return the training that the dense teacher of a run had."""
        plan = plan_job(self.job(self.labels_cell(cell.task) if cell.method.taught_by is not None else cell))
        settings = training_of(plan.teacher_settings, plan.job, context)
        assert settings is not None
        rows = plan.job.dataset
        course = training_record(
            self.workspace.path(plan.teacher),
            settings,
            train_rows=len(rows.train),
            validation_rows=len(rows.validation),
        )
        return {
            "found": plan.teacher_settings is not None,
            "learning_rate": settings.learning_rate,
            "epochs": course.epochs if course is not None else settings.epochs,
        }

    def _save(self, kind: str, record: dict[str, Any]) -> None:
        """Add a record in place of the one of the same run."""
        with FileLock(self.work / "results.lock"):
            save_record(self.results, kind, record)


def _answers(network: Checkpoint, job: Job) -> list[Logits]:
    """Return the logits of a network for the test and the validation rows."""
    return [logits(network, job.dataset, job.recipe.max_length, split) for split in ("test", "validation")]


def _arm(plan: Plan, cell: Cell) -> Arm | None:
    """Return the file and the runtime that a run is scored with; None for the network itself."""
    if cell.method.kind == "dense":
        return Arm(DENSE_INT8)
    return Arm(Variant(plan.job.recipe.variant_name, "int8"), "sparse") if cell.method.as_served else None


def _made(plan: Plan, cell: Cell) -> Step:
    """Return the step that makes what a run compares with the teacher."""
    arm = _arm(plan, cell)
    return plan.student if arm is None else plan.exports[arm.variant]


def _with_needs(step: Step) -> list[Step]:
    """Return a step after all that it needs, each once."""
    steps: dict[str, Step] = {}
    for needed in step.needs:
        steps |= {one.key: one for one in _with_needs(needed)}
    return list((steps | {step.key: step}).values())


def _student_rate(plan: Plan, context: Context) -> float | None:
    """Return the learning rate of the student, found or fixed; None if it was not trained."""
    if plan.student_settings is not None:
        return read_settings(context.result(plan.student_settings)).learning_rate
    student = plan.job.recipe.student
    return student.learning_rate if student.epochs else None


def _steps(plan: Plan, context: Context) -> int:
    """Return the training steps of the student: of augmented rows, some are fewer than planned."""
    job, student = plan.job, plan.job.recipe.student
    rows = student_rows(job, job.checkpoint, plan.lesson.augmentation, context).train
    return round(student.epochs * math.ceil(len(rows) / student.batch_size))


def _precision(training: Training) -> str:
    """Return the precision of the training on this machine."""
    return "bf16" if trains_in_bf16(training) else "fp32"


def _encoder_weights(checkpoint: Checkpoint, dataset: Dataset) -> int:
    """Return the number of nonzero weights in the linear layers of the encoder."""
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type)
    return sum(int(linear.weight.count_nonzero()) for linear in encoder_linears(model).values())
