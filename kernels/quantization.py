"""Int8 weights with one scale per row, on which no instruction set saturates.

AVX2 and AVX-512 without VNNI multiply unsigned activations a by signed weights w and add two products in 16 bits:
a0 w0 + a1 w1 with a <= 255 fits when |w0| + |w1| <= 128. Seven-bit weights always fit. Each row uses as many of
the eight bits as its pairs allow. Pairs are neighbours in dense and 1x4 matrices; in unstructured matrices, whose
weights may be multiplied in any order, the largest is paired with the smallest. All machines compute the same integers.
"""

import numpy as np
import numpy.typing as npt

from sparserve.kernels.weights import Floats

Doubles = npt.NDArray[np.float64]

MAX_MAGNITUDE = 127
MAX_PAIR = 127  # largest sum of two magnitudes before rounding; rounding may add one, and 128 still fits


def quantize_unstructured(values: Floats, counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int8], Floats]:
    """Quantize nonzeros given row by row, `counts` [rows] per row, to int8 values in that order and scales [rows]."""
    rows = np.repeat(np.arange(len(counts)), counts)
    magnitudes = np.abs(values).astype(np.float64)  # the sum of two must not overflow
    order = np.lexsort((magnitudes, rows))
    # Sorted within each row; the partner of the i-th smallest is the i-th largest (the middle one has zero).
    begins = np.cumsum(counts) - counts
    within = np.arange(len(values)) - np.repeat(begins, counts)
    size = np.repeat(counts, counts)
    partner = np.repeat(begins, counts) + size - 1 - within
    ranked = magnitudes[order]
    sums = ranked + np.where(partner == np.arange(len(values)), 0.0, ranked[partner])
    return _round(values, rows, _row_max(magnitudes, rows, len(counts)), _row_max(sums, np.sort(rows), len(counts)))


def quantize_paired(values: Floats, counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int8], Floats]:
    """Quantize like `quantize_unstructured` a matrix in which values 2i and 2i + 1 of a row form a pair."""
    rows = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    magnitudes = np.abs(values).astype(np.float64)
    sums = magnitudes.copy()
    second = np.flatnonzero(within % 2 == 1)
    sums[second] += magnitudes[second - 1]
    return _round(values, rows, _row_max(magnitudes, rows, len(counts)), _row_max(sums, rows, len(counts)))


def _row_max(values: Doubles, rows: npt.NDArray[np.int64], count: int) -> Doubles:
    result = np.zeros(count, np.float64)
    np.maximum.at(result, rows, values)
    return result


def _round(
    values: Floats, rows: npt.NDArray[np.int64], largest: Doubles, largest_pair: Doubles
) -> tuple[npt.NDArray[np.int8], Floats]:
    exact = np.maximum(largest / MAX_MAGNITUDE, largest_pair / MAX_PAIR)
    # A scale that underflows would turn its row into infinities.
    scales = np.where(exact >= np.finfo(np.float32).tiny, exact, 1.0).astype(np.float32)
    return np.rint(values / scales[rows]).astype(np.int8), scales
