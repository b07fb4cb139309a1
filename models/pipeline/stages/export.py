"""The export: a trained network as an ONNX graph, calibrated and with smaller token tables if the recipe says so."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparserve.models.bundle.bundle import MODEL, TOKENIZER
from sparserve.models.bundle.variants import Variant
from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier
from sparserve.models.evaluation.calibration import fit_temperature
from sparserve.models.evaluation.prediction import predict
from sparserve.models.export.onnx_export import export_onnx, set_metadata
from sparserve.models.export.statistics import sparsity
from sparserve.models.export.temperature import TEMPERATURE, divide_logits
from sparserve.models.export.token_table import EMBEDDINGS, count_tokens, shrink_embeddings
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.recipes.schema import Embeddings, Recipe
from sparserve.models.types import Progress

# Raised when a change of the code makes another result of the same inputs.
REVISION = 1
TEMPERATURE_REVISION = 1
SECONDS = 15.0


def export_step(job: Job, variant: Variant, network: Step, common: Mapping[str, Any]) -> Step:
    """Return the step that exports a network as the fp32 graph of a variant."""
    recipe = job.recipe
    shrinks = not variant.is_dense and recipe.embeddings != Embeddings()
    calibrates = recipe.temperature_scaling and job.dataset.problem_type == "single_label_classification"

    def build(folder: Path, context: Context) -> None:
        path = folder / MODEL
        checkpoint = context.checkpoint(network, job.checkpoint.name)
        export_checkpoint(path, checkpoint=checkpoint, dataset=job.dataset, recipe=recipe)
        if shrinks:
            shrink_tables(path, recipe.embeddings, checkpoint=checkpoint, rows=job.rows(job.start))
        if calibrates:
            calibrate(path, checkpoint=checkpoint, job=job, progress=context.progress)
        stamp(path, variant)

    inputs = {"source": network.key, "variant": str(variant), "export": recipe.export, **common}
    if shrinks:
        inputs["embeddings"] = recipe.embeddings
    if calibrates:
        inputs["temperature scaling"] = TEMPERATURE_REVISION
    inputs["revision"] = REVISION
    return Step(
        f"export {variant}",
        inputs,
        build,
        lambda costs: SECONDS + (costs.forward(costs.validation) if calibrates else 0.0),
        (network,),
    )


def export_checkpoint(path: Path, *, checkpoint: Checkpoint, dataset: Dataset, recipe: Recipe) -> float:
    """Export a trained checkpoint as ONNX; return the largest difference from torch's logits."""
    # Eager attention gives the graph that onnxruntime runs fastest: no NaN guards, fewer shape computations.
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type, attention="eager").eval()
    accepted = set(inspect.signature(model.forward).parameters)
    if not checkpoint.architecture.takes_types(checkpoint.config):
        accepted.discard("token_type_ids")
    config: Any = model.config
    return export_onnx(
        model,
        path,
        input_names=tuple(name for name in checkpoint.tokenizer.model_input_names if name in accepted),
        max_length=recipe.max_length,
        vocabulary=int(config.vocab_size),
        pad_token_id=checkpoint.pad_token_id,
        opset=recipe.export.opset,
        tolerance=recipe.export.tolerance,
    )


def shrink_tables(path: Path, embeddings: Embeddings, *, checkpoint: Checkpoint, rows: TokenizedDataset) -> None:
    """Make the token table of an exported graph smaller, in place, and write a record of the table beside it.

    A token counts as often as it occurs in the training texts. Tokens that only augmented, validation or test texts
    have get no row.
    """
    config: Any = checkpoint.config
    counts = count_tokens(rows.train, int(config.vocab_size))
    whole = path.with_name("whole-tables.onnx")
    path.replace(whole)
    special = frozenset(checkpoint.tokenizer.all_special_ids)
    table = shrink_embeddings(whole, path, embeddings, counts=counts, always_keep=special)
    path.with_name(EMBEDDINGS).write_text(table.model_dump_json(indent=1) + "\n", encoding="utf-8")
    whole.unlink()


def calibrate(path: Path, *, checkpoint: Checkpoint, job: Job, progress: Progress) -> None:
    """Fit a temperature on the validation rows, divide the logits of a graph by it, and write a record beside it."""
    validation = job.dataset.validation
    logits = predict(
        path,
        checkpoint.folder / TOKENIZER,
        validation,
        max_length=job.recipe.max_length,
        pad_token_id=checkpoint.pad_token_id,
        threads=job.threads,
        progress=progress,
        long_texts=job.recipe.long_texts,
        problem_type=job.dataset.problem_type,
    )
    temperature = fit_temperature(logits, np.asarray(validation.labels))
    divide_logits(path, temperature)
    record = {"temperature": temperature, "rows": len(validation)}
    path.with_name(TEMPERATURE).write_text(json.dumps(record) + "\n", encoding="utf-8")


def stamp(path: Path, variant: Variant) -> None:
    """Store in a graph's metadata_props its variant and precision, and the nonzeros counted in the file itself."""
    counted = sparsity(path)
    groups = {name: getattr(counted, name).model_dump() for name in ("encoder_linear", "all_linear", "whole_model")}
    set_metadata(path, {"variant": str(variant), "precision": variant.precision, **groups})
