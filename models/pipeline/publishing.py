"""Finished graphs become bundles in a store: evaluated, described, sealed."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparserve.models.bundle.bundle import CARD, MODEL, SPARSE_MODEL, TOKENIZER, Bundle
from sparserve.models.bundle.manifest import (
    BiggerTeacher,
    Calibration,
    Evaluation,
    Lineage,
    Manifest,
    Measurement,
    Packed,
    ScoreEvaluation,
    TeacherTraining,
    TokenTable,
    UnlabeledData,
)
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.variants import DENSE, Arm, Variant
from sparserve.models.bundle.windows import TRUNCATE
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.encoders.weights import saved_tensors
from sparserve.models.evaluation.calibration import calibration_record
from sparserve.models.evaluation.one_score import compare_scores, evaluate_scores
from sparserve.models.evaluation.prediction import sample_answers
from sparserve.models.evaluation.scores import compare_with_reference, evaluate
from sparserve.models.export.statistics import flops, sizes, sparsity
from sparserve.models.export.temperature import TEMPERATURE
from sparserve.models.export.token_table import EMBEDDINGS
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.plan import Plan
from sparserve.models.pipeline.stages.bigger_teacher import read_teacher_logits
from sparserve.models.pipeline.stages.pack import PACKED
from sparserve.models.pipeline.stages.teacher import training_of
from sparserve.models.pipeline.step_cache import Context
from sparserve.models.pipeline.task import check_labels
from sparserve.models.recipes.schema import ADAPTED
from sparserve.models.report.model_card import model_card
from sparserve.models.training.teacher import training_record
from sparserve.models.training.tuning.settings import read_settings

FLOPS_LENGTH = 128
CHECKPOINT_SUFFIXES = frozenset({".json", ".safetensors", ".txt"})

Logits = npt.NDArray[np.float32]


def publish(
    plan: Plan,
    store: Store,
    context: Context,
    packed: Mapping[Variant, Path],
    logits: Mapping[Arm, Logits],
    measured: Mapping[Variant, Measurement],
    *,
    replace_labels: bool = False,
) -> dict[Variant, Bundle]:
    """Evaluate every variant on the test rows, against the dense one too, and publish its bundle.

    `packed` has the folder of each variant that was packed for the sparse runtime, `logits` [rows, labels] those of the
    test rows.

    Raises:
        InputError: the task is in the store with other labels, and `replace_labels` is False.
    """
    bundles: dict[Variant, Bundle] = {}
    bigger = _bigger_teacher(plan, context)
    for variant, step in plan.exports.items():
        graph, fp32_graph = context.result(step) / MODEL, context.result(plan.exports[Variant(variant.name)]) / MODEL
        source = context.checkpoint(plan.networks[variant.name], plan.job.checkpoint.name)
        dense = bundles.get(Variant(DENSE))
        one_score = plan.job.dataset.one_score
        judge = _evaluate_scores if one_score else _evaluate
        figures = judge(plan.job, logits[Arm(variant)], logits[Arm(Variant(DENSE))], dense)
        record = None
        if variant in packed:
            record = Packed.model_validate_json((packed[variant] / PACKED).read_bytes())
        manifest = _manifest(plan, variant, source, graph, measured[variant], dense, record, bigger)
        added: dict[str, Any] = {
            "score_evaluation" if one_score else "evaluation": figures,
            "token_table": _token_table(fp32_graph),
            "calibration": _calibration(plan.job, fp32_graph, logits[Arm(variant)]),
        }
        if variant == Variant(DENSE):
            added["teacher_training"] = _teacher_training(plan, source, context)
        if not variant.is_dense and plan.student_settings is not None:
            added["student_training"] = read_settings(context.result(plan.student_settings))
        manifest = manifest.model_copy(update=added)
        files: dict[str, Path | bytes] = {
            MODEL: graph,
            TOKENIZER: source.folder / TOKENIZER,
            CARD: model_card(
                manifest,
                dense.manifest if dense else None,
                base_model=_hub_id(plan.job.checkpoint),
                data_set=plan.job.hub_data_set,
            ).encode(),
        }
        if record is not None:
            files[SPARSE_MODEL] = packed[variant] / SPARSE_MODEL
        if not variant.is_int8:
            # The network that another training or export can start from.
            kept = [path for path in sorted(source.folder.iterdir()) if path.suffix in CHECKPOINT_SUFFIXES]
            files |= {f"checkpoint/{path.name}": path for path in kept if path.is_file()}
        if not bundles:  # the job took long: another one may have published the task since
            check_labels(store, plan.job.task, plan.job.dataset, replace_labels=replace_labels)
        bundles[variant] = store.publish(manifest, files)
        version = bundles[variant].manifest.version
        context.reporter.result("bundle", {"variant": str(variant), "version": version})
    return bundles


def _teacher_training(plan: Plan, teacher: Checkpoint, context: Context) -> TeacherTraining | None:
    settings = training_of(plan.teacher_settings, plan.job, context)
    if settings is None:
        return None
    job = plan.job
    train_rows = job.row_count("train")
    if job.bigger_teacher is not None and job.unlabeled_split is not None:
        train_rows += len(job.unlabeled_split)
    validation_rows = job.row_count("validation")
    return training_record(teacher.folder, settings, train_rows=train_rows, validation_rows=validation_rows)


def _hub_id(checkpoint: Checkpoint) -> str | None:
    """Return the id of a checkpoint of the Hub; None for a local one, which has the name of its folder."""
    return checkpoint.name if checkpoint.name != checkpoint.folder.resolve().name else None


def _token_table(graph: Path) -> TokenTable | None:
    """Return the record of an fp32 graph's token table, which its int8 twin shares; None if the table is whole."""
    path = graph.with_name(EMBEDDINGS)
    return TokenTable.model_validate_json(path.read_bytes()) if path.is_file() else None


