"""The job as one resumable chain: data -> teacher -> student -> export -> evaluate -> measure -> bundles -> report.

Bundles are published when all steps are done, so a store never holds a part of a run.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL, TOKENIZER
from sparserve.models.bundle.inference import sparse_library
from sparserve.models.bundle.manifest import Measurement
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.variants import _INT8 as INT8
from sparserve.models.bundle.variants import Arm, Variant
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.evaluation.latency import RunnableGraph, measure, with_sparse
from sparserve.models.evaluation.prediction import predict
from sparserve.models.export.quantization import quantize
from sparserve.models.pipeline import steps
from sparserve.models.pipeline.plan import DENSE, Job, Plan
from sparserve.models.pipeline.publishing import publish
from sparserve.models.pipeline.step_cache import Workspace
from sparserve.models.pipeline.training_steps import train_networks
from sparserve.models.progress import Reporter
from sparserve.models.recipes.schema import Embeddings
from sparserve.models.report.builder import write_report
from sparserve.models.report.schema import Report
from sparserve.models.types import Progress


def run_plan(
    plan: Plan, store: Store, workspace: Workspace, reporter: Reporter, *, answering: str | None = None
) -> Report:
    """Carry out a plan: every step that is not done yet, then publish the bundles and the task's report.

    Where nobody has chosen the variant that answers for the task, it is `answering`, by default the recipe's own.
    """
    job, recipe = plan.job, plan.job.recipe
    advance = reporter.advance

    fine_tuned, student = train_networks(plan, workspace, reporter)
    sources = {DENSE: fine_tuned, recipe.variant_name: student}
    graphs, packed = build_graphs(plan, sources, workspace, reporter)
    runnable = {variant: packed[variant] / SPARSE_MODEL for variant in plan.sparse_predictions if variant in packed}
    if packed and not runnable:
        reporter.say("the sparse runtime is not available here: its files are made, but not evaluated or measured")
    logits = {
        variant: np.load(
            workspace.run(step, _prediction_builder(variant, sources, graphs, job, advance), reporter) / "logits.npy"
        )
        for variant, step in plan.predictions.items()
    }
    sparse_logits = {
        variant: np.load(
            workspace.run(step, _prediction_builder(variant, sources, runnable, job, advance, sparse=True), reporter)
            / "logits.npy"
        )
        for variant, step in plan.sparse_predictions.items()
        if variant in runnable
    }
    measured_path = workspace.run(plan.measurement, _measurement_builder(graphs, runnable, job, advance), reporter)
    stored = json.loads((measured_path / "measurement.json").read_bytes())
    measured = {arm: Measurement.model_validate(record) for arm, record in stored.items()}
    for variant in sparse_logits:
        measured[variant] = with_sparse(
            measured[variant],
            measured[str(Arm(Variant.parse(variant), "sparse"))],
            logits=logits[variant],
            sparse_logits=sparse_logits[variant],
            labels=np.asarray(job.dataset.test.labels),
            problem_type=job.dataset.problem_type,
        )

    bundles = publish(job, store, sources, graphs, packed, logits, measured, reporter)
    if not store.has_default(job.task):
        # The first compressed variant answers for its task; what answers later on is for people to change.
        store.set_default_variant(job.task, answering or recipe.variant_name)
    answering = store.default_variant(job.task)
    reporter.say(f"{job.task} answers with {answering}: `sparserve bundles default {job.task} VARIANT` changes that")
    for variant, bundle in bundles.items():
        reporter.say(f"bundle {job.task}/{variant}/{bundle.manifest.version}")
    return write_report(store, job.task)


def build_graphs(
    plan: Plan, sources: dict[str, Checkpoint], workspace: Workspace, reporter: Reporter
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Export, quantise and pack the networks: the graph of every variant, and the folder of each that was packed."""
    job = plan.job
    graphs: dict[str, Path] = {}
    for variant, step in plan.exports.items():
        build = _export_builder(variant, sources, graphs, job)
        graphs[variant] = workspace.run(step, build, reporter) / MODEL
    packed: dict[str, Path] = {}
    library = sparse_library().path if plan.sparse_predictions else None
    for variant, step in plan.packs.items():
        folder = workspace.run(step, _pack_builder(variant, sources, graphs, job, library), reporter)
        if (folder / SPARSE_MODEL).is_file():
            packed[variant] = folder
        else:
            reporter.say(f"{variant} has no {SPARSE_MODEL}: {(folder / steps.NOT_PACKED).read_text().strip()}")
    return graphs, packed


def _export_builder(
    variant: str, sources: dict[str, Checkpoint], graphs: dict[str, Path], job: Job
) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        path = folder / MODEL
        if variant in sources:
            steps.export_checkpoint(path, checkpoint=sources[variant], dataset=job.dataset, recipe=job.recipe)
            embeddings = job.recipe.embeddings
            if variant != DENSE and embeddings != Embeddings():
                steps.shrink_tables(
                    path,
                    embeddings=embeddings,
                    checkpoint=sources[variant],
                    dataset=job.dataset,
                    max_length=job.recipe.max_length,
                )
        else:
            source, recipe = variant.removesuffix(INT8), job.recipe
            quantize(graphs[source], path, recipe.baseline_quantization if source == DENSE else recipe.quantization)
        steps.stamp(path, variant, "fp32" if variant in sources else "int8")

    return build


def _pack_builder(
    variant: str, sources: dict[str, Checkpoint], graphs: dict[str, Path], job: Job, library: Path | None
) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        source = variant.removesuffix(INT8)
        quantization = job.recipe.quantization if variant.endswith(INT8) else None
        steps.pack_checkpoint(
            folder,
            graphs[source],
            checkpoint=sources[source],
            quantization=quantization,
            max_length=job.recipe.max_length,
            library=library,
        )

    return build


def _prediction_builder(
    variant: str,
    sources: dict[str, Checkpoint],
    graphs: dict[str, Path],
    job: Job,
    progress: Progress,
    *,
    sparse: bool = False,
) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        source = sources[variant.removesuffix(INT8)]
        logits = predict(
            graphs[variant],
            source.folder / TOKENIZER,
            job.dataset.test,
            max_length=job.recipe.max_length,
            pad_token_id=int(source.tokenizer().pad_token_id),
            threads=job.threads,
            progress=progress,
            library=sparse_library().path if sparse else None,
        )
        np.save(folder / "logits.npy", logits)

    return build


def _measurement_builder(
    graphs: dict[str, Path],
    packed: dict[str, Path],
    job: Job,
    progress: Progress,
) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        settings = job.recipe.measurement
        pad_token_id = int(job.checkpoint.tokenizer().pad_token_id)
        arms = {Arm(Variant.parse(variant)): RunnableGraph(path, pad_token_id) for variant, path in graphs.items()}
        for variant, path in packed.items():
            arms[Arm(Variant.parse(variant), "sparse")] = RunnableGraph(path, pad_token_id, sparse_library().path)
        measured = measure(
            arms,
            batches=settings.batches,
            lengths=settings.lengths,
            max_length=job.recipe.max_length,
            threads=job.measured_threads,
            budget_seconds=settings.seconds,
            vocabulary=min(int(network.config.vocab_size) for network in (job.checkpoint, job.teacher) if network),
            progress=progress,
        )
        content = {str(arm): record.model_dump(mode="json") for arm, record in measured.items()}
        (folder / "measurement.json").write_text(json.dumps(content), encoding="utf-8")

    return build
