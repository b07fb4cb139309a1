"""A job from its options: sources found and checked, steps laid out, then run or printed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sparserve.models.bundle.store import Store
from sparserve.models.bundle.variants import Variant
from sparserve.models.cpus import available_cpus
from sparserve.models.data.dataset import Dataset, Split
from sparserve.models.data.defaults import default_checkpoint
from sparserve.models.data.loading import load_dataset
from sparserve.models.data.options import DataOptions
from sparserve.models.data.sources.source import HUB, is_hub_id
from sparserve.models.data.sources.split_files import exists
from sparserve.models.data.unlabeled import UnlabeledRows, load_unlabeled
from sparserve.models.distributed import count, uses_gpu
from sparserve.models.encoders.adapters import is_adapter, merge_adapter, merge_note
from sparserve.models.encoders.any_classifier import AnyClassifier, resolve_classifier
from sparserve.models.encoders.checkpoint import Checkpoint, resolve_checkpoint
from sparserve.models.errors import CheckpointError, InputError
from sparserve.models.files import write_atomically
from sparserve.models.pipeline.default_variant import choice_steps
from sparserve.models.pipeline.estimate import duration, measure_costs
from sparserve.models.pipeline.execution import run_plan
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.plan import Plan, plan_job
from sparserve.models.pipeline.preflight import (
    check_bigger_teacher,
    check_calibration,
    check_long_texts,
    check_recipe,
    check_type_ids,
    check_unlabeled,
    check_vocabulary,
    is_another_network,
)
from sparserve.models.pipeline.stages.student_settings import student_search_line
from sparserve.models.pipeline.stages.teacher_settings import teacher_search_line
from sparserve.models.pipeline.step_cache import Context, Workspace
from sparserve.models.pipeline.task import check_labels, check_name, task_name
from sparserve.models.pipeline.threads import ThreadChooser, faster_threads
from sparserve.models.progress import Reporter
from sparserve.models.recipes.loading import load_recipe
from sparserve.models.report.schema import Report
from sparserve.models.training.precision import has_bf16
from sparserve.models.training.teacher import assumptions, check_teacher

DEFAULT_CHECKPOINT_NAME = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class CompressOptions:
    """The options of `sparserve compress`."""

    recipe: str
    model: str | None
    data: str
    task: str | None
    teacher: str | None
    overrides: Mapping[str, Any]
    data_options: DataOptions
    splits: Mapping[str, Path]
    seed: int
    threads: int | None
    store: Path
    work: Path
    replace_labels: bool = False
    unlabeled: Path | None = None


@dataclass(frozen=True)
class Run:
    """A job that is ready to run."""

    plan: Plan
    store: Store
    workspace: Workspace
    replace_labels: bool = field(default=False, kw_only=True)
    """True if the task may have other labels in the store; it is compared again before it is published."""
    chooses_threads: bool = field(default=False, kw_only=True)
    """True if the training uses one thread while that is faster than all of the job's."""

    def execute(self, reporter: Reporter, *, default: Variant | None = None) -> Report:
        """Run the job.

        `default` is the variant that answers if nobody has chosen one; None chooses the best that is made.
        """
        job = self.plan.job
        if self.chooses_threads:
            reporter = ThreadChooser(reporter, most=job.threads, width=job.checkpoint.hidden_size)
        context = Context(self.workspace, reporter)
        return run_plan(self.plan, self.store, context, default=default, replace_labels=self.replace_labels)

    def print_plan(self, reporter: Reporter) -> None:
        """Print the recipe and every step, each with its key and its expected duration."""
        job, steps = self.plan.job, [*self.plan.steps]
        if not self.store.has_default(job.task):
            steps += choice_steps(self.plan)
        if self.chooses_threads:
            faster_threads(job.threads, job.checkpoint.hidden_size)
        costs = measure_costs(job)
        seconds = {step.name: step.estimate(costs) for step in steps}
        reporter.say("Plan:")
        total = 0.0
        for step in steps:
            cached = self.workspace.has(step)
            expected = 0.0 if cached else seconds[step.name]
            total += expected
            about = "cached" if cached else f"about {duration(expected)}"
            reporter.say(f"  {step.name:<28} {about:<16} {step.key}")
            plan = {"step": step.name, "key": step.key, "cached": cached, "seconds": round(expected, 1)}
            reporter.result("plan", plan)
        reporter.say(f"  {'all together':<28} about {duration(total)}")
        if self.plan.teacher_settings is not None:
            reporter.say(teacher_search_line(job, costs))
        if self.plan.student_settings is not None:
            reporter.say(student_search_line(self.plan.lesson, costs))
        most = "up to " if self.chooses_threads else ""
        reporter.say(f"Parameters: {most}{job.threads} threads, seed {job.seed}, bf16 {'yes' if has_bf16() else 'no'}")
        reporter.say(f"Recipe {job.recipe.name}: {job.recipe.model_dump_json()}")


