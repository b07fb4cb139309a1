"""The job as one resumable chain: data -> teacher -> student -> export -> evaluate -> measure -> bundles -> report.

A plan says which steps there are and what each depends on; carrying it out twice does each step once. Bundles are
published when all steps are done, so a store never holds a part of a run.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models import steps
from models.bundle import CARD, MODEL, TOKENIZER, Bundle
from models.card import model_card
from models.checkpoint import Checkpoint, resolve_checkpoint
from models.data import Dataset
from models.errors import CheckpointError
from models.evaluation import compare_with_reference, evaluate
from models.graph_statistics import flops, sizes, sparsity
from models.machine import describe_machine
from models.manifest import Evaluation, Lineage, Manifest, Measurement
from models.measurement import Arm, measure
from models.progress import Reporter
from models.quantization import quantize
from models.recipe import Recipe
from models.report import Report, write_report
from models.runtime import available_cpus
from models.store import Store
from models.teacher_outputs import cache_bytes
from models.tokens import tokenize
from models.workspace import Step, Workspace

DENSE, INT8 = "dense", "-int8"
LIBRARIES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "tokenizers")
FLOPS_LENGTH = 128


@dataclass(frozen=True)
class Job:
    """All that decides what a run makes."""

    task: str
    recipe: Recipe
    checkpoint: Checkpoint
    teacher: Checkpoint | None
    dataset: Dataset
    data_source: str
    seed: int
    threads: int


@dataclass(frozen=True)
class Plan:
    """The steps of a job, each depending on those before it; `teacher` is absent where a fine-tuned one is given."""

    job: Job
    teacher: Step | None
    teacher_outputs: Step | None
    student: Step
    exports: dict[str, Step]
    predictions: dict[str, Step]
    measurement: Step

    @property
    def steps(self) -> list[Step]:
        """Every step, in order."""
        training = [self.teacher, self.teacher_outputs, self.student]
        return [
            *(step for step in training if step is not None),
            *self.exports.values(),
            *self.predictions.values(),
            self.measurement,
        ]


def make_plan(job: Job) -> Plan:
    """Lay out the steps of a job; nothing is written, and nothing is run."""
    recipe, seed = job.recipe, job.seed
    libraries = {name: version(name) for name in LIBRARIES}
    common = {"data": job.dataset.digest, "max_length": recipe.max_length, "seed": seed, "libraries": libraries}
    teacher: Step | None = None
    teacher_key = job.teacher.digest if job.teacher else ""
    if job.teacher is None:
        inputs = {**common, "checkpoint": job.checkpoint.digest, "training": recipe.teacher}
        teacher = Step("teacher", inputs)
        teacher_key = teacher.key

    outputs: Step | None = None
    if recipe.distillation is not None and _cache_fits(job):
        wanted = steps.outputs_wanted(recipe.distillation)
        needed = {"hidden": wanted.hidden, "attention": wanted.attention}
        outputs = Step("teacher outputs", {**common, "teacher": teacher_key, "wanted": needed})

    distillation = recipe.distillation.model_dump(mode="json", exclude={"cache_bytes"}) if recipe.distillation else None
    student = Step(
        "student",
        {
            **common,
            "checkpoint": job.checkpoint.digest,
            "teacher": teacher_key if recipe.distillation or recipe.student.start == "teacher" else None,
            "training": recipe.student,
            "pruning": recipe.pruning,
            "distillation": distillation,
        },
    )
    sources = {DENSE: teacher_key, recipe.variant_name: student.key}
    exports = {}
    for variant, source in sources.items():
        inputs = {"source": source, "variant": variant, "export": recipe.export, **common}
        exports[variant] = Step(f"export {variant}", inputs)
        if variant == DENSE or recipe.quantization.enabled:
            int8 = {"graph": exports[variant].key, "quantization": recipe.quantization}
            exports[variant + INT8] = Step(f"export {variant}{INT8}", int8)
    predictions = {
        variant: Step(f"predict {variant}", {"graph": step.key, "data": job.dataset.digest})
        for variant, step in exports.items()
    }
    machine = describe_machine()
    measurement = Step(
        "measurement",
        {
            "graphs": {variant: step.key for variant, step in exports.items()},
            "measurement": recipe.measurement,
            "threads": _measured_threads(job),
            "machine": machine,
        },
    )
    return Plan(job, teacher, outputs, student, exports, predictions, measurement)


def run_plan(plan: Plan, store: Store, workspace: Workspace, reporter: Reporter) -> Report:
    """Carry out a plan: every step that is not done yet, then publish the bundles and the task's report."""
    job, recipe = plan.job, plan.job.recipe
    advance = reporter.advance

    teacher = job.teacher
    if plan.teacher is not None:
        folder = workspace.run(
            plan.teacher,
            lambda f: steps.train_teacher(
                f,
                checkpoint=job.checkpoint,
                dataset=job.dataset,
                training=recipe.teacher,
                max_length=recipe.max_length,
                seed=job.seed,
                progress=advance,
            ),
            reporter,
        )
        teacher = resolve_checkpoint(str(folder), name=job.checkpoint.name)
    assert teacher is not None
    fine_tuned = teacher

    cache: Path | None = None
    if plan.teacher_outputs is not None and recipe.distillation is not None and not workspace.has(plan.student):
        wanted = steps.outputs_wanted(recipe.distillation)
        cache = workspace.run(
            plan.teacher_outputs,
            lambda f: steps.cache_teacher(
                f,
                teacher=fine_tuned,
                dataset=job.dataset,
                max_length=recipe.max_length,
                wanted=wanted,
                progress=advance,
            ),
            reporter,
        )
    student_folder = workspace.run(
        plan.student,
        lambda f: steps.train_student(
            f,
            recipe=recipe,
            checkpoint=job.checkpoint,
            teacher=fine_tuned,
            teacher_cache=cache,
            dataset=job.dataset,
            seed=job.seed,
            progress=advance,
        ),
        reporter,
    )
    student = resolve_checkpoint(str(student_folder), name=job.checkpoint.name)

    sources = {DENSE: fine_tuned, recipe.variant_name: student}
    graphs: dict[str, Path] = {}
    for variant, step in plan.exports.items():
        build = _export_builder(variant, sources, graphs, job)
        graphs[variant] = workspace.run(step, build, reporter) / MODEL
    logits = {
        variant: np.load(
            workspace.run(step, _prediction_builder(variant, sources, graphs, job, advance), reporter) / "logits.npy"
        )
        for variant, step in plan.predictions.items()
    }
    measured_path = workspace.run(plan.measurement, _measurement_builder(graphs, sources, job, advance), reporter)
    stored = json.loads((measured_path / "measurement.json").read_bytes())
    measured = {variant: Measurement.model_validate(record) for variant, record in stored.items()}

    bundles = _publish(job, store, sources, graphs, logits, measured, reporter)
    store.set_default_variant(job.task, recipe.variant_name)
    for variant, bundle in bundles.items():
        reporter.say(f"bundle {job.task}/{variant}/{bundle.manifest.version}")
    return write_report(store, job.task)


