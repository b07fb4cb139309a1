"""Pack weights into the smallest lossless form of the packed format (docs/reference/packed-format.md).

Column indexes are stored as a bitmap or as byte gaps, whichever is smaller. Values are stored as float32, as float16
where that is exact, or as int8. Unpacking returns exactly the weights that the runtime computes with.
"""

import zlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from sparserve.kernels.column_index import encode_index
from sparserve.kernels.packed_format import (
    ACTIVATIONS,
    BLOCK,
    BLOCK_WIDTH,
    CHECKSUMMED_FROM,
    DENSE,
    ENCODER,
    FLOAT16,
    FLOAT32,
    HEADER,
    INT8,
    LAYER_RECORDS,
    LINEAR,
    MAGIC,
    MAX_ANGLES,
    MAX_BAND,
    MAX_DISTANCES,
    MAX_EPSILON,
    MAX_LAYERS,
    MAX_PLACES,
    MAX_POSITIONS,
    MAX_WIDTH,
    NO_INDEX,
    NOTHING,
    PRE_NORM,
    RECORD,
    UNSTRUCTURED,
    VECTOR,
    PackingError,
    Record,
)
from sparserve.kernels.quantization import quantize_paired, quantize_unstructured
from sparserve.kernels.weights import (
    EncoderWeights,
    Floats,
    LayerWeights,
    LinearWeights,
    NormWeights,
    RelativePositions,
)

Values = Literal["fp32", "int8"]
# Fraction of nonzeros above which dense storage is faster: interpolated between the arms "55 %" and "dense" of
# `python -m benchmarks.kernels`.
DENSE_ABOVE: Final = {"fp32": 0.4, "int8": 0.6}


@dataclass(frozen=True)
class PackOptions:
    """Options for the storage of matrices.

    A matrix with a larger fraction of nonzeros than `dense_above` (auto: `DENSE_ABOVE`) is stored dense; one whose
    nonzeros fill at least `block_fill` of the 1x4 blocks that they touch is stored in blocks; None never chooses that
    layout.
    """

    values: Values = "fp32"
    dense_above: float | Literal["auto"] | None = "auto"
    block_fill: float | None = 0.9


def pack_encoder(weights: EncoderWeights, options: PackOptions | None = None) -> bytes:
    """Pack an encoder.

    Raises:
        PackingError: the format or the runtime does not support a shape or value.
    """
    options = options or PackOptions()
    writer = _Writer()
    _check_encoder(weights)
    version = _version(weights)
    for index, layer in enumerate(weights.layers):
        _check_layer(index, layer, weights)
        for linear in _linears(layer):
            writer.matrix(linear, options)
        writer.norm(layer.attention_norm)
        writer.norm(layer.output_norm)
        if version > 1:
            if layer.gate is None:
                writer.nothing()
            else:
                writer.matrix(layer.gate, options)
            window = 0 if layer.band is None else layer.band + 1
            if layer.rotary is None:
                writer.nothing(window)
            else:
                writer.vector(layer.rotary, window)
    if version > 1:
        writer.norm(weights.final_norm)
        writer.relative(weights.relative)
    return writer.finish(
        ENCODER,
        version,
        layers=len(weights.layers),
        hidden=weights.hidden,
        head_size=weights.head_size,
        activation=ACTIVATIONS.index(weights.activation),
        epsilon=weights.epsilon,
        flags=PRE_NORM if weights.pre_norm else 0,
        positions=weights.positions or 0,
    )


def pack_linear(weights: LinearWeights, options: PackOptions | None = None) -> bytes:
    """Pack one linear.

    Raises:
        PackingError: as `pack_encoder`.
    """
    writer = _Writer()
    writer.matrix(weights, options or PackOptions())
    return writer.finish(LINEAR)


def _version(weights: EncoderWeights) -> int:
    """Return the oldest version of the format that can describe an encoder."""
    added = (
        weights.pre_norm,
        weights.final_norm is not None,
        weights.positions is not None,
        weights.activation == "silu",
    )
    in_layers = (value is not None for layer in weights.layers for value in (layer.gate, layer.rotary, layer.band))
    return 2 if any(added) or any(in_layers) else 1


def _linears(layer: LayerWeights) -> tuple[LinearWeights, ...]:
    return layer.query, layer.key, layer.value, layer.attention_output, layer.intermediate, layer.output


