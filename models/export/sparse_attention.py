"""Choice of the arithmetic of a packed graph's attention, by its effect on the logits of texts."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from sparserve.kernels.unpacking import layers_in_bytes
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.bundle.manifest import PackedAttention
from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.models.errors import CheckpointError

AttentionChoice = Literal["auto", "fp32", "int8"]

# Largest change of a logit, as a fraction of the largest logit. Int8 linears of trained students change it by 0.06 to
# 0.12; attention in int8 is to be small beside them.
TOLERANCE: Final = 0.04
ROWS: Final = 64  # texts to compare
HEAD_MULTIPLE: Final = 4  # features of a head that one byte product takes together
ATTRIBUTE: Final = "int8_attention"


def choose_attention(
    graph: Path,
    choice: AttentionChoice,
    *,
    head_size: int,
    tokens: Sequence[Tokens],
    pad_token_id: int,
    library: Path | None,
) -> PackedAttention:
    """Choose the attention of a packed graph with int8 weights and set it there; return the record of the choice.

    "auto" chooses int8 if the logits of `tokens`, the texts to compare, change by at most `TOLERANCE`, and fp32 if they
    cannot be compared because there is no `library` of the sparse runtime. The other choices are set unconditionally.
    An encoder without a layer that the sparse runtime can compute so (DeBERTa's) stays in fp32 whatever the choice.

    Raises:
        CheckpointError: int8 was chosen, but the heads' size does not allow it.
    """
    if choice == "int8" and head_size % HEAD_MULTIPLE:
        raise CheckpointError(
            f"Attention in int8 needs heads of a multiple of {HEAD_MULTIPLE} features, not {head_size}: "
            "set packing.attention to fp32 or auto."
        )
    if choice == "fp32" or head_size % HEAD_MULTIPLE or (choice == "auto" and library is None):
        return PackedAttention(values="fp32", rows=0, largest_change=None)
    model = onnx.load(str(graph))
    encoder: Any = next(node for node in model.graph.node if node.op_type == "SparseEncoder")
    if not _layers_in_bytes(model.graph, encoder):
        return PackedAttention(values="fp32", rows=0, largest_change=None)
    with tempfile.TemporaryDirectory(prefix="attention-", dir=graph.parent) as folder:
        other = Path(folder) / "int8.onnx"
        encoder.attribute.append(helper.make_attribute(ATTRIBUTE, 1))
        onnx.save(model, str(other))
        change = None
        if library is not None:
            expected, actual = (_logits(path, tokens, pad_token_id, library) for path in (graph, other))
            change = float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-6))
        if choice == "auto" and not (change is not None and change <= TOLERANCE):
            return PackedAttention(values="fp32", rows=len(tokens), largest_change=change)
        other.replace(graph)
    return PackedAttention(values="int8", rows=len(tokens) if library else 0, largest_change=change)


def _layers_in_bytes(graph: onnx.GraphProto, encoder: Any) -> int:
    blob = next(tensor for tensor in graph.initializer if tensor.name == encoder.input[2])
    first_token_only = any(attribute.name == "first_token_only" and attribute.i for attribute in encoder.attribute)
    return layers_in_bytes(numpy_helper.to_array(blob).tobytes(), first_token_only=first_token_only)


def _logits(path: Path, tokens: Sequence[Tokens], pad_token_id: int, library: Path) -> npt.NDArray[np.float32]:
    """Return the logits [texts, labels], one text at a time: padding and batch change none of the sparse runtime's."""
    classifier = OnnxClassifier(path, pad_token_id=pad_token_id, threads=1, library=library)
    return np.concatenate([classifier.logits([row]) for row in tokens])