def check_teacher(teacher: Checkpoint, dataset: Dataset) -> tuple[str, ...]:
    """Label names in the order of a fine-tuned teacher's logits.

    Raises:
        CheckpointError: the teacher predicts other labels than the data has.
    """
    names = teacher.label_names
    if len(names) == len(dataset.label_names):
        if {name.casefold() for name in names} == {name.casefold() for name in dataset.label_names}:
            by_folded = {name.casefold(): name for name in dataset.label_names}
            return tuple(by_folded[name.casefold()] for name in names)
        if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
            return dataset.label_names
    raise CheckpointError(
        f"the teacher {teacher.name} predicts {', '.join(names)}, but the data has {', '.join(dataset.label_names)}: "
        "give a teacher that was fine-tuned on these labels, or none, to have one fine-tuned"
    )


def _cache_fits(job: Job) -> bool:
    assert job.recipe.distillation is not None
    config: Any = job.checkpoint.config
    multi_label = job.dataset.problem_type == "multi_label_classification"
    rows = tokenize(job.dataset.train, job.checkpoint.tokenizer(), job.recipe.max_length, multi_label=multi_label)
    needed = cache_bytes(
        rows,
        steps.outputs_wanted(job.recipe.distillation),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
    )
    return needed <= job.recipe.distillation.cache_bytes


def _export_builder(
    variant: str, sources: dict[str, Checkpoint], graphs: dict[str, Path], job: Job
) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        path = folder / MODEL
        if variant in sources:
            steps.export_checkpoint(path, checkpoint=sources[variant], dataset=job.dataset, recipe=job.recipe)
        else:
            quantize(graphs[variant.removesuffix(INT8)], path, job.recipe.quantization)
        steps.stamp(path, variant, "fp32" if variant in sources else "int8")

    return build


def _prediction_builder(
    variant: str,
    sources: dict[str, Checkpoint],
    graphs: dict[str, Path],
    job: Job,
    progress: Callable[[int, int, str], None],
) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        source = sources[variant.removesuffix(INT8)]
        logits = steps.predict(
            graphs[variant],
            source.folder / TOKENIZER,
            job.dataset.test,
            max_length=job.recipe.max_length,
            pad_token_id=int(source.tokenizer().pad_token_id),
            threads=job.threads,
            progress=progress,
        )
        np.save(folder / "logits.npy", logits)

    return build


