"""The packed format: weights as the sparse runtime reads them, and back (docs/kernels.md has the byte layout).

Column indexes are stored as a bitmap or as byte gaps, whichever is smaller; values as float32, as float16 where that
loses nothing, or as int8. Unpacking gives back exactly the weights that the runtime computes with.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from kernels.quantization import quantize_paired, quantize_unstructured
from kernels.weights import Activation, EncoderWeights, Floats, LayerWeights, LinearWeights, NormWeights

FORMAT_VERSION: Final = 1
MAGIC: Final = b"SPARSRV\x01"
HEADER: Final = struct.Struct("<8sIIQIIIIIIIfQ")
RECORD: Final = struct.Struct("<BBBBIIIQQQQQQQQ")
CHECKSUMMED_FROM: Final = 32
ENCODER, LINEAR = 1, 2
ACTIVATIONS: Final[tuple[Activation, ...]] = ("none", "gelu", "gelu_tanh", "relu")
DENSE, UNSTRUCTURED, BLOCK, VECTOR = 0, 1, 2, 3
FLOAT32, FLOAT16, INT8 = 0, 1, 2
NO_INDEX, BITMAP, GAPS = 0, 1, 2
BLOCK_WIDTH: Final = 4
MAX_WIDTH: Final = 65535
MAX_LAYERS: Final = 256
MAX_PLACES: Final = 2**32  # rows times columns of all matrices
MAX_EPSILON: Final = 1.0
RECORDS_PER_LAYER: Final = 10
LAYOUT_NAMES: Final = {DENSE: "dense", UNSTRUCTURED: "unstructured", BLOCK: "1x4", VECTOR: "vector"}

Values = Literal["fp32", "int8"]


class PackingError(ValueError):
    """Weights that cannot be packed, or bytes that are not packed weights."""


@dataclass(frozen=True)
class PackOptions:
    """How matrices are stored.

    A matrix with more than this fraction of nonzeros is stored dense; one whose nonzeros fill at least `block_fill` of
    the 1x4 blocks that they touch is stored in blocks. The thresholds are where the layouts take equal time (measured
    by benchmarks/kernels.py); None never chooses that layout.
    """

    values: Values = "fp32"
    dense_above: float | None = 0.45
    block_fill: float | None = 0.9


@dataclass(frozen=True)
class Part:
    """One stored tensor and its bytes."""

    name: str
    layout: str
    shape: tuple[int, int]
    values: int  # stored: the nonzeros, and the zeros of dense matrices and of blocks
    index_bytes: int
    value_bytes: int


def pack_encoder(weights: EncoderWeights, options: PackOptions | None = None) -> bytes:
    """Pack an encoder.

    Raises:
        PackingError: a shape or value that the format or the runtime does not take.
    """
    options = options or PackOptions()
    writer = _Writer()
    _check_encoder(weights)
    hidden = weights.hidden
    for index, layer in enumerate(weights.layers):
        _check_layer(index, layer, hidden, weights.head_size)
        for linear in _linears(layer):
            writer.matrix(linear, options)
        for norm in (layer.attention_norm, layer.output_norm):
            writer.vector(norm.weight)
            writer.vector(norm.bias)
    activation = ACTIVATIONS.index(weights.activation)
    return writer.finish(ENCODER, len(weights.layers), hidden, weights.head_size, activation, weights.epsilon)


def pack_linear(weights: LinearWeights, options: PackOptions | None = None) -> bytes:
    """Pack one linear.

    Raises:
        PackingError: as `pack_encoder`.
    """
    writer = _Writer()
    writer.matrix(weights, options or PackOptions())
    return writer.finish(LINEAR, 0, 0, 0, 0, 0.0)


@contextmanager
def _well_formed() -> Iterator[None]:
    """The runtime checks every field; here, a blob that is not well formed fails where something does not fit."""
    try:
        yield
    except PackingError:
        raise
    except (ValueError, IndexError, OverflowError) as error:
        raise PackingError(f"the packed weights are malformed: {error}") from error


@_well_formed()
def unpack_encoder(blob: bytes) -> EncoderWeights:
    """The weights that the runtime computes with: exact, int8 ones times their scales.

    Raises:
        PackingError: these bytes are no packed encoder.
    """
    header, records = _records(blob, ENCODER)
    layers = []
    for begin in range(0, len(records), RECORDS_PER_LAYER):
        mine = records[begin : begin + RECORDS_PER_LAYER]
        query, key, value, attention_output, intermediate, output = (_unpack(blob, record) for record in mine[:6])
        vectors = [np.frombuffer(blob, np.float32, record.rows, record.values) for record in mine[6:]]
        layers.append(
            LayerWeights(
                query,
                key,
                value,
                attention_output,
                NormWeights(vectors[0], vectors[1]),
                intermediate,
                output,
                NormWeights(vectors[2], vectors[3]),
            )
        )
    return EncoderWeights(tuple(layers), header.head_size, ACTIVATIONS[header.activation], header.epsilon)


@_well_formed()
def unpack_linear(blob: bytes) -> LinearWeights:
    """As `unpack_encoder`, of one linear."""
    return _unpack(blob, _records(blob, LINEAR)[1][0])


def parts(blob: bytes) -> Iterator[Part]:
    """What is stored in a blob, and the bytes of each part."""
    header, records = _records(blob, None)
    for index, record in enumerate(records):
        layer, position = divmod(index, RECORDS_PER_LAYER)
        name = f"layer.{layer}.{_NAMES[position]}" if header.kind == ENCODER else "linear"
        entry = BLOCK_WIDTH if record.layout == BLOCK else 1
        bias = record.rows * 4 if record.has_bias else 0
        scales = record.rows * 4 if record.type == INT8 else 0
        counts = record.rows * 2 if record.layout in (UNSTRUCTURED, BLOCK) else 0
        values = record.entries * entry * _VALUE_BYTES[record.type]
        yield Part(
            name,
            LAYOUT_NAMES[record.layout],
            (record.rows, record.columns),
            record.entries * entry,
            record.index_bytes + counts,
            values + scales + bias,
        )


_NAMES = (
    "query", "key", "value", "attention_output", "intermediate", "output",
    "attention_norm.weight", "attention_norm.bias", "output_norm.weight", "output_norm.bias",
)  # fmt: skip
_VALUE_BYTES = {FLOAT32: 4, FLOAT16: 2, INT8: 1}


@dataclass(frozen=True)
class _Header:
    kind: int
    head_size: int
    activation: int
    epsilon: float


@dataclass(frozen=True)
class _Record:
    layout: int
    type: int
    coding: int
    has_bias: int
    rows: int
    columns: int
    reserved0: int
    entries: int
    counts: int
    index: int
    index_bytes: int
    values: int
    scales: int
    bias: int
    reserved1: int


def _linears(layer: LayerWeights) -> tuple[LinearWeights, ...]:
    return layer.query, layer.key, layer.value, layer.attention_output, layer.intermediate, layer.output


def _check_encoder(weights: EncoderWeights) -> None:
    if not 0 < len(weights.layers) <= MAX_LAYERS:
        raise PackingError(f"an encoder has 1 to {MAX_LAYERS} layers, not {len(weights.layers)}")
    places = sum(linear.weight.size for layer in weights.layers for linear in _linears(layer))
    if places > MAX_PLACES:
        raise PackingError(f"an encoder has at most {MAX_PLACES:,} weights, not {places:,}")
    if not 0 <= weights.epsilon <= MAX_EPSILON:
        raise PackingError(f"the LayerNorm epsilon must be between 0 and {MAX_EPSILON:g}, not {weights.epsilon}")
    if weights.activation not in ACTIVATIONS:
        raise PackingError(f"the activation must be one of {', '.join(ACTIVATIONS)}, not {weights.activation!r}")


def _check_layer(index: int, layer: LayerWeights, hidden: int, head_size: int) -> None:
    width, wide = layer.query.weight.shape[0], layer.intermediate.weight.shape[0]
    expected = ((width, hidden), (width, hidden), (width, hidden), (hidden, width), (wide, hidden), (hidden, wide))
    for name, linear, shape in zip(_NAMES, _linears(layer), expected, strict=False):
        if linear.weight.shape != shape:
            raise PackingError(f"layer {index}, {name}: the weight is {linear.weight.shape}, expected {shape}")
    for name, norm in (("attention_norm", layer.attention_norm), ("output_norm", layer.output_norm)):
        if norm.weight.shape != (hidden,) or norm.bias.shape != (hidden,):
            raise PackingError(f"layer {index}, {name}: weight and bias must be [{hidden}]")
    if head_size <= 0 or width % head_size:
        raise PackingError(f"layer {index}: {width} attention features are not whole heads of {head_size}")


class _Writer:
    """Collects records and the bytes they point to."""

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._chunks: list[tuple[str, bytes]] = []
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

    def vector(self, values: Floats) -> None:
        array = _finite(np.ascontiguousarray(values, np.float32))
        self._add(VECTOR, FLOAT32, NO_INDEX, (array.size, 1), array.size, {"values": array.tobytes()})

    def _add(
        self, layout: int, kind: int, coding: int, shape: tuple[int, ...], entries: int, sections: dict[str, bytes]
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
            _Record(
                layout, kind, coding, has_bias, rows, columns, 0, entries, offsets["counts"], offsets["index"],
                index_bytes, offsets["values"], offsets["scales"], offsets["bias"], 0,
            )
        )  # fmt: skip

    def finish(self, kind: int, layers: int, hidden: int, head_size: int, activation: int, epsilon: float) -> bytes:
        base = HEADER.size + RECORD.size * len(self._records)
        table = bytearray()
        for record, sections in zip(self._records, self._sections, strict=True):
            moved = {name: offset + base for name, offset in sections.items()}
            table += RECORD.pack(*{**record.__dict__, **moved}.values())
        payload = bytes(table + self._body)
        size = HEADER.size + len(payload)

        def header(checksum: int) -> bytes:
            return HEADER.pack(
                MAGIC, FORMAT_VERSION, kind, size, checksum, 0, len(self._records), layers, hidden, head_size,
                activation, epsilon, 0,
            )  # fmt: skip

        checksum = zlib.crc32(payload, zlib.crc32(header(0)[CHECKSUMMED_FROM:]))
        return header(checksum) + payload


def choose_layout(weight: Floats, options: PackOptions) -> int:
    """Dense, unstructured or 1x4 blocks: what this matrix `[out, in]` is stored as."""
    nonzero = np.count_nonzero(weight)
    if options.dense_above is not None and nonzero > options.dense_above * weight.size:
        return DENSE
    if options.block_fill is not None and weight.shape[1] % BLOCK_WIDTH == 0 and nonzero:
        blocks = np.count_nonzero(weight.reshape(weight.shape[0], -1, BLOCK_WIDTH).any(axis=2))
        if nonzero >= options.block_fill * blocks * BLOCK_WIDTH:
            return BLOCK
    return UNSTRUCTURED


def encode_index(mask: npt.NDArray[np.bool_]) -> tuple[int, bytes]:
    """Column indexes of the true entries of `mask` [rows, slots]: the smaller coding, and its bytes.

    A bitmap has a bit a slot, rows padded to bytes. Gaps have a byte an entry: how many slots lie between it and the
    one before it in the row; a byte of 255 adds 255 and goes on.
    """
    bitmap = np.packbits(mask, axis=1, bitorder="little").tobytes()
    rows, columns = np.nonzero(mask)
    first = np.ones(len(rows), dtype=bool)
    first[1:] = rows[1:] != rows[:-1]
    gaps = np.where(first, columns, np.diff(columns, prepend=0) - 1)
    lengths = gaps // 255 + 1
    coded = np.full(int(lengths.sum()), 255, np.uint8)
    coded[np.cumsum(lengths) - 1] = gaps % 255
    return (GAPS, coded.tobytes()) if len(coded) <= len(bitmap) else (BITMAP, bitmap)


def decode_index(coding: int, data: bytes, counts: npt.NDArray[np.int64], slots: int) -> npt.NDArray[np.bool_]:
    """The inverse of `encode_index`: a mask [rows, slots]."""
    if coding == BITMAP:
        packed = np.frombuffer(data, np.uint8).reshape(len(counts), -1)
        return np.unpackbits(packed, axis=1, count=slots, bitorder="little").astype(bool)
    coded = np.frombuffer(data, np.uint8).astype(np.int64)
    ends = np.flatnonzero(coded != 255)
    sums = np.concatenate(([0], np.cumsum(coded)))
    gaps = np.diff(sums[ends + 1], prepend=0)
    rows = np.repeat(np.arange(len(counts)), counts)
    # Slots counted through all rows: what lies before a row's first entry is taken off again.
    running = np.cumsum(gaps + 1)
    begins = np.cumsum(counts) - counts
    before = np.concatenate(([0], running))[begins]
    mask = np.zeros((len(counts), slots), dtype=bool)
    mask[rows, running - before[rows] - 1] = True
    return mask


def _kept(weight: Floats, layout: int) -> npt.NDArray[np.bool_]:
    if layout == DENSE:
        return np.ones(weight.shape, dtype=np.bool_)
    if layout == BLOCK:
        return np.asarray(weight.reshape(weight.shape[0], -1, BLOCK_WIDTH).any(axis=2), dtype=np.bool_)
    return np.asarray(weight != 0, dtype=np.bool_)


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise PackingError("weights must be finite: there is a NaN or an infinity among them")
    return values


def _records(blob: bytes, kind: int | None) -> tuple[_Header, list[_Record]]:
    if len(blob) < HEADER.size or blob[: len(MAGIC)] != MAGIC:
        raise PackingError("these bytes are no packed weights")
    _, version, found, size, checksum, _, count, _, _, head_size, activation, epsilon, _ = HEADER.unpack_from(blob)
    if version != FORMAT_VERSION:
        raise PackingError(f"packed format version {version} is unknown; this is version {FORMAT_VERSION}")
    if size != len(blob) or checksum != zlib.crc32(blob[CHECKSUMMED_FROM:]):
        raise PackingError("the packed weights are damaged: wrong size or checksum")
    if kind is not None and found != kind:
        raise PackingError("these packed weights are of the other kind (encoder or linear)")
    table = blob[HEADER.size : HEADER.size + RECORD.size * count]
    if count == 0 or len(table) != RECORD.size * count or (found == ENCODER and count % RECORDS_PER_LAYER):
        raise PackingError("the packed weights are malformed: the table of records is not whole")
    records = [_Record(*fields) for fields in RECORD.iter_unpack(table)]
    if any(record.layout not in LAYOUT_NAMES or record.type not in _VALUE_BYTES for record in records):
        raise PackingError("the packed weights are malformed: unknown layout or value type")
    if any(not 0 < size <= MAX_WIDTH for record in records for size in (record.rows, record.columns)):
        raise PackingError("the packed weights are malformed: a shape is out of range")
    return _Header(found, head_size, activation, epsilon), records


def _unpack(blob: bytes, record: _Record) -> LinearWeights:
    entry = BLOCK_WIDTH if record.layout == BLOCK else 1
    dtype = {FLOAT32: np.float32, FLOAT16: np.float16, INT8: np.int8}[record.type]
    raw: npt.NDArray[np.generic] = np.frombuffer(blob, dtype, record.entries * entry, record.values)
    values = raw.astype(np.float32)
    if record.layout == DENSE:
        if record.entries != record.rows * record.columns:
            raise PackingError("the packed weights are malformed: a dense matrix must hold every value")
        counts = np.full(record.rows, record.columns, np.int64)
        mask = np.ones((record.rows, record.columns), dtype=bool)
    else:
        counts = np.frombuffer(blob, "<u2", record.rows, record.counts).astype(np.int64)
        data = blob[record.index : record.index + record.index_bytes]
        mask = decode_index(record.coding, data, counts, record.columns // entry)
    if record.type == INT8:
        scales = np.frombuffer(blob, np.float32, record.rows, record.scales)
        values *= np.repeat(scales, counts * entry)
    weight = np.zeros((record.rows, record.columns // entry, entry), np.float32)
    weight[mask] = values.reshape(-1, entry)
    bias = np.frombuffer(blob, np.float32, record.rows, record.bias) if record.has_bias else None
    return LinearWeights(weight.reshape(record.rows, record.columns), bias)
