"""Statistics of an ONNX file: zeros of every stored tensor, floating-point operations and bytes."""

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from sparserve.models.bundle.manifest import Density, Flops, Sizes, Sparsity, TensorSparsity
from sparserve.models.encoders.architectures.registry import architecture_of
from sparserve.models.errors import BundleError

Group = Literal["encoder_linear", "other_linear", "embedding", "other"]
ParameterBits = Literal[4, 8, 16, 32, 64]

# Data types of parameters. Wider integers and booleans are shapes, positions and other constants.
PARAMETER_BITS: Final[Mapping[int, ParameterBits]] = {
    TensorProto.DOUBLE: 64,
    TensorProto.FLOAT: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
}
# Fraction of zeros from which a matrix counts as pruned. Rounding to 8 bits makes at most about a tenth of it zero.
UNSTRUCTURED_FROM: Final = 0.25
# A numbered layer of the encoder, with any name for the stack of layers.
_IN_LAYER: Final = re.compile(r"(?:^|[._])(?:layers?|h|blocks?)\.\d+\.")
_CONVERSIONS: Final = frozenset({"Cast", "Mul"})
_MATRIX_PRODUCTS: Final = frozenset({"MatMul", "Gemm", "MatMulInteger", "DynamicQuantizeMatMul", "QGemm"})
_QUANTIZED, _ZERO_POINT = "_quantized", "_zero_point"
_NIBBLES: Final = "_nibbles"  # 4-bit codes around 8, two per byte; the first dimension is the row
_CHUNK_BYTES: Final = 1 << 20


def sparsity(model_path: Path) -> Sparsity:
    """Count the nonzeros of every parameter tensor of an ONNX file.

    Names are torch's parameter names, so that the tensors of all variants have the same names: `_quantized` of int8
    tensors and `_nibbles` of 4-bit tables are removed. An int8 code counts as zero if it equals its zero point.
    Matrices may be stored transposed. Scales of quantised tensors count as parameters of the whole model; zero points,
    scalars, shapes and positions do not.

    Raises:
        BundleError: the file is not an ONNX graph.
    """
    try:
        graph = onnx.load(str(model_path)).graph
    except Exception as error:  # protobuf raises its own kinds
        raise BundleError(f"{model_path} is not an ONNX graph: {error}") from error
    stored = {tensor.name: tensor for tensor in graph.initializer}
    uses = _uses(graph.node, stored)
    tensors = tuple(
        _tensor(tensor, uses[name], stored.get(_parameter_name(name) + _ZERO_POINT))
        for name, tensor in sorted(stored.items())
        if tensor.data_type in PARAMETER_BITS and tensor.dims and not name.endswith(_ZERO_POINT)
    )
    return Sparsity(
        encoder_linear=_density(t for t in tensors if t.group == "encoder_linear"),
        all_linear=_density(t for t in tensors if t.group in ("encoder_linear", "other_linear")),
        whole_model=_density(tensors),
        tensors=tensors,
    )


def flops(sparsity: Sparsity, config: Any, *, length: int = 128) -> Flops:
    """Return the operations (2 per multiply-add) for one sequence of L = `length` tokens.

    A linear [K, N] of the encoder costs 2 K N L when dense, and 2 nonzero L without its zeros. Pooler and classifier
    process one token; a projection of the embeddings processes all. Attention over P pairs of tokens, L^2 if a layer
    has no band, costs 4 P W per layer: 2 P W for queries times keys and 2 P W for weights times values. DeBERTa's
    scores are sums of three products. W is the width of the layer's query matrix, so that removed heads cost nothing;
    the hidden size, if the graph has no tensor of that name. Biases, normalisation, activations, softmax and look-ups
    (together under 1 % in BERT-base) are not counted.

    Raises:
        CheckpointError: the configuration is of an unknown architecture.
    """
    architecture = architecture_of(config)
    query = architecture.layer.query
    name = re.compile(rf"(?:^|\.){re.escape(architecture.stack)}\.(\d+)\.{re.escape(query.module)}\.weight$")
    widths = {
        int(match[1]): tensor.shape[1] // query.groups
        for tensor in sparsity.tensors
        if len(tensor.shape) == 2 and (match := name.search(tensor.name))
    }
    products = architecture.score_products(config) + 1
    dense = effective = sum(
        2 * products * attention.pairs(length) * widths.get(layer, int(config.hidden_size))
        for layer, attention in enumerate(architecture.attention(config))
    )
    for tensor in sparsity.tensors:
        if tensor.group not in ("encoder_linear", "other_linear"):
            continue
        every_token = tensor.group == "encoder_linear" or "embedding" in tensor.name
        positions = length if every_token else 1
        dense += 2 * int(np.prod(tensor.shape, dtype=np.int64)) * positions
        effective += 2 * tensor.nonzero * positions
    return Flops(length=length, dense=dense, effective=effective)