def prepare(options: CompressOptions, reporter: Reporter) -> Run:
    """Read the recipe, the data and the checkpoints, check that they fit together, and lay out the steps.

    Raises:
        RecipeError, DataError, CheckpointError, InputError: one of them is wrong.
    """
    # Checks that need neither downloads nor data come first.
    recipe = load_recipe(options.recipe, overrides=options.overrides)
    if options.unlabeled is not None:
        check_unlabeled(recipe)
    task = task_name(options.data, options.task)
    check_name(recipe.variant_name, "variant")
    threads = options.threads or available_cpus()
    chooses_threads = options.threads is None and threads > 1 and count() == 1 and not uses_gpu()
    torch.set_num_threads(threads)
    downloads = options.work / "downloads"
    readme = "Cached steps of `sparserve compress`. The folder can be deleted while no job runs.\n"
    write_atomically(options.work / "README", readme)

    given = _teacher(options.teacher, downloads) if options.teacher else None
    checkpoint = _checkpoint(options.model, given, downloads)
    bigger = given if given is not None and is_another_network(given, checkpoint, recipe) else None
    teacher = None if bigger else given
    check_recipe(checkpoint, teacher, recipe)
    if bigger is not None:
        check_bigger_teacher(bigger, recipe)
    dataset = load_dataset(
        options.data,
        splits=options.splits or None,
        seed=options.seed,
        cache=downloads,
        **options.data_options,
    )
    for line in dataset.summary.lines():
        reporter.say(line)
    reporter.result("data", {"digest": dataset.digest, "labels": list(dataset.label_names)})
    if given is not None:
        dataset = _match_labels(given, dataset, reporter)
    if bigger is not None and dataset.one_score:
        raise InputError(
            f"the teacher {bigger.name} is another network than {checkpoint.name}, and such a teacher can answer with "
            "labels only, not with one score: give one that was fine-tuned from the model"
        )
    if bigger is not None and dataset.train.soft is not None:
        raise InputError(
            f"the data has soft labels, and --teacher {bigger.name} would answer the same rows: leave --teacher out, "
            "or name a column of single labels with --label-column"
        )
    if bigger is not None:
        reporter.say(
            f"The teacher {bigger.name} ({bigger.model_type}) is another network than {checkpoint.name}: its logits "
            "teach the dense variant and then the student. Losses on hidden states and attention scores compare the "
            "student with the dense variant."
        )
    if teacher is not None and options.model is None and recipe.student.start == "pretrained":
        reporter.say("No --model: the student starts from the teacher's weights.")
    store = Store(options.store)
    for note in check_labels(store, task, dataset, replace_labels=options.replace_labels):
        reporter.say(f"  note: {note}")
    hub_data_set = options.data.removeprefix(HUB) if is_hub_id(options.data) else None
    source = Path(options.data).name if exists(options.data) else options.data
    job = Job(
        task,
        recipe,
        checkpoint,
        teacher,
        dataset,
        source,
        options.seed,
        threads,
        hub_data_set=hub_data_set,
        unlabeled=_unlabeled(options, dataset, reporter),
        bigger_teacher=bigger,
    )
    check_type_ids(job)
    check_long_texts(job)
    check_vocabulary(job)
    check_calibration(job)
    for network in (options.model, options.teacher):
        if network is not None and is_adapter(network):
            reporter.say(f"  note: {merge_note(Path(network))}")
    reporter.say(f"Checkpoint {checkpoint.name}: {checkpoint.model_type}, SHA-256 {checkpoint.digest[:16]}")
    plan = plan_job(job)
    student = plan.job.recipe.student
    if student.epochs != recipe.student.epochs:
        reporter.say(
            f"The rows are few: the student passes over them {student.epochs:g} times, not {recipe.student.epochs:g} "
            "(--set student.epochs=N fixes the number)."
        )
    if student.learning_rate != recipe.student.learning_rate:
        reporter.say(
            f"The recipe's learning rate is for a hidden size of {recipe.student.reference_width}: the student has "
            f"{student.learning_rate:g}, not {recipe.student.learning_rate:g} (--set student.learning_rate=X fixes "
            "it)."
        )
    return Run(
        plan,
        store,
        Workspace(options.work / "steps"),
        replace_labels=options.replace_labels,
        chooses_threads=chooses_threads,
    )