def _calibration(job: Job, graph: Path, logits: Logits) -> Calibration | None:
    """Return the effect of an fp32 graph's temperature, which its int8 twin shares; None if none was fitted."""
    path = graph.with_name(TEMPERATURE)
    if not path.is_file():
        return None
    fitted = json.loads(path.read_bytes())
    labels = np.asarray(job.dataset.test.labels)
    return calibration_record(logits, labels, temperature=fitted["temperature"], rows=fitted["rows"])


def _evaluate(job: Job, logits: Logits, reference: Logits, dense: Bundle | None) -> Evaluation:
    """Return a variant's figures, compared with the dense variant's if that was published before."""
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
    if dense is None:
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


def _evaluate_scores(job: Job, logits: Logits, reference: Logits, dense: Bundle | None) -> ScoreEvaluation:
    """Return the figures of a variant with one score, compared with the dense variant's if there is one."""
    test, settings = job.dataset.test, job.recipe.evaluation
    truth, ranks = np.ravel(test.labels), job.dataset.multi_label
    samples = {"bootstrap_samples": settings.bootstrap_samples, "seed": job.seed}
    figures = evaluate_scores(logits, truth, queries=test.texts if ranks else None, **samples)
    if dense is None:
        return figures
    version = dense.manifest.version
    return compare_scores(figures, logits, reference, truth, sigmoid=ranks, reference_version=version, **samples)


def _manifest(
    plan: Plan,
    variant: Variant,
    source: Checkpoint,
    graph: Path,
    measurement: Measurement,
    dense: Bundle | None,
    packed: Packed | None,
    bigger: BiggerTeacher | None,
) -> Manifest:
    job = plan.job
    counted = sparsity(graph)
    return Manifest(
        task=job.task,
        variant=str(variant),
        version="0" * 16,
        labels=job.dataset.label_names,
        problem_type=job.dataset.problem_type,
        inputs="pair" if job.dataset.pairs else "single",
        architecture=source.model_type,
        precision=variant.precision,
        max_length=job.recipe.max_length,
        long_texts=None if job.recipe.long_texts == TRUNCATE else job.recipe.long_texts,
        pad_token_id=source.pad_token_id,
        recipe=_recipe(job, variant),
        lineage=Lineage(
            base_checkpoint=job.checkpoint.name,
            base_digest=job.checkpoint.digest,
            data_source=job.data_source,
            data_digest=job.dataset.digest,
            teacher=dense.manifest.version if dense else None,
            unlabeled=_unlabeled(job) if bigger or not variant.is_dense else None,
            bigger_teacher=bigger,
            seed=job.seed,
            libraries=plan.environment.libraries,
        ),
        sparsity=counted,
        sizes=sizes(graph),
        flops=flops(counted, source.config, length=FLOPS_LENGTH),
        measurement=measurement,
        sample=sample_answers(
            graph, source.folder / TOKENIZER, max_length=job.recipe.max_length, pad_token_id=source.pad_token_id
        ),
        packed=packed,
        files={},
    )


def _bigger_teacher(plan: Plan, context: Context) -> BiggerTeacher | None:
    """Return the record of a chain's bigger teacher, with its figures on the test rows."""
    teacher = plan.job.bigger_teacher
    if teacher is None or plan.bigger_teacher is None:
        return None
    logits = read_teacher_logits(context.result(plan.bigger_teacher))
    return BiggerTeacher(
        name=teacher.name,
        architecture=teacher.model_type,
        digest=teacher.digest,
        parameters=sum(math.prod(tensor.shape) for tensor in saved_tensors(teacher.folder)),
        evaluation=_evaluate(plan.job, logits, logits, None),
    )


def _unlabeled(job: Job) -> UnlabeledData | None:
    if job.unlabeled is None or job.unlabeled_split is None:
        return None
    return UnlabeledData(source=job.unlabeled.source, digest=job.unlabeled_split.digest, rows=len(job.unlabeled_split))


def _recipe(job: Job, variant: Variant) -> dict[str, Any]:
    """Return the part of the recipe that a variant depends on."""
    recipe = job.recipe.model_dump(mode="json", exclude={"measurement"})
    for name in ADAPTED:  # the plan has the epochs and the rate that follow from them
        del recipe["student"][name]
    if not variant.is_int8:
        del recipe["packing"]  # of int8 variants alone
    if not job.recipe.temperature_scaling:
        del recipe["temperature_scaling"]  # bundles that were sealed before this field existed keep their versions
    if job.recipe.long_texts == TRUNCATE:
        del recipe["long_texts"]  # as above
    if not variant.is_dense:
        return recipe
    # The baseline does not depend on the student: one dense bundle for every recipe.
    names = ("max_length", "long_texts", "teacher", "temperature_scaling", "export", "evaluation")
    shared = {name: recipe[name] for name in names if name in recipe}
    return shared | {"quantization": job.recipe.baseline_quantization.model_dump(mode="json")}
