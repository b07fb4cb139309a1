"""Column indexes in the smaller of two codings."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from sparserve.kernels.column_index import decode_index, encode_index
from sparserve.kernels.packed_format import BITMAP, GAPS
from sparserve.kernels.packing import pack_linear
from sparserve.kernels.unpacking import unpack_linear
from sparserve.kernels.weights import LinearWeights
from tests.support.kernels.cases import matrices
from tests.support.kernels.reference import repeatable


def python_gaps(mask: np.ndarray) -> bytes:
    coded = []
    for row in mask:
        next_slot = 0
        for slot in np.flatnonzero(row):
            gap = int(slot) - next_slot
            coded += [255] * (gap // 255) + [gap % 255]
            next_slot = int(slot) + 1
    return bytes(coded)


@settings(repeatable, max_examples=120)
@given(weight=matrices)
def test_column_index_uses_smaller_of_bitmap_and_gaps(weight: Any) -> None:
    mask = weight != 0
    coding, data = encode_index(mask)
    gaps, bitmap_bytes = python_gaps(mask), len(mask) * -(-mask.shape[1] // 8)
    assert len(data) == min(len(gaps), bitmap_bytes)
    assert coding == (GAPS if len(gaps) <= bitmap_bytes else BITMAP)
    if coding == GAPS:
        assert data == gaps
    assert np.array_equal(decode_index(coding, data, mask.sum(axis=1, dtype=np.int64), mask.shape[1]), mask)


@pytest.mark.parametrize("gap", [253, 254, 255, 256, 509, 510, 511, 765, 3000])
def test_column_index_gaps_around_multiples_of_255(gap: int) -> None:
    weight = np.zeros((3, 2 * gap + 4), np.float32)
    weight[0, [0, gap + 1, 2 * gap + 2]] = 1, 2, 3
    weight[2, [gap, 2 * gap + 1]] = 4, 5
    mask = weight != 0
    assert encode_index(mask) == (GAPS, python_gaps(mask))
    assert np.array_equal(unpack_linear(pack_linear(LinearWeights(weight))).weight, weight)