def sizes(model_path: Path) -> Sizes:
    """Return the bytes of a file, plain and compressed (zlib level 6, the default of zip and gzip)."""
    raw = zipped = 0
    deflate = zlib.compressobj(6)
    with model_path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            raw += len(chunk)
            zipped += len(deflate.compress(chunk))
    return Sizes(onnx=raw, onnx_zipped=zipped + len(deflate.flush()))


def _uses(nodes: Iterable[Any], constants: Iterable[str]) -> dict[str, set[str]]:
    """Return for each tensor the operators that read it; "Gather" only if the tensor is the table of the look-up.

    Codes that are converted to a weight, independently of the inputs, have the uses of that weight.
    """
    nodes, computed = list(nodes), set(constants)
    for node in nodes:
        if node.op_type in _CONVERSIONS and computed.issuperset(node.input):
            computed.update(node.output)
    uses: dict[str, set[str]] = defaultdict(set)
    for node in reversed(nodes):
        for position, name in enumerate(node.input):
            if computed.issuperset(node.output):
                uses[name] |= uses[node.output[0]]
            elif node.op_type != "Gather" or position == 0:
                uses[name].add(node.op_type)
    return uses


def _tensor(tensor: Any, uses: set[str], zero_point: Any | None) -> TensorSparsity:
    values = numpy_helper.to_array(tensor)
    quantized, nibbles = tensor.name.endswith(_QUANTIZED), tensor.name.endswith(_NIBBLES)
    if nibbles:
        values = np.concatenate([values & 15, values >> 4], axis=-1).astype(np.int8).reshape(len(values), -1) - 8
    zero = _zeros_code(zero_point, values.shape) if quantized and zero_point is not None else np.zeros(1)
    nonzero = int(np.count_nonzero(values != zero.astype(values.dtype)))
    name = _parameter_name(tensor.name)
    pruned = values.ndim == 2 and values.size > 0 and 1 - nonzero / values.size >= UNSTRUCTURED_FROM
    return TensorSparsity(
        name=name,
        shape=tuple(values.shape),
        nonzero=nonzero,
        pattern="unstructured" if pruned else "dense",
        bits=4 if nibbles else PARAMETER_BITS[tensor.data_type],
        group=_group(name, values.ndim, uses),
    )


def _zeros_code(zero_point: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return the codes that stand for zero, one per tensor, column or row, in a shape that broadcasts."""
    codes: npt.NDArray[Any] = numpy_helper.to_array(zero_point).reshape(-1)
    by_row = len(shape) == 2 and codes.size == shape[0] != shape[1]
    return codes[:, None] if by_row else codes


def _group(name: str, dimensions: int, uses: set[str]) -> Group:
    """Return the group of a tensor, by its uses in the graph and then by its name."""
    if dimensions != 2 or name.endswith("_scale"):
        return "other"
    if uses == {"Gather"}:
        return "embedding"
    if _IN_LAYER.search(name):
        return "encoder_linear"
    if uses & _MATRIX_PRODUCTS:
        return "other_linear"
    if "embeddings" in name:
        return "embedding"
    return "other_linear" if name.endswith(".weight") else "other"


def _parameter_name(stored: str) -> str:
    return stored.removesuffix(_QUANTIZED).removesuffix(_NIBBLES)


def _density(tensors: Iterable[TensorSparsity]) -> Density:
    parameters = nonzero = 0
    for tensor in tensors:
        parameters += int(np.prod(tensor.shape, dtype=np.int64))
        nonzero += tensor.nonzero
    return Density(parameters=parameters, nonzero=nonzero)