def _unlabeled(options: CompressOptions, dataset: Dataset, reporter: Reporter) -> UnlabeledRows | None:
    if options.unlabeled is None:
        return None
    if dataset.problem_type == "regression":
        raise InputError(
            "--unlabeled: a regression needs a number in every row: remove the option, or label the rows with "
            "`sparserve predict` and add them to the data"
        )
    rows = load_unlabeled(options.unlabeled, dataset, **options.data_options)
    for line in rows.lines():
        reporter.say(line)
    reporter.result("unlabeled", {"digest": rows.split.digest, "rows": len(rows.split), "dropped": rows.dropped})
    return rows


def _match_labels(teacher: Checkpoint, dataset: Dataset, reporter: Reporter) -> Dataset:
    """Return the data with its labels in the order of the teacher's logits; say so where the order is a guess."""
    names = check_teacher(teacher, dataset)
    for note in assumptions(teacher, dataset):
        reporter.say(f"  note: {note}")
    return with_label_order(dataset, names)


def with_label_order(dataset: Dataset, names: tuple[str, ...]) -> Dataset:
    """Return the same data with its labels in another order."""
    if names == dataset.label_names:
        return dataset
    position = [names.index(name) for name in dataset.label_names]

    order = [dataset.label_names.index(name) for name in names]

    def arrange(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
        return [[row[index] for index in order] for row in rows]

    def reorder(split: Split) -> Split:
        if not dataset.multi_label:
            labels: list[Any] = [position[label] for label in split.labels]
        else:
            labels = arrange(split.labels)
        return replace(split, labels=labels, soft=None if split.soft is None else arrange(split.soft))

    train, validation, test = map(reorder, (dataset.train, dataset.validation, dataset.test))
    return replace(dataset, train=train, validation=validation, test=test, label_names=names)


def _checkpoint(model: str | None, teacher: Checkpoint | None, downloads: Path) -> Checkpoint:
    if model is not None:
        return _resolve(model, downloads)
    if isinstance(teacher, AnyClassifier):
        raise CheckpointError(
            f"the teacher {teacher.name} is a {teacher.model_type!r} model, from which no student can start here: add "
            "--model with the checkpoint of the student, which then learns the teacher's answers"
        )
    if teacher is not None:
        return teacher
    return resolve_checkpoint(str(default_checkpoint(downloads)), name=DEFAULT_CHECKPOINT_NAME)


def _teacher(source: str, downloads: Path) -> Checkpoint:
    """Return a fine-tuned network, which may be of any architecture."""
    return _resolve(source, downloads) if is_adapter(source) else resolve_classifier(source)


def _resolve(source: str, downloads: Path) -> Checkpoint:
    """Return a checkpoint; an adapter is merged into its base model first."""
    if not is_adapter(source):
        return resolve_checkpoint(source)
    return resolve_checkpoint(str(merge_adapter(Path(source), downloads)), name=Path(source).resolve().name)
