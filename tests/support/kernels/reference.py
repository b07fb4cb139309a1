"""References for the runtime: float64 encoders and linears in numpy, random weights, sessions."""

import ctypes
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper
from scipy.special import erf

from sparserve.kernels.library import LibraryError, find_library
from sparserve.kernels.weights import (
    Activation,
    EncoderWeights,
    LayerWeights,
    LinearWeights,
    NormWeights,
    RelativePositions,
)

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


def modern_encoder(
    *,
    bands: Sequence[int | None] = (None, 3),
    positions: int = 200,
    gated: bool = True,
    norm_first: bool = True,
    **options: Any,
) -> EncoderWeights:
    """Return a random encoder with ModernBERT's parts: norms first and without bias, gates, rotary positions, bands.

    The first layer has no norm ahead of attention. Layers cycle through `bands` and through two sets of frequencies.
    Without `norm_first`, norms are behind the residual sums and with bias, as in Nomic BERT.
    """
    plain = random_encoder(**{"bias": False, **options})
    generator = np.random.default_rng(options.get("seed", 0) + 1)
    layers = []
    for index, layer in enumerate(plain.layers):
        assert layer.attention_norm and layer.output_norm
        units = len(layer.intermediate.weight)
        gate = random_linear(generator, units, plain.hidden, 0.5, bias=False) if gated else None
        theta = (160_000, 10_000)[index % 2]
        norms: dict[str, Any] = {
            "attention_norm": replace(layer.attention_norm, bias=None) if index else None,
            "output_norm": replace(layer.output_norm, bias=None),
        }
        layers.append(
            replace(
                layer,
                **(norms if norm_first else {}),
                gate=gate,
                rotary=(theta ** (-np.arange(0, plain.head_size, 2) / plain.head_size)).astype(np.float32),
                band=bands[index % len(bands)],
            )
        )
    final_norm = replace(random_norm(generator, plain.hidden), bias=None) if norm_first else None
    return replace(plain, layers=tuple(layers), pre_norm=norm_first, final_norm=final_norm, positions=positions)


