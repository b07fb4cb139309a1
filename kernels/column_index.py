"""Where a row's nonzeros are: a bitmap, or a byte for the gap before each, whichever is smaller."""

import numpy as np
import numpy.typing as npt

from sparserve.kernels.packed_format import BITMAP, GAPS


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
