"""Finished graphs -> bundles in a store: evaluated, described, sealed."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparserve.models.bundle.bundle import CARD, MODEL, SPARSE_MODEL, TOKENIZER, Bundle
from sparserve.models.bundle.manifest import Evaluation, Lineage, Manifest, Measurement, Packed, TokenTable
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.variants import _INT8 as INT8
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.evaluation.prediction import sample_answers
from sparserve.models.evaluation.scores import compare_with_reference, evaluate
from sparserve.models.export.statistics import flops, sizes, sparsity
from sparserve.models.export.token_table import EMBEDDINGS
from sparserve.models.pipeline.plan import DENSE, Job, library_versions
from sparserve.models.pipeline.steps import PACKED
from sparserve.models.progress import Reporter
from sparserve.models.report.model_card import model_card

FLOPS_LENGTH = 128


def publish(
    job: Job,
    store: Store,
    sources: dict[str, Checkpoint],
    graphs: dict[str, Path],
    packed: dict[str, Path],
    logits: dict[str, npt.NDArray[np.float32]],
    measured: dict[str, Measurement],
    reporter: Reporter,
) -> dict[str, Bundle]:
    """Evaluate every variant's logits [rows, labels], against the dense ones too, and publish its bundle.

    `sources` has the checkpoint of each fp32 variant, `packed` the folder of each variant that was packed for the
    sparse runtime; the dense variant comes first in `graphs`.
    """
    bundles: dict[str, Bundle] = {}
    for variant, graph in graphs.items():
        source = sources[variant.removesuffix(INT8)]
        dense = bundles.get(DENSE)
        evaluation = _evaluate(job, logits[variant], logits[DENSE] if dense else None, dense)
        record = None
        if variant in packed:
            record = Packed.model_validate_json((packed[variant] / PACKED).read_bytes())
        table = _token_table(graphs[variant.removesuffix(INT8)])
        manifest = _manifest(job, variant, source, graph, evaluation, measured[variant], dense, record, table)
        files: dict[str, Path | bytes] = {
            MODEL: graph,
            TOKENIZER: source.folder / TOKENIZER,
            CARD: model_card(manifest, dense.manifest if dense else None).encode(),
        }
        if record is not None:
            files[SPARSE_MODEL] = packed[variant] / SPARSE_MODEL
        if not variant.endswith(INT8):
            # What training or export can go on from.
            kept = [p for p in sorted(source.folder.iterdir()) if p.suffix in {".json", ".safetensors", ".txt"}]
            files |= {f"checkpoint/{path.name}": path for path in kept if path.is_file()}
        bundles[variant] = store.publish(manifest, files)
        reporter.result("bundle", {"variant": variant, "version": bundles[variant].manifest.version})
    return bundles


def _token_table(graph: Path) -> TokenTable | None:
    """What became of the token table of an fp32 graph, which its int8 twin has too; None if it was left whole."""
    path = graph.with_name(EMBEDDINGS)
    return TokenTable.model_validate_json(path.read_bytes()) if path.is_file() else None


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
    packed: Packed | None,
    token_table: TokenTable | None,
) -> Manifest:
    config: Any = source.config
    counted = sparsity(graph)
    pad_token_id = int(source.tokenizer().pad_token_id)
    max_length = job.recipe.max_length
    recipe = job.recipe.model_dump(mode="json", exclude={"measurement"})
    if variant.removesuffix(INT8) == DENSE:
        # The baseline depends on nothing of how the student was made: one dense bundle for every recipe.
        recipe = {name: recipe[name] for name in ("max_length", "teacher", "export", "evaluation")}
        recipe["quantization"] = job.recipe.baseline_quantization.model_dump(mode="json")
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
            libraries=library_versions(),
        ),
        sparsity=counted,
        sizes=sizes(graph),
        flops=flops(counted, length=FLOPS_LENGTH, hidden=int(config.hidden_size), layers=int(config.num_hidden_layers)),
        evaluation=evaluation,
        measurement=measurement,
        sample=sample_answers(graph, source.folder / TOKENIZER, max_length=max_length, pad_token_id=pad_token_id),
        packed=packed,
        token_table=token_table,
        files={},
    )
