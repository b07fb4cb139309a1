"""Unpack packed bytes into the weights that the runtime computes with; list the size of each part."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparserve.kernels.column_index import decode_index
from sparserve.kernels.packed_format import (
    ACTIVATIONS,
    BLOCK,
    BLOCK_WIDTH,
    DENSE,
    ENCODER,
    FLOAT16,
    FLOAT32,
    INT8,
    LAYOUT_NAMES,
    LINEAR,
    NOTHING,
    PRE_NORM,
    RECORDS_PER_LAYER,
    UNSTRUCTURED,
    VALUE_BYTES,
    VECTOR,
    PackingError,
    Record,
    read_records,
)
from sparserve.kernels.weights import (
    EncoderWeights,
    Floats,
    LayerWeights,
    LinearWeights,
    NormWeights,
    RelativePositions,
)


@dataclass(frozen=True)
class Part:
    """One stored tensor and its size in bytes."""

    name: str
    layout: str
    shape: tuple[int, int]
    values: int  # stored values: nonzeros, and the zeros of dense matrices and blocks
    index_bytes: int
    value_bytes: int


@contextmanager
def _well_formed() -> Iterator[None]:
    """Turn any error from a malformed blob into PackingError; the runtime itself checks every field."""
    try:
        yield
    except PackingError:
        raise
    except (ValueError, IndexError, OverflowError) as error:
        raise PackingError(f"the packed weights are malformed: {error}") from error


@_well_formed()
def unpack_encoder(blob: bytes) -> EncoderWeights:
    """Return the weights that the runtime computes with; int8 values are multiplied by their scales.

    Raises:
        PackingError: the bytes are not a packed encoder.
    """
    header, records = read_records(blob, ENCODER)
    size = RECORDS_PER_LAYER[header.version]
    layers = tuple(_layer(blob, records[index * size : (index + 1) * size]) for index in range(header.layers))
    shared = records[header.layers * size :]
    return EncoderWeights(
        layers,
        header.head_size,
        ACTIVATIONS[header.activation],
        header.epsilon,
        pre_norm=bool(header.flags & PRE_NORM),
        final_norm=_norm(blob, shared[:2]) if shared else None,
        positions=header.positions or None,
        relative=_relative(blob, shared[2:]) if shared else None,
    )


def _layer(blob: bytes, records: list[Record]) -> LayerWeights:
    query, key, value, attention_output, intermediate, output = (_unpack(blob, record) for record in records[:6])
    gate, positions = records[10:] or (None, None)
    return LayerWeights(
        query,
        key,
        value,
        attention_output,
        _norm(blob, records[6:8]),
        intermediate,
        output,
        _norm(blob, records[8:10]),
        gate=_unpack(blob, gate) if gate and gate.layout != NOTHING else None,
        rotary=_vector(blob, positions) if positions and positions.layout != NOTHING else None,
        band=positions.window - 1 if positions and positions.window else None,
    )


def _norm(blob: bytes, records: list[Record]) -> NormWeights | None:
    weight, bias = records
    return None if weight.layout == NOTHING else NormWeights(_vector(blob, weight), _vector(blob, bias))


def _relative(blob: bytes, records: list[Record]) -> RelativePositions | None:
    table, rows = records
    if table.layout == NOTHING:
        return None
    return RelativePositions(_unpack(blob, table).weight, _vector(blob, rows).astype(np.int64))


def _vector(blob: bytes, record: Record) -> Floats:
    if record.layout != VECTOR:
        raise PackingError("the packed weights are malformed: a vector is missing")
    return np.frombuffer(blob, np.float32, record.rows, record.values)


@_well_formed()
def unpack_linear(blob: bytes) -> LinearWeights:
    """Unpack one linear; see `unpack_encoder`."""
    return _unpack(blob, read_records(blob, LINEAR)[1][0])


def layers_in_bytes(blob: bytes, *, first_token_only: bool) -> int:
    """Return the number of layers whose attention is computed in bytes if the operator is asked to.

    The others have a band, relative positions, or the first token's queries alone.
    """
    header, records = read_records(blob, ENCODER)
    named = dict(zip(header.names, records, strict=True))
    if header.version > 1 and named["relative.table"].layout != NOTHING:
        return 0
    layers = range(header.layers - int(first_token_only))
    return sum(header.version == 1 or named[f"layer.{layer}.positions"].window == 0 for layer in layers)


def parts(blob: bytes) -> Iterator[Part]:
    """Yield the parts stored in a blob with their sizes in bytes."""
    header, records = read_records(blob, None)
    for name, record in zip(header.names, records, strict=True):
        if record.layout == NOTHING:
            continue
        entry = BLOCK_WIDTH if record.layout == BLOCK else 1
        bias = record.rows * 4 if record.has_bias else 0
        scales = record.rows * 4 if record.type == INT8 else 0
        counts = record.rows * 2 if record.layout in (UNSTRUCTURED, BLOCK) else 0
        values = record.entries * entry * VALUE_BYTES[record.type]
        yield Part(
            name,
            LAYOUT_NAMES[record.layout],
            (record.rows, record.columns),
            record.entries * entry,
            record.index_bytes + counts,
            values + scales + bias,
        )


def _unpack(blob: bytes, record: Record) -> LinearWeights:
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
