"""The work of the steps that export and pack a network."""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

from sparserve.models.bundle.bundle import SPARSE_MODEL
from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tokenization import tokenize
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier
from sparserve.models.errors import CheckpointError
from sparserve.models.export.onnx_export import export_onnx, set_metadata
from sparserve.models.export.sparse_graph import write_sparse_graph
from sparserve.models.export.sparse_parity import check_packed
from sparserve.models.export.statistics import sparsity
from sparserve.models.export.token_table import EMBEDDINGS, count_tokens, shrink_embeddings
from sparserve.models.recipes.schema import Embeddings, Quantization, Recipe
from sparserve.models.training.checkpoints import pad_token_id

PACKED = "packed.json"
NOT_PACKED = "not-packed.txt"


def export_checkpoint(path: Path, *, checkpoint: Checkpoint, dataset: Dataset, recipe: Recipe) -> float:
    """Export a trained checkpoint as ONNX; the largest difference from torch's logits is returned."""
    # Eager attention gives the graph that onnxruntime runs fastest: no NaN guards, fewer shape computations.
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type, attention="eager").eval()
    accepted = inspect.signature(model.forward).parameters
    config: Any = model.config
    return export_onnx(
        model,
        path,
        input_names=tuple(name for name in checkpoint.tokenizer().model_input_names if name in accepted),
        max_length=recipe.max_length,
        vocabulary=int(config.vocab_size),
        pad_token_id=pad_token_id(checkpoint),
        opset=recipe.export.opset,
        tolerance=recipe.export.tolerance,
    )


def shrink_tables(
    path: Path, *, embeddings: Embeddings, checkpoint: Checkpoint, dataset: Dataset, max_length: int
) -> None:
    """Make the token table of an exported graph smaller, in place, as the recipe says, and write what became of it.

    A token counts as often as it occurs in the training texts: tokens of augmented, validation or test texts alone
    get no row of their own.
    """
    tokenizer = checkpoint.tokenizer()
    rows = tokenize(dataset.train, tokenizer, max_length, multi_label=dataset.multi_label)
    config: Any = checkpoint.config
    counts = count_tokens(rows, int(config.vocab_size))
    whole = path.with_name("whole-tables.onnx")
    path.replace(whole)
    special = frozenset(tokenizer.all_special_ids)
    table = shrink_embeddings(whole, path, embeddings, counts=counts, always_keep=special)
    path.with_name(EMBEDDINGS).write_text(table.model_dump_json(indent=1) + "\n", encoding="utf-8")
    whole.unlink()


def stamp(path: Path, variant: str, precision: str) -> None:
    """Store in a graph's metadata_props what it is, and its nonzeros as counted in the file itself."""
    counted = sparsity(path)
    groups = {name: getattr(counted, name).model_dump() for name in ("encoder_linear", "all_linear", "whole_model")}
    set_metadata(path, {"variant": variant, "precision": precision, **groups})


def pack_checkpoint(
    folder: Path,
    graph: Path,
    *,
    checkpoint: Checkpoint,
    quantization: Quantization | None,
    max_length: int,
    library: Path | None,
) -> None:
    """Write a student's fp32 graph with its encoder packed, and what was packed; int8 if a quantisation is given.

    Where `library`, the sparse runtime's, is there, its answers are compared with the graph's first. An encoder that
    the sparse runtime does not know leaves the reason behind instead: model.onnx is good without it.
    """
    config: Any = checkpoint.config
    head_size = config.hidden_size // config.num_attention_heads
    try:
        if getattr(config, "is_decoder", False):
            raise CheckpointError("every token looks at those before it only (is_decoder); the sparse runtime's at all")
        if library is not None:
            check_packed(
                graph,
                partial(write_sparse_graph, graph, head_size=head_size, values="fp32", embeddings_int8=False),
                library=library,
                vocabulary=int(config.vocab_size),
                pad_token_id=pad_token_id(checkpoint),
                max_length=max_length,
            )
        packed = write_sparse_graph(
            graph,
            folder / SPARSE_MODEL,
            head_size=head_size,
            values="int8" if quantization else "fp32",
            embeddings_int8=bool(quantization and quantization.embeddings),
            token_bits=quantization.embedding_bits if quantization else 8,
        )
    except CheckpointError as error:
        (folder / NOT_PACKED).write_text(f"{error}\n", encoding="utf-8")
        return
    (folder / PACKED).write_text(packed.model_dump_json(indent=1) + "\n", encoding="utf-8")
