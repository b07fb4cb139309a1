"""Column indexes of nonzeros: per matrix a bitmap or one byte per gap, whichever is smaller."""

import numpy as np
import numpy.typing as npt

from sparserve.kernels.packed_format import BITMAP, GAPS


def encode_index(mask: npt.NDArray[np.bool_]) -> tuple[int, bytes]:
    """Encode the true entries of `mask` [rows, slots]; return the smaller coding and its bytes.

    A bitmap has one bit per slot; rows are padded to whole bytes. Gaps have one byte per entry: the number of slots
    between it and the previous entry of its row. A byte of 255 means 255 slots more and is followed by another byte.
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
    """Return the mask [rows, slots] that `encode_index` encoded."""
    if coding == BITMAP:
        packed = np.frombuffer(data, np.uint8).reshape(len(counts), -1)
        return np.unpackbits(packed, axis=1, count=slots, bitorder="little").astype(bool)
    coded = np.frombuffer(data, np.uint8).astype(np.int64)
    ends = np.flatnonzero(coded != 255)
    sums = np.concatenate(([0], np.cumsum(coded)))
    gaps = np.diff(sums[ends + 1], prepend=0)
    rows = np.repeat(np.arange(len(counts)), counts)
    # Slots are counted through all rows: subtract those before each row's first entry.
    running = np.cumsum(gaps + 1)
    begins = np.cumsum(counts) - counts
    before = np.concatenate(([0], running))[begins]
    mask = np.zeros((len(counts), slots), dtype=bool)
    mask[rows, running - before[rows] - 1] = True
    return mask
