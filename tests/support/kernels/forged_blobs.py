"""Forged packed weights with the text of their refusal, and the good blobs that they are made from."""

import struct
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from sparserve.kernels.packed_format import BITMAP, GAPS, HEADER, LINEAR, RECORD, VECTOR, Record
from sparserve.kernels.packing import PackOptions, pack_encoder, pack_linear
from sparserve.kernels.weights import LinearWeights
from tests.support.kernels.blob_seeds import mended, tiny_encoder, tiny_modern_encoder, tiny_relative_encoder
from tests.support.kernels.reference import random_linear

HEADER_FIELDS: tuple[Any, ...] = (
    "magic", "version", "kind", "size", "checksum", "reserved0", "records", "layers", "hidden", "head_size",
    "activation", "epsilon", "flags", "positions",
)  # fmt: skip
RECORD_FIELDS = tuple(field.name for field in fields(Record))
SCATTERED = PackOptions(dense_above=None, block_fill=None)
SCATTERED_INT8 = PackOptions("int8", dense_above=None, block_fill=None)


def header_of(blob: bytes) -> dict[str, Any]:
    return dict(zip(HEADER_FIELDS, HEADER.unpack_from(blob), strict=True))


def record_of(blob: bytes, index: int = 0) -> dict[str, Any]:
    return dict(zip(RECORD_FIELDS, RECORD.unpack_from(blob, HEADER.size + RECORD.size * index), strict=True))


@dataclass
class Forgery:
    """A blob with some fields and bytes changed and its size and checksum corrected."""

    blob: bytes
    header: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    index: int = 0  # of that record
    sections: dict[str, Any] = field(default_factory=dict)  # of that record: what they begin with instead
    appended: bytes = b""

    def __call__(self) -> bytes:
        forged = bytearray(self.blob)
        original = record_of(self.blob, self.index)
        for name, data in self.sections.items():
            forged[original[name] : original[name] + len(data)] = data
        forged[: HEADER.size] = HEADER.pack(*(header_of(self.blob) | self.header).values())
        at = HEADER.size + RECORD.size * self.index
        forged[at : at + RECORD.size] = RECORD.pack(*(original | self.record).values())
        return mended(bytes(forged + self.appended))


def spread(rows: int, columns: int, *places: tuple[int, int]) -> LinearWeights:
    """Return a matrix of zeros with ones at the given places [row, column]."""
    weight = np.zeros((rows, columns), np.float32)
    weight[tuple(np.transpose(places))] = 1
    return LinearWeights(weight, np.zeros(rows, np.float32))


GAPPED = pack_linear(spread(3, 40, (0, 5), (1, 39), (2, 0)), SCATTERED)
MAPPED = pack_linear(spread(2, 12, (0, 1), (0, 3), (0, 5), (1, 0), (1, 2), (1, 4)), SCATTERED)
MANY = random_linear(np.random.default_rng(0), 6, 20, 0.9)
FLOATS = pack_linear(random_linear(np.random.default_rng(0), 6, 20, 0.3), SCATTERED)
HALVES = pack_linear(spread(4, 8, (1, 2)), SCATTERED)
INTS = pack_linear(MANY, SCATTERED_INT8)
BLOCK_INTS = pack_linear(MANY, PackOptions("int8", dense_above=None, block_fill=0.1))
DENSE_INTS = pack_linear(MANY, PackOptions("int8", dense_above=0.1))
DENSE = pack_linear(MANY, PackOptions(dense_above=0.1))
ENCODER_BLOB = pack_encoder(tiny_encoder(), SCATTERED)
TWO_LAYERS = pack_encoder(tiny_encoder(layers=2, densities=(1.0,)))
MODERN = pack_encoder(tiny_modern_encoder(), SCATTERED)
GATE, POSITIONS, SHARED = 10, 11, 24  # indexes of records
RELATIVE = pack_encoder(tiny_relative_encoder(), SCATTERED)
TABLE, ROWS = 14, 15

GOOD: dict[str, Any] = {
    "gapped": GAPPED, "mapped": MAPPED, "floats": FLOATS, "halves": HALVES, "ints": INTS, "block ints": BLOCK_INTS,
    "dense ints": DENSE_INTS, "dense": DENSE, "encoder": ENCODER_BLOB, "two layers": TWO_LAYERS,
    "modern": MODERN, "relative": RELATIVE,
}  # fmt: skip

assert record_of(GAPPED)["coding"] == GAPS
assert record_of(MAPPED)["coding"] == BITMAP

