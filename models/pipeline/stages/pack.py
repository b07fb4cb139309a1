"""Packing: the encoder of an exported graph in the sparse runtime's format."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sparserve.kernels.packing import PackOptions
from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL
from sparserve.models.bundle.variants import Variant
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.errors import CheckpointError
from sparserve.models.export.sparse_graph import IR_VERSION, OPSET, write_sparse_graph
from sparserve.models.export.sparse_parity import check_packed
from sparserve.models.pipeline.inputs import Environment, Job
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.recipes.schema import Quantization

PACKED = "packed.json"
NOT_PACKED = "not-packed.txt"
SECONDS = 5.0
REVISION = 1  # of the packed bytes: to be raised if the same graph is packed otherwise


def pack_step(job: Job, environment: Environment, variant: Variant, export: Step, network: Step) -> Step:
    """Return the step that packs a network's fp32 graph, in the precision of the variant."""
    runtime = environment.sparse_runtime
    quantization = job.recipe.quantization if variant.is_int8 else None

    def build(folder: Path, context: Context) -> None:
        pack_checkpoint(
            folder,
            context.result(export) / MODEL,
            checkpoint=context.checkpoint(network, job.checkpoint.name),
            quantization=quantization,
            max_length=job.recipe.max_length,
            library=runtime.path if runtime else None,
        )

    options = asdict(PackOptions(variant.precision))
    inputs = {
        "graph": export.key,
        "packer": {"format": REVISION, "opset": OPSET, "ir": IR_VERSION, "options": options},
        "checked": runtime is not None,
        "quantization": quantization,
    }
    return Step(f"pack {variant}", inputs, build, lambda costs: SECONDS, (export, network))


def pack_checkpoint(
    folder: Path,
    graph: Path,
    *,
    checkpoint: Checkpoint,
    quantization: Quantization | None,
    max_length: int,
    library: Path | None,
) -> None:
    """Write a student's fp32 graph with its encoder packed, and a record of it; in int8 if a quantisation is given.

    With the sparse runtime's `library`, its answers are compared with the graph's first. For an encoder that the sparse
    runtime does not know the reason is written instead: model.onnx is good without a packed file.
    """
    config: Any = checkpoint.config
    head_size = config.hidden_size // config.num_attention_heads
    try:
        if not checkpoint.architecture.packable:
            raise CheckpointError(
                f"The sparse runtime does not support the layers of {checkpoint.model_type} encoders. model.onnx "
                "serves this network."
            )
        if library is not None:
            check_packed(
                graph,
                partial(write_sparse_graph, graph, head_size=head_size, values="fp32", embeddings_int8=False),
                library=library,
                vocabulary=int(config.vocab_size),
                pad_token_id=checkpoint.pad_token_id,
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
