"""The export: a trained network as an ONNX graph, with smaller token tables if the recipe says so."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparserve.models.bundle.bundle import MODEL
from sparserve.models.bundle.variants import Variant
from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier
from sparserve.models.export.onnx_export import export_onnx, set_metadata
from sparserve.models.export.statistics import sparsity
from sparserve.models.export.token_table import EMBEDDINGS, count_tokens, shrink_embeddings
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.recipes.schema import Embeddings, Recipe

# Raised when a change of the code makes another result of the same inputs.
REVISION = 1
SECONDS = 15.0


def export_step(job: Job, variant: Variant, network: Step, common: Mapping[str, Any]) -> Step:
    """Return the step that exports a network as the fp32 graph of a variant."""
    recipe = job.recipe
    shrinks = not variant.is_dense and recipe.embeddings != Embeddings()

    def build(folder: Path, context: Context) -> None:
        path = folder / MODEL
        checkpoint = context.checkpoint(network, job.checkpoint.name)
        export_checkpoint(path, checkpoint=checkpoint, dataset=job.dataset, recipe=recipe)
        if shrinks:
            shrink_tables(path, recipe.embeddings, checkpoint=checkpoint, rows=job.rows(job.start))
        stamp(path, variant)

    inputs = {"source": network.key, "variant": str(variant), "export": recipe.export, **common}
    if shrinks:
        inputs["embeddings"] = recipe.embeddings
    inputs["revision"] = REVISION
    return Step(f"export {variant}", inputs, build, lambda costs: SECONDS, (network,))


def export_checkpoint(path: Path, *, checkpoint: Checkpoint, dataset: Dataset, recipe: Recipe) -> float:
    """Export a trained checkpoint as ONNX; return the largest difference from torch's logits."""
    # Eager attention gives the graph that onnxruntime runs fastest: no NaN guards, fewer shape computations.
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type, attention="eager").eval()
    accepted = inspect.signature(model.forward).parameters
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


def stamp(path: Path, variant: Variant) -> None:
    """Store in a graph's metadata_props its variant and precision, and the nonzeros counted in the file itself."""
    counted = sparsity(path)
    groups = {name: getattr(counted, name).model_dump() for name in ("encoder_linear", "all_linear", "whole_model")}
    set_metadata(path, {"variant": str(variant), "precision": variant.precision, **groups})
