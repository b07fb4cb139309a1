"""References for the runtime: float64 encoders and linears in numpy, random weights, sessions."""

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper
from scipy.special import erf

from sparserve.kernels.library import LibraryError, find_library
from sparserve.kernels.weights import Activation, EncoderWeights, LayerWeights, LinearWeights, NormWeights

ISA_NAMES = ("avx512-vnni", "avx512", "avx2-vnni", "avx2", "neon", "portable")
MATRICES = ("query", "key", "value", "attention_output", "intermediate", "output")

repeatable = settings(derandomize=True, database=None, deadline=None)


def supported_isas() -> list[str]:
    """List the instruction sets that library and machine support; empty without a library."""
    try:
        library = ctypes.CDLL(str(find_library().path))
    except LibraryError:
        return []
    library.sparserve_isa.restype = ctypes.c_char_p
    before = os.environ.get("SPARSERVE_ISA")
    try:
        found = []
        for name in ISA_NAMES:
            os.environ["SPARSERVE_ISA"] = name
            if library.sparserve_isa() is not None:
                found.append(name)
        return found
    finally:
        if before is None:
            del os.environ["SPARSERVE_ISA"]
        else:
            os.environ["SPARSERVE_ISA"] = before


def random_weight(
    generator: np.random.Generator,
    rows: int,
    columns: int,
    density: float,
    *,
    blocks: bool = False,
    empty_rows: float = 0.0,
    gain: float = 1.0,
) -> np.ndarray:
    """Return nonzeros [rows, columns], scattered or in 1x4 blocks; unit activations give outputs of about `gain`."""
    if blocks:
        kept = np.repeat(generator.random((rows, -(-columns // 4))) < density, 4, axis=1)[:, :columns]
    else:
        kept = generator.random((rows, columns)) < density
    kept &= (generator.random(rows) >= empty_rows)[:, None]
    std = gain / np.sqrt(max(density, 1 / columns) * columns)
    return (generator.standard_normal((rows, columns)) * std * kept).astype(np.float32)


def random_linear(
    generator: np.random.Generator, rows: int, columns: int, density: float, *, bias: bool = True, **options: Any
) -> LinearWeights:
    weight = random_weight(generator, rows, columns, density, **options)
    return LinearWeights(weight, (0.1 * generator.standard_normal(rows)).astype(np.float32) if bias else None)


def random_norm(generator: np.random.Generator, hidden: int) -> NormWeights:
    weight, bias = 1 + 0.1 * generator.standard_normal(hidden), 0.1 * generator.standard_normal(hidden)
    return NormWeights(weight.astype(np.float32), bias.astype(np.float32))


def random_encoder(
    *,
    layers: int = 2,
    hidden: int = 64,
    head_size: int = 16,
    widths: Sequence[int] = (64,),
    intermediates: Sequence[int] = (128,),
    densities: Sequence[float] = (0.1,),
    activation: Activation = "gelu",
    seed: int = 0,
    **options: Any,
) -> EncoderWeights:
    """Return a random encoder whose layers cycle through `widths` of attention, `intermediates` and `densities`."""
    generator = np.random.default_rng(seed)
    made = []
    for index in range(layers):
        width, wide = widths[index % len(widths)], intermediates[index % len(intermediates)]
        density = densities[index % len(densities)]
        shapes = ((width, hidden), (width, hidden), (width, hidden), (hidden, width), (wide, hidden), (hidden, wide))
        query, key, value, attention_output, intermediate, output = (
            random_linear(generator, rows, columns, density, **options) for rows, columns in shapes
        )
        attention_norm, output_norm = random_norm(generator, hidden), random_norm(generator, hidden)
        made.append(
            LayerWeights(query, key, value, attention_output, attention_norm, intermediate, output, output_norm)
        )
    return EncoderWeights(tuple(made), head_size, activation, 1e-12)


def random_mask(generator: np.random.Generator, batch: int, length: int) -> np.ndarray:
    """Return a mask [batch, length]: rows without padding, padded, with holes, with both, and empty."""
    mask = np.ones((batch, length), np.int64)
    for row in mask:
        kind = generator.integers(5)
        if kind in (1, 3):
            row[generator.integers(length) + 1 :] = 0
        if kind in (2, 3):
            row[generator.random(length) < 0.3] = 0
        if kind == 4:
            row[:] = 0
    return mask


def quantized_activations(x: np.ndarray) -> np.ndarray:
    """Quantize activations [..., features] like the int8 kernels: 256 steps per token, zero exact."""
    low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
    scale = np.maximum(high - low, 1e-30) / 255
    zero_point = np.rint(-low / scale)
    return scale * (np.clip(np.rint(x / scale + zero_point), 0, 255) - zero_point)


def linear_reference(linear: LinearWeights, x: np.ndarray) -> np.ndarray:
    bias = 0 if linear.bias is None else linear.bias
    return x @ linear.weight.T + bias


def encoder_reference(
    encoder: EncoderWeights,
    states: np.ndarray,
    mask: np.ndarray,
    position_bias: np.ndarray | None = None,
    *,
    int8: bool = False,
) -> np.ndarray:
    """Compute the encoder in numpy: states [batch, length, hidden]; position_bias [1 or batch, heads, key, query].

    Tokens behind a row's last unmasked one give zeros. `int8` rounds the activations as the int8 kernels do, `encoder`
    is then what `unpack_encoder` gave back.
    """
    result = np.zeros(states.shape)
    for row in range(len(states)):
        live = np.flatnonzero(mask[row])
        if not len(live):
            continue
        tokens = live[-1] + 1
        x = states[row, :tokens].astype(np.float64)
        key_bias = np.where(mask[row, :tokens] != 0, 0, -np.inf).astype(np.float64)
        scores_bias = np.broadcast_to(key_bias, (1, tokens, tokens))
        if position_bias is not None:
            own = position_bias[row % len(position_bias)].astype(np.float64)
            scores_bias = scores_bias + own[:, :tokens, :tokens].transpose(0, 2, 1)
        for layer in encoder.layers:
            x = _layer(encoder, layer, x, scores_bias, int8)
        result[row, :tokens] = x
    return result


def _layer(
    encoder: EncoderWeights, layer: LayerWeights, x: np.ndarray, scores_bias: np.ndarray, int8: bool
) -> np.ndarray:
    def seen(activations: np.ndarray) -> np.ndarray:
        return quantized_activations(activations) if int8 else activations

    inputs = seen(x)
    query, key, value = (
        linear_reference(linear, inputs).reshape(len(x), -1, encoder.head_size).transpose(1, 0, 2)
        for linear in (layer.query, layer.key, layer.value)
    )
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(encoder.head_size) + scores_bias
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    context = (scores / scores.sum(-1, keepdims=True)) @ value
    attended = linear_reference(layer.attention_output, seen(context.transpose(1, 0, 2).reshape(len(x), -1)))
    x = _layer_norm(layer.attention_norm, x + attended, encoder.epsilon)
    wide = _activate(encoder.activation, linear_reference(layer.intermediate, seen(x)))
    return _layer_norm(layer.output_norm, x + linear_reference(layer.output, seen(wide)), encoder.epsilon)


def _layer_norm(norm: NormWeights, x: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    return scaled * norm.weight + norm.bias


def _activate(activation: str, x: np.ndarray) -> np.ndarray:
    if activation == "gelu":
        return x / 2 * (1 + erf(x / np.sqrt(2)))
    if activation == "gelu_tanh":
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return np.maximum(x, 0) if activation == "relu" else x


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference as a fraction of the largest expected magnitude."""
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    difference = float(np.abs(actual.astype(np.float64) - expected).max(initial=0))
    return difference / max(float(np.abs(expected).max(initial=0)), np.finfo(np.float64).tiny)


def encoder_session(
    blob: bytes, *, first_token_only: bool = False, position_bias: bool = False, threads: int = 1
) -> onnxruntime.InferenceSession:
    """Open a session of one SparseEncoder: states, mask and optionally position_bias -> y."""
    inputs = {"states": TensorProto.FLOAT, "mask": TensorProto.INT64}
    names = ["states", "mask", "weights"]
    if position_bias:
        inputs["position_bias"] = TensorProto.FLOAT
        names.append("position_bias")
    node = helper.make_node("SparseEncoder", names, ["y"], domain="sparserve", first_token_only=int(first_token_only))
    return open_session(node, inputs, blob, threads)


def linear_session(blob: bytes, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """Open a session of one SparseLinear: x -> y."""
    node = helper.make_node("SparseLinear", ["x", "weights"], ["y"], domain="sparserve")
    return open_session(node, {"x": TensorProto.FLOAT}, blob, threads)


def open_session(node: Any, inputs: dict[str, int], blob: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Open a session of one node."""
    model = model_bytes([node], inputs, {"weights": blob})
    return onnxruntime.InferenceSession(model, session_options(threads), providers=["CPUExecutionProvider"])


def model_bytes(nodes: list[Any], inputs: dict[str, int], blobs: dict[str, bytes]) -> bytes:
    """Return a graph with output `y`. No shapes are declared, so that the operators themselves must check them."""
    graph = helper.make_graph(
        nodes,
        "operators",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.frombuffer(blob, np.uint8), name) for name, blob in blobs.items()],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("sparserve", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString()


def session_options(threads: int = 1) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are expected, and are exceptions as well
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.register_custom_ops_library(str(find_library().path))
    return options


def run(session: onnxruntime.InferenceSession, **inputs: np.ndarray) -> np.ndarray:
    return session.run(None, inputs)[0]