def relative_encoder(*, buckets: int = 8, positions: int = 200, **options: Any) -> EncoderWeights:
    """Return a random encoder with DeBERTa's relative positions: a row for each short distance, many for a long one."""
    plain = random_encoder(**options)
    distances = np.arange(-positions + 1, positions)
    rows = np.where(abs(distances) < buckets, distances, np.sign(distances) * (buckets + abs(distances) // 50))
    table = np.random.default_rng(options.get("seed", 0) + 2).standard_normal((4 * buckets + 20, plain.hidden))
    relative = RelativePositions(table.astype(np.float32), np.clip(rows + 2 * buckets, 0, len(table) - 1))
    return replace(plain, positions=positions, relative=relative)


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
        # Finite, so that a token whose band is masked throughout attends to all of it, as in the runtime.
        key_bias = np.where(mask[row, :tokens] != 0, 0, -1e25).astype(np.float64)
        scores_bias = np.broadcast_to(key_bias, (1, tokens, tokens))
        if position_bias is not None:
            own = position_bias[row % len(position_bias)].astype(np.float64)
            scores_bias = scores_bias + own[:, :tokens, :tokens].transpose(0, 2, 1)
        distance = np.abs(np.arange(tokens)[:, None] - np.arange(tokens))
        for layer in encoder.layers:
            outside = np.where(distance > layer.band, -np.inf, 0.0) if layer.band is not None else 0.0
            x = _layer(encoder, layer, x, scores_bias + outside, int8)
        result[row, :tokens] = _norm(encoder.final_norm, x, encoder.epsilon)
    return result


def _layer(
    encoder: EncoderWeights, layer: LayerWeights, x: np.ndarray, scores_bias: np.ndarray, int8: bool
) -> np.ndarray:
    def seen(activations: np.ndarray) -> np.ndarray:
        return quantized_activations(activations) if int8 else activations

    def ahead(norm: NormWeights | None, activations: np.ndarray) -> np.ndarray:
        return _norm(norm, activations, encoder.epsilon) if encoder.pre_norm else activations

    def behind(norm: NormWeights | None, activations: np.ndarray) -> np.ndarray:
        return activations if encoder.pre_norm else _norm(norm, activations, encoder.epsilon)

    inputs = seen(ahead(layer.attention_norm, x))
    query, key, value = (
        linear_reference(linear, inputs).reshape(len(x), -1, encoder.head_size).transpose(1, 0, 2)
        for linear in (layer.query, layer.key, layer.value)
    )
    if layer.rotary is not None:
        query, key = _rotated(query, layer.rotary), _rotated(key, layer.rotary)
    scores = query @ key.transpose(0, 2, 1)
    if encoder.relative is not None:
        scores = scores + _relative_scores(encoder, layer, query, key)
    products = 1 if encoder.relative is None else 3
    scores = scores / np.sqrt(products * encoder.head_size) + scores_bias
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    context = (scores / scores.sum(-1, keepdims=True)) @ value
    attended = linear_reference(layer.attention_output, seen(context.transpose(1, 0, 2).reshape(len(x), -1)))
    x = behind(layer.attention_norm, x + attended)
    inputs = seen(ahead(layer.output_norm, x))
    wide = _activate(encoder.activation, linear_reference(layer.intermediate, inputs))
    if layer.gate is not None:
        wide = wide * linear_reference(layer.gate, inputs)
    return behind(layer.output_norm, x + linear_reference(layer.output, seen(wide)))


def _relative_scores(encoder: EncoderWeights, layer: LayerWeights, query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return the scores of queries and keys [heads, tokens, d] with the projected embeddings of their distances."""
    assert encoder.relative and encoder.positions
    length = query.shape[1]
    distances = np.arange(length)[:, None] - np.arange(length)
    rows = encoder.relative.rows[distances + encoder.positions - 1]
    embedded = encoder.relative.table.astype(np.float64)
    keys, queries = (
        linear_reference(linear, embedded).reshape(len(embedded), -1, encoder.head_size).transpose(1, 0, 2)[:, rows]
        for linear in (layer.key, layer.query)
    )
    scores: np.ndarray = np.einsum("hqd,hqkd->hqk", query, keys) + np.einsum("hkd,hqkd->hqk", key, queries)
    return scores


def _rotated(heads: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Turn features i and i + d / 2 of [heads, tokens, d] by position times frequency, rounded to float32."""
    angles = (np.arange(heads.shape[1], dtype=np.float32)[:, None] * frequencies).astype(np.float64)
    low, high = np.split(heads, 2, axis=-1)
    cosines, sines = np.cos(angles), np.sin(angles)
    return np.concatenate([low * cosines - high * sines, high * cosines + low * sines], axis=-1)


def _norm(norm: NormWeights | None, x: np.ndarray, epsilon: float) -> np.ndarray:
    if norm is None:
        return x
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    return scaled * norm.weight + (0 if norm.bias is None else norm.bias)


def _activate(activation: str, x: np.ndarray) -> np.ndarray:
    if activation == "gelu":
        return x / 2 * (1 + erf(x / np.sqrt(2)))
    if activation == "gelu_tanh":
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    if activation == "silu":
        return x / (1 + np.exp(-np.clip(x, -700, None)))
    return np.maximum(x, 0) if activation == "relu" else x


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference as a fraction of the largest expected magnitude."""
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    difference = float(np.abs(actual.astype(np.float64) - expected).max(initial=0))
    return difference / max(float(np.abs(expected).max(initial=0)), np.finfo(np.float64).tiny)


def encoder_session(
    blob: bytes,
    *,
    first_token_only: bool = False,
    position_bias: bool = False,
    int8_attention: bool = False,
    threads: int = 1,
) -> onnxruntime.InferenceSession:
    """Open a session of one SparseEncoder: states, mask and optionally position_bias -> y."""
    inputs = {"states": TensorProto.FLOAT, "mask": TensorProto.INT64}
    names = ["states", "mask", "weights"]
    if position_bias:
        inputs["position_bias"] = TensorProto.FLOAT
        names.append("position_bias")
    node = helper.make_node(
        "SparseEncoder",
        names,
        ["y"],
        domain="sparserve",
        first_token_only=int(first_token_only),
        int8_attention=int(int8_attention),
    )
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