def _check_encoder(weights: EncoderWeights) -> None:
    if not 0 < len(weights.layers) <= MAX_LAYERS:
        raise PackingError(f"an encoder has 1 to {MAX_LAYERS} layers, not {len(weights.layers)}")
    gates = sum(layer.gate.weight.size for layer in weights.layers if layer.gate)
    places = gates + sum(linear.weight.size for layer in weights.layers for linear in _linears(layer))
    if places > MAX_PLACES:
        raise PackingError(f"an encoder has at most {MAX_PLACES:,} weights, not {places:,}")
    if not 0 <= weights.epsilon <= MAX_EPSILON:
        raise PackingError(f"the LayerNorm epsilon must be between 0 and {MAX_EPSILON:g}, not {weights.epsilon}")
    if weights.activation not in ACTIVATIONS:
        raise PackingError(f"the activation must be one of {', '.join(ACTIVATIONS)}, not {weights.activation!r}")
    if weights.positions is not None and not 0 < weights.positions <= MAX_POSITIONS:
        raise PackingError(f"an encoder has 1 to {MAX_POSITIONS:,} positions, not {weights.positions:,}")
    angles = sum(layer.rotary.size for layer in weights.layers if layer.rotary is not None) * (weights.positions or 0)
    if angles > MAX_ANGLES:
        raise PackingError(
            f"rotary positions have at most {MAX_ANGLES:,} angles in all layers together, not {angles:,}; use fewer "
            "positions"
        )
    if weights.relative is not None:
        _check_relative(weights, weights.relative)
    if weights.final_norm is not None:
        _check_norm("final_norm", weights.final_norm, weights.hidden)


def _check_relative(weights: EncoderWeights, relative: RelativePositions) -> None:
    rows, table = relative.rows, relative.table
    if weights.positions is None or rows.shape != (2 * weights.positions - 1,) or rows.size > MAX_WIDTH:
        raise PackingError(
            f"relative positions need a number of positions, at most {(MAX_WIDTH + 1) // 2:,}, and a row of the table "
            "for each distance"
        )
    if table.ndim != 2 or table.shape[1] != weights.hidden or rows.min() < 0 or rows.max() >= len(table):
        raise PackingError(f"the table of relative positions must be [rows, {weights.hidden}] and have all their rows")
    width = sum(len(layer.query.weight) for layer in weights.layers)
    if 2 * width * rows.size > MAX_DISTANCES:
        raise PackingError(
            f"relative positions have at most {MAX_DISTANCES:,} values in all layers together, not "
            f"{2 * width * rows.size:,}; use fewer positions"
        )


def _check_layer(index: int, layer: LayerWeights, weights: EncoderWeights) -> None:
    hidden, head_size = weights.hidden, weights.head_size
    width, wide = layer.query.weight.shape[0], layer.intermediate.weight.shape[0]
    expected = ((width, hidden), (width, hidden), (width, hidden), (hidden, width), (wide, hidden), (hidden, wide))
    for name, linear, shape in zip(LAYER_RECORDS, _linears(layer), expected, strict=False):
        if linear.weight.shape != shape:
            raise PackingError(f"layer {index}, {name}: the weight is {linear.weight.shape}, expected {shape}")
    if layer.gate is not None and layer.gate.weight.shape != (wide, hidden):
        raise PackingError(f"layer {index}, gate: the weight is {layer.gate.weight.shape}, expected {(wide, hidden)}")
    for name, norm in (("attention_norm", layer.attention_norm), ("output_norm", layer.output_norm)):
        if norm is not None:
            _check_norm(f"layer {index}, {name}", norm, hidden)
        elif not weights.pre_norm:
            raise PackingError(f"layer {index}, {name}: only a pre-norm encoder may lack it")
    if head_size <= 0 or width % head_size:
        raise PackingError(f"layer {index}: {width} attention features are not whole heads of {head_size}")
    if layer.rotary is not None and (layer.rotary.shape != (head_size / 2,) or weights.positions is None):
        raise PackingError(
            f"layer {index}: rotary positions need a number of positions and [{head_size} / 2] frequencies"
        )
    if layer.band is not None and not 0 <= layer.band <= MAX_BAND:
        raise PackingError(f"layer {index}: the attention band must be 0 to {MAX_BAND}, not {layer.band}")


def _check_norm(name: str, norm: NormWeights, hidden: int) -> None:
    if any(values is not None and values.shape != (hidden,) for values in (norm.weight, norm.bias)):
        raise PackingError(f"{name}: weight and bias must be [{hidden}]")


