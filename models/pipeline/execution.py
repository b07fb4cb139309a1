"""The job as one resumable chain: data -> teacher -> student -> export -> evaluate -> measure -> bundles -> report.

Bundles are published when all steps are done, so a store never holds a part of a run.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparserve.models.bundle.bundle import SPARSE_MODEL
from sparserve.models.bundle.manifest import Measurement
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.variants import Arm, Variant
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.evaluation.latency import with_sparse
from sparserve.models.pipeline.default_variant import choose_default
from sparserve.models.pipeline.plan import Plan
from sparserve.models.pipeline.publishing import publish
from sparserve.models.pipeline.stages.measurement import read_measurement
from sparserve.models.pipeline.stages.pack import NOT_PACKED
from sparserve.models.pipeline.stages.prediction import read_logits
from sparserve.models.pipeline.step_cache import Context
from sparserve.models.report.builder import write_report
from sparserve.models.report.schema import Report


def run_plan(
    plan: Plan, store: Store, context: Context, *, default: Variant | None = None, replace_labels: bool = False
) -> Report:
    """Build every step that is not done yet, then publish the bundles and the task's report.

    If nobody has chosen the variant that answers for the task, it becomes `default`; by default the best of the
    recipe's variants (`default_variant.choose_default`). The task may have other labels in the store only with
    `replace_labels`.

    Raises:
        InputError: another job has published the task with other labels in the meantime.
    """
    job, reporter = plan.job, context.reporter
    train_networks(plan, context)
    packed = build_graphs(plan, context)
    arms = {arm for arm in plan.predictions if arm.runtime == "onnx" or arm.variant in packed}
    if packed and plan.environment.sparse_runtime is None:
        reporter.say("The sparse runtime is not available here: its files are made, but not evaluated or measured.")
    logits = {arm: read_logits(context.result(step)) for arm, step in plan.predictions.items() if arm in arms}
    measurements = read_measurement(context.result(plan.measurement))
    measured = {variant: _with_sparse(plan, variant, measurements, logits) for variant in plan.exports}
    if default is None and not store.has_default(job.task):
        default = choose_default(plan, context, arms)

    bundles = publish(plan, store, context, packed, logits, measured, replace_labels=replace_labels)
    if default is not None and not store.has_default(job.task):
        store.set_default_variant(job.task, str(default))
    reporter.say(
        f"{job.task} answers with {store.default_variant(job.task)}: `sparserve bundles default {job.task} VARIANT` "
        "changes that"
    )
    for variant, bundle in bundles.items():
        reporter.say(f"bundle {job.task}/{variant}/{bundle.manifest.version}")
    return write_report(store, job.task)


def train_networks(plan: Plan, context: Context) -> tuple[Checkpoint, Checkpoint]:
    """Make the dense teacher and the student, and return them.

    All processes take part in training (`distributed.leading`); the main one, which calls this, builds the other steps.
    """
    job = plan.job
    teacher = context.checkpoint(plan.teacher, job.teacher_or_checkpoint.name)
    return teacher, context.checkpoint(plan.student, job.checkpoint.name)


def build_graphs(plan: Plan, context: Context) -> dict[Variant, Path]:
    """Export, quantise and pack the networks; return the folder of every variant that could be packed."""
    for step in plan.exports.values():
        context.result(step)
    packed: dict[Variant, Path] = {}
    for variant, step in plan.packs.items():
        folder = context.result(step)
        if (folder / SPARSE_MODEL).is_file():
            packed[variant] = folder
        else:
            reason = (folder / NOT_PACKED).read_text().strip()
            context.reporter.say(f"{variant} has no {SPARSE_MODEL}: {reason}")
    return packed


def _with_sparse(
    plan: Plan,
    variant: Variant,
    measurements: dict[Arm, Measurement],
    logits: dict[Arm, npt.NDArray[np.float32]],
) -> Measurement:
    """Return a variant's measurement, with that of its packed graph if there is one."""
    stock, sparse = Arm(variant), Arm(variant, "sparse")
    if sparse not in logits:
        return measurements[stock]
    dataset = plan.job.dataset
    return with_sparse(
        measurements[stock],
        measurements[sparse],
        logits=logits[stock],
        sparse_logits=logits[sparse],
        labels=np.asarray(dataset.test.labels),
        problem_type=dataset.problem_type,
    )
