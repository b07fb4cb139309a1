"""Fields and tables of the packed format (docs/reference/packed-format.md); csrc/packed/blob.cpp reads the same."""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from sparserve.kernels.weights import Activation

FORMAT_VERSION: Final = 2  # the newest; encoders that version 1 can describe are written as version 1
MAGIC: Final = b"SPARSRV\x01"
HEADER: Final = struct.Struct("<8sIIQIIIIIIIfII")
RECORD: Final = struct.Struct("<BBBBIIIQQQQQQQQ")
CHECKSUMMED_FROM: Final = 32
ENCODER, LINEAR = 1, 2
ACTIVATIONS: Final[tuple[Activation, ...]] = ("none", "gelu", "gelu_tanh", "relu", "silu")  # silu since version 2
DENSE, UNSTRUCTURED, BLOCK, VECTOR, NOTHING = 0, 1, 2, 3, 4
FLOAT32, FLOAT16, INT8 = 0, 1, 2
NO_INDEX, BITMAP, GAPS = 0, 1, 2
BLOCK_WIDTH: Final = 4
MAX_WIDTH: Final = 65535
MAX_LAYERS: Final = 256
MAX_PLACES: Final = 2**32  # rows times columns of all matrices
MAX_EPSILON: Final = 1.0
MAX_POSITIONS: Final = 1 << 20
MAX_ANGLES: Final = 1 << 25  # positions times rotary frequencies of all layers
MAX_DISTANCES: Final = 1 << 27  # values of all tables of relative positions
MAX_BAND: Final = (1 << 30) - 1
PRE_NORM: Final = 1  # a flag
LAYOUT_NAMES: Final = {DENSE: "dense", UNSTRUCTURED: "unstructured", BLOCK: "1x4", VECTOR: "vector", NOTHING: "nothing"}

LAYER_RECORDS: Final = (
    "query", "key", "value", "attention_output", "intermediate", "output",
    "attention_norm.weight", "attention_norm.bias", "output_norm.weight", "output_norm.bias",
)  # fmt: skip
ADDED_LAYER_RECORDS: Final = ("gate", "positions")  # since version 2
ENCODER_RECORDS: Final = ("final_norm.weight", "final_norm.bias", "relative.table", "relative.rows")  # likewise
RECORDS_PER_LAYER: Final = {1: len(LAYER_RECORDS), 2: len(LAYER_RECORDS) + len(ADDED_LAYER_RECORDS)}
VALUE_BYTES: Final = {FLOAT32: 4, FLOAT16: 2, INT8: 1}


class PackingError(ValueError):
    """Weights that cannot be packed, or bytes that are not packed weights."""


@dataclass(frozen=True)
class Header:
    """The blob's header: its version and kind, and the encoder's sizes and settings."""

    version: int
    kind: int
    layers: int
    head_size: int
    activation: int
    epsilon: float
    flags: int
    positions: int

    @property
    def names(self) -> list[str]:
        """Names of the records, in their order."""
        if self.kind == LINEAR:
            return ["linear"]
        own = LAYER_RECORDS if self.version == 1 else (*LAYER_RECORDS, *ADDED_LAYER_RECORDS)
        shared = () if self.version == 1 else ENCODER_RECORDS
        return [*(f"layer.{layer}.{name}" for layer in range(self.layers) for name in own), *shared]


@dataclass(frozen=True)
class Record:
    """One stored tensor: its storage and the byte offsets of its parts."""

    layout: int
    type: int
    coding: int
    has_bias: int
    rows: int
    columns: int
    window: int
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
    fields = HEADER.unpack_from(blob)
    _, version, found, size, checksum, _, count, layers, _, head_size, activation, epsilon, flags, positions = fields
    if not 1 <= version <= FORMAT_VERSION:
        raise PackingError(f"packed format version {version} is unknown; this program reads 1 to {FORMAT_VERSION}")
    if size != len(blob) or checksum != zlib.crc32(blob[CHECKSUMMED_FROM:]):
        raise PackingError("the packed weights are damaged: wrong size or checksum")
    if kind is not None and found != kind:
        raise PackingError("these packed weights are of the other kind (encoder or linear)")
    table = blob[HEADER.size : HEADER.size + RECORD.size * count]
    header = Header(version, found, layers, head_size, activation, epsilon, flags, positions)
    if layers > MAX_LAYERS or len(table) != RECORD.size * count or count != len(header.names):
        raise PackingError("the packed weights are malformed: the table of records is incomplete")
    records = [Record(*fields) for fields in RECORD.iter_unpack(table)]
    if any(record.layout not in LAYOUT_NAMES or record.type not in VALUE_BYTES for record in records):
        raise PackingError("the packed weights are malformed: unknown layout or value type")
    stored = [record for record in records if record.layout != NOTHING]
    if any(not 0 < size <= MAX_WIDTH for record in stored for size in (record.rows, record.columns)):
        raise PackingError("the packed weights are malformed: a shape is out of range")
    return header, records