WHOLE: dict[str, Any] = {
    "nothing at all": (b"", "shorter than a header"),
    "less than a header": (FLOATS[: HEADER.size - 1], "shorter than a header"),
    "cut": (FLOATS[:-1], rf"the header says {len(FLOATS)} bytes, but there are {len(FLOATS) - 1}"),
    "too long": (FLOATS + b"\0", r"the header says \d+ bytes, but there are"),
    "one bit flipped": (FLOATS[:-9] + bytes([FLOATS[-9] ^ 4]) + FLOATS[-8:], "the checksum is wrong"),
    "zeros": (bytes(1000), "bad magic"),
    "ones": (b"\xff" * 1000, "bad magic"),
}
HEADERS: dict[str, Any] = {
    "another magic": (Forgery(FLOATS, {"magic": b"SPARSRV\x02"}), "bad magic"),
    "another format": (Forgery(FLOATS, {"magic": b"\x08\0\0\0ONNX"}), "bad magic"),
    "version 0": (Forgery(FLOATS, {"version": 0}), "format version 0 is unknown; this library reads versions 1 to 2"),
    "a later version": (
        Forgery(FLOATS, {"version": 3}),
        "format version 3 is unknown; this library reads versions 1 to 2",
    ),
    "no kind": (Forgery(FLOATS, {"kind": 0}), "unknown kind"),
    "a later kind": (Forgery(FLOATS, {"kind": 3}), "unknown kind"),
    "first reserved field": (Forgery(FLOATS, {"reserved0": 1}), "unknown header fields are set"),
    "flags in version 1": (Forgery(ENCODER_BLOB, {"flags": 1}), "unknown header fields are set"),
    "positions in version 1": (Forgery(ENCODER_BLOB, {"positions": 1 << 31}), "unknown header fields are set"),
    "a later flag": (Forgery(MODERN, {"flags": 3}), "unknown header fields are set"),
    "version 2 with the records of 1": (Forgery(ENCODER_BLOB, {"version": 2}), "number of records is wrong"),
    "version 1 with the records of 2": (
        Forgery(MODERN, {"version": 1, "flags": 0, "positions": 0}),
        "number of records is wrong",
    ),
    "post-norm without a norm": (Forgery(MODERN, {"flags": 0}), "attention norm weight is not a vector of 8 floats"),
    "rotary positions without number": (Forgery(MODERN, {"positions": 0}), "rotary positions need a number"),
    "relative positions without number": (Forgery(RELATIVE, {"positions": 0}), "relative positions need a number"),
    "fewer rows than distances": (
        Forgery(RELATIVE, {"positions": 7}),
        "relative positions: the rows is not a vector of 13 floats",
    ),
    "too many positions": (Forgery(MODERN, {"positions": (1 << 20) + 1}), "number of positions is out of range"),
    "SiLU in version 1": (Forgery(ENCODER_BLOB, {"activation": 4}), "unknown activation"),
    "a later activation": (Forgery(MODERN, {"activation": 5}), "unknown activation"),
    "no layers": (Forgery(ENCODER_BLOB, {"layers": 0, "records": 0}), "number of layers is out of range"),
    "too many layers": (Forgery(ENCODER_BLOB, {"layers": 257, "records": 2570}), "number of layers is out of range"),
    "layers that overflow": (Forgery(ENCODER_BLOB, {"layers": 0xFFFFFFFF}), "number of layers is out of range"),
    "more layers than records": (Forgery(ENCODER_BLOB, {"layers": 2}), "number of records is wrong"),
    "two records of a linear": (Forgery(FLOATS, {"records": 2}), "number of records is wrong"),
    "no records": (Forgery(FLOATS, {"records": 0}), "number of records is wrong"),
    "records beyond the end": (Forgery(ENCODER_BLOB, {"layers": 256, "records": 2560}), "record table lies outside"),
    "hidden size 0": (Forgery(ENCODER_BLOB, {"hidden": 0}), "hidden size is out of range"),
    "hidden size 65536": (Forgery(ENCODER_BLOB, {"hidden": 65536}), "hidden size is out of range"),
    "another hidden size": (Forgery(ENCODER_BLOB, {"hidden": 9}), r"query has the shape \[8, 8\], not \[8, 9\]"),
    "head size 0": (Forgery(ENCODER_BLOB, {"head_size": 0}), "head size is out of range"),
    "head size 65536": (Forgery(ENCODER_BLOB, {"head_size": 65536}), "head size is out of range"),
    "head size that does not divide": (Forgery(ENCODER_BLOB, {"head_size": 3}), "not a multiple of the head size"),
    "head size above the width": (Forgery(ENCODER_BLOB, {"head_size": 16}), "not a multiple of the head size"),
    "epsilon NaN": (Forgery(ENCODER_BLOB, {"epsilon": np.nan}), "epsilon is out of range"),
    "epsilon negative": (Forgery(ENCODER_BLOB, {"epsilon": -1e-12}), "epsilon is out of range"),
    "epsilon infinite": (Forgery(ENCODER_BLOB, {"epsilon": np.inf}), "epsilon is out of range"),
}
HUGE: dict[str, Any] = {"rows": 65535, "columns": 65535}
SHAPES: dict[str, Any] = {
    "no rows": (Forgery(FLOATS, record={"rows": 0}), "shape is out of range"),
    "no columns": (Forgery(FLOATS, record={"columns": 0}), "shape is out of range"),
    "65536 rows": (Forgery(FLOATS, record={"rows": 65536}), "shape is out of range"),
    "2^32 - 1 columns": (Forgery(FLOATS, record={"columns": 0xFFFFFFFF}), "shape is out of range"),
    "huge and dense": (Forgery(DENSE, record={**HUGE, "entries": 65535**2}), "the values lies outside"),
    "huge and dense int8": (Forgery(DENSE_INTS, record={**HUGE, "entries": 65535**2}), "the values lies outside"),
    "huge and dense without entries": (Forgery(DENSE, record=HUGE), "dense matrix must hold every value"),
    "huge and scattered": (Forgery(FLOATS, record=HUGE), "the row counts lies outside"),
    "2^63 entries": (Forgery(FLOATS, record={"entries": 1 << 63}), "more entries than the matrix has places"),
    "2^62 entries of 4 bytes": (Forgery(DENSE, record={"entries": 1 << 62}), "more entries than the matrix has places"),
    "2^64 - 1 entries": (Forgery(BLOCK_INTS, record={"entries": 2**64 - 1}), "more entries than the matrix has places"),
    "one entry too many": (Forgery(FLOATS, record={"entries": 121}), "more entries than the matrix has places"),
    "blocks that do not divide": (Forgery(BLOCK_INTS, record={"columns": 18}), "columns are not a multiple of four"),
    "another width": (Forgery(ENCODER_BLOB, record={"rows": 4, "entries": 0}), "row counts do not add up"),
    "a vector": (Forgery(FLOATS, record={"layout": VECTOR}), "linear is not a matrix"),
    "a later layout": (Forgery(FLOATS, record={"layout": 4}), "linear is not a matrix"),
    "a later value type": (Forgery(FLOATS, record={"type": 3}), "unknown field values"),
    "two biases": (Forgery(FLOATS, record={"has_bias": 2}), "unknown field values"),
    "window of a matrix": (Forgery(FLOATS, record={"window": 1}), "unknown field values"),
    "window out of range": (
        Forgery(MODERN, record={"window": (1 << 30) + 1}, index=POSITIONS),
        "window is out of range",
    ),
    "frequencies of another length": (
        Forgery(MODERN, record={"rows": 1, "entries": 1}, index=POSITIONS),
        "layer 0, positions is not a vector of 2 floats",
    ),
    "nothing with a shape": (Forgery(MODERN, record={"rows": 1}, index=6), "attention norm weight: unknown field"),
    "nothing with a bias": (Forgery(MODERN, record=record_of(MODERN, 8), index=7), "norm: a bias without a weight"),
    "gate of another shape": (
        Forgery(MODERN, record=record_of(MODERN, 0), index=GATE),
        r"gate has the shape \[8, 8\], not \[12, 8\]",
    ),
    "relative positions in int8": (
        Forgery(RELATIVE, record=record_of(RELATIVE, 0), index=TABLE),
        "relative positions: the table must be dense floats",
    ),
    "a query that is nothing": (Forgery(MODERN, record={"layout": 4}), "query is not a matrix"),
    "final norm of another length": (
        Forgery(MODERN, record={"rows": 7, "entries": 7}, index=SHARED),
        "final norm weight is not a vector of 8 floats",
    ),
    "last reserved field": (Forgery(FLOATS, record={"reserved1": 1}), "unknown field values"),
    "norm of another type": (
        Forgery(ENCODER_BLOB, record={"type": 1}, index=6),
        "attention norm weight is not a vector of 8 floats",
    ),
    "norm of another length": (
        Forgery(ENCODER_BLOB, record={"rows": 7, "entries": 7}, index=9),
        "output norm bias is not a vector of 8 floats",
    ),
    "norm that is a matrix": (
        Forgery(ENCODER_BLOB, record={"layout": 0}, index=8),
        "output norm weight is not a vector of 8 floats",
    ),
}
OFFSETS: dict[str, Any] = {
    f"{name} {where}": (Forgery(blob, record={name: offset}), f"the {what} lies outside the blob")
    for blob, name, what in (
        (FLOATS, "counts", "row counts"),
        (FLOATS, "index", "column indexes"),
        (FLOATS, "values", "values"),
        (FLOATS, "bias", "bias"),
        (INTS, "scales", "scales"),
        (DENSE_INTS, "values", "values"),
    )
    for where, offset in (
        ("in the header", 8),
        ("at the last byte", len(blob) - 1),
        ("beyond the end", len(blob) + 1),
        ("at 2^63", 1 << 63),
        ("at 2^64 - 1", 2**64 - 1),
    )
}
INDEXES: dict[str, Any] = {
    "counts that do not add up": (
        Forgery(FLOATS, sections={"counts": b"\0\0"}),
        "row counts do not add up to the entries",
    ),
    "entries that do not add up": (Forgery(GAPPED, record={"entries": 2}), "row counts do not add up to the entries"),
    "count above the row": (Forgery(FLOATS, sections={"counts": b"\xff\xff"}), "row count is larger than the row"),
    "unknown coding": (Forgery(FLOATS, record={"coding": 3}), "unknown index coding"),
    "no coding": (Forgery(FLOATS, record={"coding": 0}), "unknown index coding"),
    "dense with coding": (Forgery(DENSE, record={"coding": BITMAP}), "dense matrix must hold every value"),
    "gap above the row": (Forgery(GAPPED, sections={"index": b"\x28"}), "column index is out of range"),
    "gaps without end": (Forgery(GAPPED, sections={"index": b"\xff\xff\xff"}), "column index is out of range"),
    "gaps cut": (Forgery(GAPPED, record={"index_bytes": 2}), "column indexes end early"),
    "gaps left over": (Forgery(GAPPED, record={"index_bytes": 4}), "bytes are left over after the column indexes"),
    "index of 2^64 - 1 bytes": (Forgery(GAPPED, record={"index_bytes": 2**64 - 1}), "column indexes lies outside"),
    "bitmap cut": (Forgery(MAPPED, record={"index_bytes": 3}), "bitmap has the wrong size"),
    "bit beyond the row": (Forgery(MAPPED, sections={"index": b"\x0a\x80"}), "bitmap disagrees with the row counts"),
    "bit too many": (Forgery(MAPPED, sections={"index": b"\x2e"}), "bitmap disagrees with the row counts"),
    "bit too few": (Forgery(MAPPED, sections={"index": b"\x0a"}), "bitmap disagrees with the row counts"),
}
LATER = struct.pack("<f", 99.0)
FULL = bytes([127, 127])
NAN, INFINITE = struct.pack("<f", np.nan), struct.pack("<f", -np.inf)
VALUES: dict[str, Any] = {
    "value NaN": (Forgery(FLOATS, sections={"values": NAN}), "the values holds a value that is not finite"),
    "value infinite": (Forgery(DENSE, sections={"values": INFINITE}), "the values holds a value that is not finite"),
    "half infinite": (Forgery(HALVES, sections={"values": b"\x00\xfc"}), "the values holds a value that is not finite"),
    "half NaN": (Forgery(HALVES, sections={"values": b"\x01\x7c"}), "the values holds a value that is not finite"),
    "scale NaN": (Forgery(INTS, sections={"scales": NAN}), "the scales holds a value that is not finite"),
    "scale infinite": (Forgery(DENSE_INTS, sections={"scales": INFINITE}), "the scales holds a value that is not"),
    "bias infinite": (Forgery(FLOATS, sections={"bias": INFINITE}), "the bias holds a value that is not finite"),
    "norm NaN": (
        Forgery(ENCODER_BLOB, index=7, sections={"values": NAN}),
        "attention norm bias holds a value that is not finite",
    ),
    "row beyond the relative positions": (
        Forgery(RELATIVE, index=ROWS, sections={"values": LATER}),
        "relative positions: a row is out of range",
    ),
    "pair in a block": (Forgery(BLOCK_INTS, sections={"values": FULL}), "weights of row 0 exceed the pair bound"),
    "pair in a dense row": (Forgery(DENSE_INTS, sections={"values": FULL}), "weights of row 0 exceed the pair bound"),
    "pair of the least weights": (
        Forgery(DENSE_INTS, sections={"values": bytes(2) + b"\x80\x80"}),
        "weights of row 0 exceed the pair bound",
    ),
}
REFUSED: dict[str, Any] = {
    f"{group}: {name}": case
    for group, cases in (
        ("whole", WHOLE), ("header", HEADERS), ("shape", SHAPES), ("offset", OFFSETS), ("index", INDEXES),
        ("value", VALUES),
    )
    for name, case in cases.items()
}  # fmt: skip


def kind_of(blob: bytes) -> int:
    return header_of(blob)["kind"] if len(blob) >= HEADER.size else LINEAR
