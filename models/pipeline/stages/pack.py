"""Packing: the encoder of an exported graph in the sparse runtime's format."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sparserve.kernels.packing import PackOptions
from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL, TOKENIZER
from sparserve.models.bundle.text_tokenizer import TextTokenizer
from sparserve.models.bundle.variants import Variant
from sparserve.models.data.dataset import Split
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.errors import CheckpointError
from sparserve.models.export.sparse_attention import ROWS, choose_attention
from sparserve.models.export.sparse_graph import IR_VERSION, OPSET, write_sparse_graph
from sparserve.models.export.sparse_parity import check_packed
from sparserve.models.pipeline.inputs import Environment, Job
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.recipes.schema import Packing, Quantization

PACKED = "packed.json"
NOT_PACKED = "not-packed.txt"
SECONDS = 5.0
REVISION = 1  # of the packed bytes: to be raised if the same graph is packed otherwise
SILU_REVISION = 2  # the same of networks with SiLU, which the sparse runtime refused before


def pack_step(job: Job, environment: Environment, variant: Variant, export: Step, network: Step) -> Step:
    """Return the step that packs a network's fp32 graph, in the precision of the variant."""
    runtime = environment.sparse_runtime
    quantization = job.recipe.quantization if variant.is_int8 else None
    packing = job.recipe.packing if variant.is_int8 else None

    def build(folder: Path, context: Context) -> None:
        pack_checkpoint(
            folder,
            context.result(export) / MODEL,
            checkpoint=context.checkpoint(network, job.checkpoint.name),
            quantization=quantization,
            packing=packing,
            validation=job.dataset.validation,
            max_length=job.recipe.max_length,
            library=runtime.path if runtime else None,
        )

    options = asdict(PackOptions(variant.precision))
    inputs: dict[str, Any] = {
        "graph": export.key,
        "packer": {"format": revision(job), "opset": OPSET, "ir": IR_VERSION, "options": options},
        "checked": runtime is not None,
        "quantization": quantization,
    }
    if packing is not None:
        inputs["packing"] = packing
    return Step(f"pack {variant}", inputs, build, lambda costs: SECONDS, (export, network))


def revision(job: Job) -> int:
    """Return the revision of the packed networks of a job."""
    networks = (job.checkpoint, job.teacher_or_checkpoint)
    settings = [value for network in networks for value in network.config.to_dict().values()]
    return SILU_REVISION if any(value in ("silu", "swish") for value in settings) else REVISION


def pack_checkpoint(
    folder: Path,
    graph: Path,
    *,
    checkpoint: Checkpoint,
    quantization: Quantization | None,
    packing: Packing | None,
    validation: Split,
    max_length: int,
    library: Path | None,
) -> None:
    """Write a student's fp32 graph with its encoder packed, and a record of it; in int8 if a quantisation is given.

    `packing` chooses the arithmetic of an int8 graph's attention by the first rows of `validation`.
    With the sparse runtime's `library`, its answers are compared with the graph's first. For an encoder that the sparse
    runtime does not know the reason is written instead: model.onnx is good without a packed file.
    """
    config: Any = checkpoint.config
    try:
        if library is not None:
            check_packed(
                graph,
                partial(
                    write_sparse_graph,
                    graph,
                    config=config,
                    values="fp32",
                    embeddings_int8=False,
                    max_length=max_length,
                ),
                library=library,
                vocabulary=int(config.vocab_size),
                pad_token_id=checkpoint.pad_token_id,
                max_length=max_length,
            )
        packed = write_sparse_graph(
            graph,
            folder / SPARSE_MODEL,
            config=config,
            values="int8" if quantization else "fp32",
            embeddings_int8=bool(quantization and quantization.embeddings),
            token_bits=quantization.embedding_bits if quantization else 8,
            max_length=max_length,
        )
        if packing is not None:
            rows = validation.take(range(min(ROWS, len(validation))))
            attention = choose_attention(
                folder / SPARSE_MODEL,
                packing.attention,
                head_size=config.hidden_size // config.num_attention_heads,
                tokens=TextTokenizer(checkpoint.folder / TOKENIZER, max_length).encode(rows.texts, rows.text_pairs),
                pad_token_id=checkpoint.pad_token_id,
                library=library,
            )
            size = (folder / SPARSE_MODEL).stat().st_size
            packed = packed.model_copy(update={"attention": attention, "bytes": size})
    except CheckpointError as error:
        (folder / SPARSE_MODEL).unlink(missing_ok=True)
        (folder / NOT_PACKED).write_text(f"{error}\n", encoding="utf-8")
        return
    (folder / PACKED).write_text(packed.model_dump_json(indent=1) + "\n", encoding="utf-8")
