"""Fields and tables of the packed format (docs/reference/packed-format.md); csrc/packed/blob.cpp reads the same."""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from sparserve.kernels.weights import Activation

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
LAYOUT_NAMES: Final = {DENSE: "dense", UNSTRUCTURED: "unstructured", BLOCK: "1x4", VECTOR: "vector"}

LAYER_RECORDS: Final = (
    "query", "key", "value", "attention_output", "intermediate", "output",
    "attention_norm.weight", "attention_norm.bias", "output_norm.weight", "output_norm.bias",
)  # fmt: skip
RECORDS_PER_LAYER: Final = len(LAYER_RECORDS)
VALUE_BYTES: Final = {FLOAT32: 4, FLOAT16: 2, INT8: 1}


class PackingError(ValueError):
    """Weights that cannot be packed, or bytes that are not packed weights."""


@dataclass(frozen=True)
class Header:
    """The blob's header: its kind, and the encoder's head size, activation and LayerNorm epsilon."""

    kind: int
    head_size: int
    activation: int
    epsilon: float


@dataclass(frozen=True)
class Record:
    """One stored tensor: its storage and the byte offsets of its parts."""

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


def read_records(blob: bytes, kind: int | None) -> tuple[Header, list[Record]]:
    """Read the header and the table of records; `kind` is the required kind, or None for any.

    Raises:
        PackingError: the bytes are not packed weights, are of another version or kind, damaged or malformed.
    """
    if len(blob) < HEADER.size or blob[: len(MAGIC)] != MAGIC:
        raise PackingError("these bytes are not packed weights")
    _, version, found, size, checksum, _, count, _, _, head_size, activation, epsilon, _ = HEADER.unpack_from(blob)
    if version != FORMAT_VERSION:
        raise PackingError(f"packed format version {version} is unknown; this is version {FORMAT_VERSION}")
    if size != len(blob) or checksum != zlib.crc32(blob[CHECKSUMMED_FROM:]):
        raise PackingError("the packed weights are damaged: wrong size or checksum")
    if kind is not None and found != kind:
        raise PackingError("these packed weights are of the other kind (encoder or linear)")
    table = blob[HEADER.size : HEADER.size + RECORD.size * count]
    if count == 0 or len(table) != RECORD.size * count or (found == ENCODER and count % RECORDS_PER_LAYER):
        raise PackingError("the packed weights are malformed: the table of records is incomplete")
    records = [Record(*fields) for fields in RECORD.iter_unpack(table)]
    if any(record.layout not in LAYOUT_NAMES or record.type not in VALUE_BYTES for record in records):
        raise PackingError("the packed weights are malformed: unknown layout or value type")
    if any(not 0 < size <= MAX_WIDTH for record in records for size in (record.rows, record.columns)):
        raise PackingError("the packed weights are malformed: a shape is out of range")
    return Header(found, head_size, activation, epsilon), records
