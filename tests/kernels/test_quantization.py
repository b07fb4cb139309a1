"""Int8 rows: no pair saturates, and no weight is wrong by more than half a step."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserve.kernels.quantization import MAX_MAGNITUDE, quantize_paired, quantize_unstructured
from tests.support.kernels.reference import repeatable

magnitudes = st.sampled_from([0.0, 1e-3, 0.25, 0.49, 0.5, 0.51, 1.0, 1.0, 127.0, 1e30, 1e-30])
rows_of_values = st.lists(
    st.lists(st.one_of(magnitudes, magnitudes.map(lambda x: -x), st.floats(-1, 1, width=32)), max_size=33),
    min_size=1,
    max_size=6,
)


def quantized_rows(quantize: Any, rows: Any) -> Any:
    counts = np.array([len(row) for row in rows], np.int64)
    values = np.array([value for row in rows for value in row], np.float32)
    ints, scales = quantize(values, counts)
    assert ints.dtype == np.int8
    assert scales.dtype == np.float32
    ends = np.cumsum(counts)
    return [
        (values[begin:end], ints[begin:end].astype(int), scale)
        for begin, end, scale in zip(ends - counts, ends, scales, strict=True)
    ]


@settings(repeatable, max_examples=100)
@given(rows=rows_of_values)
def test_quantize_paired_neighbours_within_pair_bound(rows: Any) -> None:
    for _, ints, _ in quantized_rows(quantize_paired, rows):
        pairs = np.abs(np.append(ints, [0] * (len(ints) % 2))).reshape(-1, 2)
        assert (pairs.sum(axis=1) <= 128).all()


@settings(repeatable, max_examples=100)
@given(rows=rows_of_values)
def test_quantize_unstructured_pairs_within_bound(rows: Any) -> None:
    for _, ints, _ in quantized_rows(quantize_unstructured, rows):
        ordered = np.sort(np.abs(ints))
        half = len(ordered) // 2
        assert (ordered[:half] + ordered[::-1][:half] <= 128).all()


@settings(repeatable, max_examples=100)
@given(rows=rows_of_values, quantize=st.sampled_from([quantize_paired, quantize_unstructured]))
def test_quantize_within_half_a_step_keeps_zeros_and_signs(rows: Any, quantize: Any) -> None:
    for values, ints, scale in quantized_rows(quantize, rows):
        assert scale > 0
        assert np.isfinite(scale)
        assert (np.abs(ints) <= MAX_MAGNITUDE).all()
        assert not ints[values == 0].any()
        assert (ints * values >= 0).all()
        assert (np.abs(values - ints * np.float64(scale)) <= 0.50001 * np.float64(scale)).all()


@pytest.mark.parametrize("quantize", [quantize_paired, quantize_unstructured])
def test_quantize_rows_have_separate_scales(quantize: Any) -> None:
    alone = [quantized_rows(quantize, [row])[0] for row in ([1.0, 0.01], [1e-6, 1e-8], [1e20, -3.0], [])]
    together = quantized_rows(quantize, [[1.0, 0.01], [1e-6, 1e-8], [1e20, -3.0], []])
    for (_, ints, scale), (_, expected_ints, expected_scale) in zip(together, alone, strict=True):
        assert np.array_equal(ints, expected_ints)
        assert scale == expected_scale


def test_quantize_one_large_weight_per_pair_keeps_eight_bits() -> None:
    row = [1.0, 1e-4] * 8
    for quantize in (quantize_paired, quantize_unstructured):
        ((_, ints, _),) = quantized_rows(quantize, [row])
        assert np.abs(ints).max() == 127


def test_quantize_equal_weights_use_seven_bits() -> None:
    ((_, ints, scale),) = quantized_rows(quantize_paired, [[1.0] * 8])
    assert np.array_equal(ints, np.full(8, 64)) or np.array_equal(ints, np.full(8, 63))
    assert abs(ints[0] * scale - 1) <= scale / 2