def _measurement_builder(
    graphs: dict[str, Path],
    sources: dict[str, Checkpoint],
    job: Job,
    progress: Callable[[int, int, str], None],
) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        settings = job.recipe.measurement
        pad_token_id = int(job.checkpoint.tokenizer().pad_token_id)
        measured = measure(
            {variant: Arm(path, pad_token_id) for variant, path in graphs.items()},
            batches=settings.batches,
            lengths=tuple(length for length in settings.lengths if length <= job.recipe.max_length),
            threads=_measured_threads(job),
            budget_seconds=settings.seconds,
            vocabulary=int(job.checkpoint.config.vocab_size),
            progress=progress,
        )
        content = {variant: record.model_dump(mode="json") for variant, record in measured.items()}
        (folder / "measurement.json").write_text(json.dumps(content), encoding="utf-8")

    return build


def _publish(
    job: Job,
    store: Store,
    sources: dict[str, Checkpoint],
    graphs: dict[str, Path],
    logits: dict[str, npt.NDArray[np.float32]],
    measured: dict[str, Measurement],
    reporter: Reporter,
) -> dict[str, Bundle]:
    bundles: dict[str, Bundle] = {}
    for variant, graph in graphs.items():
        source = sources[variant.removesuffix(INT8)]
        dense = bundles.get(DENSE)
        evaluation = _evaluate(job, logits[variant], logits[DENSE] if dense else None, dense)
        manifest = _manifest(job, variant, source, graph, evaluation, measured[variant], dense)
        files: dict[str, Path | bytes] = {
            MODEL: graph,
            TOKENIZER: source.folder / TOKENIZER,
            CARD: model_card(manifest).encode(),
        }
        if not variant.endswith(INT8):
            # Of a fine-tuned teacher that was given, only what training or export can go on from.
            kept = [p for p in sorted(source.folder.iterdir()) if p.suffix in {".json", ".safetensors", ".txt"}]
            files |= {f"checkpoint/{path.name}": path for path in kept if path.is_file()}
        bundles[variant] = store.publish(manifest, files)
        reporter.result("bundle", {"variant": variant, "version": bundles[variant].manifest.version})
    return bundles


def _evaluate(
    job: Job, logits: npt.NDArray[np.float32], reference: npt.NDArray[np.float32] | None, dense: Bundle | None
) -> Evaluation:
    test, settings = job.dataset.test, job.recipe.evaluation
    labels = np.asarray(test.labels)
    figures = evaluate(
        logits,
        labels,
        label_names=job.dataset.label_names,
        problem_type=job.dataset.problem_type,
        bootstrap_samples=settings.bootstrap_samples,
        seed=job.seed,
    )
    if reference is None or dense is None:
        return figures
    return compare_with_reference(
        figures,
        logits,
        reference,
        labels,
        texts=test.texts,
        text_pairs=test.text_pairs,
        label_names=job.dataset.label_names,
        problem_type=job.dataset.problem_type,
        reference_version=dense.manifest.version,
        bootstrap_samples=settings.bootstrap_samples,
        seed=job.seed,
        examples=settings.examples,
    )


def _manifest(
    job: Job,
    variant: str,
    source: Checkpoint,
    graph: Path,
    evaluation: Evaluation,
    measurement: Measurement,
    dense: Bundle | None,
) -> Manifest:
    config: Any = source.config
    counted = sparsity(graph)
    pad_token_id = int(source.tokenizer().pad_token_id)
    max_length = job.recipe.max_length
    recipe = job.recipe.model_dump(mode="json", exclude={"measurement"})
    if variant.removesuffix(INT8) == DENSE:
        # The baseline depends on nothing of how the student was made: one dense bundle for every recipe.
        recipe = {name: recipe[name] for name in ("max_length", "teacher", "quantization", "export", "evaluation")}
    return Manifest(
        task=job.task,
        variant=variant,
        version="0" * 16,
        labels=job.dataset.label_names,
        problem_type=job.dataset.problem_type,
        architecture=source.model_type,
        precision="int8" if variant.endswith(INT8) else "fp32",
        max_length=max_length,
        pad_token_id=pad_token_id,
        recipe=recipe,
        lineage=Lineage(
            base_checkpoint=job.checkpoint.name,
            base_digest=job.checkpoint.digest,
            data_source=job.data_source,
            data_digest=job.dataset.digest,
            teacher=dense.manifest.version if dense else None,
            seed=job.seed,
            libraries={name: version(name) for name in LIBRARIES},
        ),
        sparsity=counted,
        sizes=sizes(graph),
        flops=flops(counted, length=FLOPS_LENGTH, hidden=int(config.hidden_size), layers=int(config.num_hidden_layers)),
        evaluation=evaluation,
        measurement=measurement,
        sample=steps.sample_answers(graph, source.folder / TOKENIZER, max_length=max_length, pad_token_id=pad_token_id),
        files={},
    )


def _measured_threads(job: Job) -> int:
    return job.recipe.measurement.threads or available_cpus()