class _Writer:
    """Collector of records and the bytes that they point to."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._sections: list[dict[str, int]] = []
        self._body = bytearray()

    def matrix(self, linear: LinearWeights, options: PackOptions) -> None:
        weight = np.ascontiguousarray(linear.weight, np.float32)
        if weight.ndim != 2 or not 0 < weight.shape[0] <= MAX_WIDTH or not 0 < weight.shape[1] <= MAX_WIDTH:
            raise PackingError(f"a weight must be [out, in] with 1 to {MAX_WIDTH} of each, not {list(weight.shape)}")
        _finite(weight)
        layout = choose_layout(weight, options)
        mask = _kept(weight, layout)
        entry = BLOCK_WIDTH if layout == BLOCK else 1
        kept = weight.reshape(weight.shape[0], -1, entry)[mask].reshape(-1)
        counts = mask.sum(axis=1, dtype=np.int64)
        sections: dict[str, bytes] = {}
        if options.values == "int8":
            quantize = quantize_unstructured if layout == UNSTRUCTURED else quantize_paired
            ints, scales = quantize(kept, counts * entry)
            kind, sections["values"], sections["scales"] = INT8, ints.tobytes(), scales.tobytes()
        else:
            with np.errstate(over="ignore"):
                half = kept.astype(np.float16)
            kind = FLOAT16 if kept.size and np.array_equal(half.astype(np.float32), kept) else FLOAT32
            sections["values"] = half.tobytes() if kind == FLOAT16 else kept.tobytes()
        coding = NO_INDEX
        if layout != DENSE:
            sections["counts"] = counts.astype("<u2").tobytes()
            coding, sections["index"] = encode_index(mask)
        if linear.bias is not None:
            sections["bias"] = _finite(np.ascontiguousarray(linear.bias, np.float32)).tobytes()
            if linear.bias.shape != weight.shape[:1]:
                raise PackingError(f"the bias is {list(linear.bias.shape)} for a weight of {list(weight.shape)}")
        self._add(layout, kind, coding, weight.shape, int(mask.sum()), sections)

    def norm(self, norm: NormWeights | None) -> None:
        if norm is None:
            self.nothing()
            self.nothing()
        else:
            self.vector(norm.weight)
            self.vector(np.zeros_like(norm.weight) if norm.bias is None else norm.bias)

    def relative(self, relative: RelativePositions | None) -> None:
        if relative is None:
            self.nothing()
            self.nothing()
            return
        used, rows = np.unique(relative.rows, return_inverse=True)
        self.matrix(LinearWeights(relative.table[used]), PackOptions("fp32", dense_above=-1.0))
        self.vector(rows.astype(np.float32))

    def vector(self, values: Floats, window: int = 0) -> None:
        array = _finite(np.ascontiguousarray(values, np.float32))
        self._add(VECTOR, FLOAT32, NO_INDEX, (array.size, 1), array.size, {"values": array.tobytes()}, window)

    def nothing(self, window: int = 0) -> None:
        self._add(NOTHING, 0, 0, (0, 0), 0, {}, window)

    def _add(
        self,
        layout: int,
        kind: int,
        coding: int,
        shape: tuple[int, ...],
        entries: int,
        sections: dict[str, bytes],
        window: int = 0,
    ) -> None:
        offsets = dict.fromkeys(("counts", "index", "values", "scales", "bias"), 0)
        for name, data in sections.items():
            self._body += b"\0" * (-len(self._body) % 8)
            offsets[name] = len(self._body)
            self._body += data
        self._sections.append({name: offsets[name] for name in sections})
        rows, columns = shape
        index_bytes = len(sections.get("index", b""))
        has_bias = int("bias" in sections)
        self._records.append(
            Record(
                layout, kind, coding, has_bias, rows, columns, window, entries, offsets["counts"], offsets["index"],
                index_bytes, offsets["values"], offsets["scales"], offsets["bias"], 0,
            )
        )  # fmt: skip

    def finish(
        self,
        kind: int,
        version: int = 1,
        *,
        layers: int = 0,
        hidden: int = 0,
        head_size: int = 0,
        activation: int = 0,
        epsilon: float = 0.0,
        flags: int = 0,
        positions: int = 0,
    ) -> bytes:
        base = HEADER.size + RECORD.size * len(self._records)
        table = bytearray()
        for record, sections in zip(self._records, self._sections, strict=True):
            moved = {name: offset + base for name, offset in sections.items()}
            table += RECORD.pack(*{**record.__dict__, **moved}.values())
        payload = bytes(table + self._body)
        size = HEADER.size + len(payload)

        def header(checksum: int) -> bytes:
            return HEADER.pack(
                MAGIC, version, kind, size, checksum, 0, len(self._records), layers, hidden, head_size,
                activation, epsilon, flags, positions,
            )  # fmt: skip

        checksum = zlib.crc32(payload, zlib.crc32(header(0)[CHECKSUMMED_FROM:]))
        return header(checksum) + payload


def choose_layout(weight: Floats, options: PackOptions) -> int:
    """Choose the storage of a matrix `[out, in]`: dense, unstructured or 1x4 blocks."""
    nonzero = np.count_nonzero(weight)
    dense_above = DENSE_ABOVE[options.values] if options.dense_above == "auto" else options.dense_above
    if dense_above is not None and nonzero > dense_above * weight.size:
        return DENSE
    if options.block_fill is not None and weight.shape[1] % BLOCK_WIDTH == 0 and nonzero:
        blocks = np.count_nonzero(weight.reshape(weight.shape[0], -1, BLOCK_WIDTH).any(axis=2))
        if nonzero >= options.block_fill * blocks * BLOCK_WIDTH:
            return BLOCK
    return UNSTRUCTURED


def _kept(weight: Floats, layout: int) -> npt.NDArray[np.bool_]:
    if layout == DENSE:
        return np.ones(weight.shape, dtype=np.bool_)
    if layout == BLOCK:
        return np.asarray(weight.reshape(weight.shape[0], -1, BLOCK_WIDTH).any(axis=2), dtype=np.bool_)
    return np.asarray(weight != 0, dtype=np.bool_)


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise PackingError("weights must be finite, but some are NaN or infinite")
    return values
