"""SparseLinear against numpy in float64.

The measure everywhere: the largest absolute difference, as a fraction of the largest magnitude in the expected output.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserve.kernels.packing import PackOptions, Values, pack_linear
from sparserve.kernels.unpacking import parts, unpack_linear
from sparserve.kernels.weights import LinearWeights
from tests.support.kernels.cases import LAYOUTS, TOLERANCE
from tests.support.kernels.reference import (
    linear_reference,
    linear_session,
    quantized_activations,
    random_linear,
    relative_error,
    repeatable,
    run,
    supported_isas,
)

pytestmark = pytest.mark.usefixtures("sparse_runtime")


@pytest.mark.parametrize("values", ["fp32", "int8"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 13), (50, 36), (33, 300), (5, 2500)])
def test_linear_computes_with_unpacked_weights(isa: str, rows: int, columns: int, layout: Any, values: Values) -> None:
    """Unit vectors read the weights out: exactly as floats, and to float rounding where 1 is 255 steps of 1/255."""
    linear = random_linear(np.random.default_rng(rows), rows, columns, bias=False, **LAYOUTS[layout])
    blob = pack_linear(linear, PackOptions(values))
    unpacked = unpack_linear(blob).weight
    unit = np.eye(columns, dtype=np.float32)[:300]
    read = run(linear_session(blob, threads=2), x=unit)
    if values == "fp32":
        assert np.array_equal(read, unpacked.T[:300])
    else:
        assert np.allclose(read, unpacked.T[:300], rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_linear_computes_with_half_precision_weights(isa: str, layout: Any) -> None:
    generator = np.random.default_rng(0)
    half = generator.integers(0, 0x7C00, (30, 48), np.uint16) | generator.integers(0, 2, (30, 48), np.uint16) << 15
    half[0, :8] = 1, 0x3FF, 0x400, 0x7BFF, 0x8001, 0x83FF, 0x8400, 0xFBFF  # the ends of the subnormals and normals
    weight = half.view(np.float16).astype(np.float32)
    if layout != "dense":
        weight[:, 8:] *= np.repeat(generator.random((30, 10)) < 0.2, 4, axis=1)
    options = {"unstructured": PackOptions(block_fill=None), "1x4": PackOptions(block_fill=0.5)}
    blob = pack_linear(LinearWeights(weight), options.get(layout))
    (part,) = parts(blob)
    assert (part.layout, part.value_bytes) == (layout, 2 * part.values)
    assert np.array_equal(run(linear_session(blob), x=np.eye(48, dtype=np.float32)), weight.T)


@pytest.mark.parametrize(("values", "tolerance"), [("fp32", TOLERANCE), ("int8", 5e-3)])
def test_linear_widest_agrees_with_float64(isa: str, values: Values, tolerance: Any) -> None:
    generator = np.random.default_rng(0)
    for rows, columns in ((3, 65535), (65535, 3)):
        linear = random_linear(generator, rows, columns, 0.1)
        blob = pack_linear(linear, PackOptions(values))
        x = generator.standard_normal((9, columns)).astype(np.float32)
        seen = quantized_activations(x.astype(np.float64)) if values == "int8" else x.astype(np.float64)
        assert relative_error(run(linear_session(blob), x=x), linear_reference(unpack_linear(blob), seen)) < tolerance


def int8_bound(weight: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the tolerance of int8 outputs against exact ones, [tokens, rows].

    An activation is off by half a step of its token at most, weight = w_q * scale_w is what the runtime computes with:
    sum |w_q| * scale_w * scale_x / 2. On top, float32 rounds what is added up, which is no more than sum |weight| times
    the token's range (255 steps) twice over, the zero point's share and its correction, and the bias.
    """
    x = x.astype(np.float64)
    ranges = np.maximum(x.max(-1), 0) - np.minimum(x.min(-1), 0)
    size = np.outer(np.maximum(ranges, 1e-30), np.abs(weight.astype(np.float64)).sum(axis=1))
    return size / 255 / 2 + 1e-6 * (size + np.abs(bias)) + 1e-44


linear_cases = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 60),
        "columns": st.one_of(st.integers(1, 70), st.integers(200, 2200)),
        "layout": st.sampled_from(list(LAYOUTS)),
        "empty_rows": st.sampled_from([0.0, 0.4]),
        "tokens": st.integers(1, 90),
        "magnitude": st.sampled_from([1.0, 1e3, 1e-3, 1e15, 1e-30, 1e-41]),
        "gain": st.sampled_from([1.0, 1e3, 1e-3, 1e-40]),
        "shift": st.sampled_from([0.0, 3.0, -3.0]),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def make_linear_case(case: dict[str, Any]) -> tuple[LinearWeights, np.ndarray]:
    generator = np.random.default_rng(case["seed"])
    options = {**LAYOUTS[case["layout"]], "empty_rows": case["empty_rows"], "gain": case["gain"]}
    linear = random_linear(generator, case["rows"], case["columns"], **options)
    x = (generator.standard_normal((case["tokens"], case["columns"])) + case["shift"]) * case["magnitude"]
    return linear, x.astype(np.float32)


@settings(repeatable, max_examples=40)
@given(case=linear_cases)
def test_linear_int8_within_half_a_step_per_activation(isa: str, case: Any) -> None:
    linear, x = make_linear_case(case)
    blob = pack_linear(linear, PackOptions("int8"))
    unpacked = unpack_linear(blob)
    error = np.abs(run(linear_session(blob), x=x) - linear_reference(unpacked, x.astype(np.float64)))
    assert linear.bias is not None
    assert (error <= int8_bound(unpacked.weight, linear.bias, x)).all()


@settings(repeatable, max_examples=40)
@given(case=linear_cases)
def test_linear_float_agrees_with_float64(isa: str, case: Any) -> None:
    """Each output to float rounding of what is added up, down to the smallest denormal for every product."""
    linear, x = make_linear_case(case)
    assert linear.bias is not None
    size = np.abs(x.astype(np.float64)) @ np.abs(linear.weight.astype(np.float64)).T + np.abs(linear.bias)
    for threads in (1, 2):
        actual = run(linear_session(pack_linear(linear), threads=threads), x=x)
        error = np.abs(actual - linear_reference(linear, x.astype(np.float64)))
        assert (error <= TOLERANCE * size + case["columns"] * 1.5e-45).all()


@pytest.mark.parametrize("values", ["fp32", "int8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_linear_invariant_to_rows_and_threads(isa: str, layout: Any, values: Values) -> None:
    linear = random_linear(np.random.default_rng(0), 19, 44, **LAYOUTS[layout])
    blob = pack_linear(linear, PackOptions(values))
    x = np.random.default_rng(1).standard_normal((300, 44)).astype(np.float32)
    session = linear_session(blob)
    together = run(session, x=x)
    assert np.array_equal(run(linear_session(blob, threads=3), x=x), together)
    for begin, end in ((0, 1), (7, 8), (31, 48), (100, 299), (299, 300)):
        assert np.array_equal(run(session, x=x[begin:end]), together[begin:end])


@pytest.mark.parametrize("values", ["fp32", "int8"])
@pytest.mark.parametrize("shape", [(), (1,), (70,), (0,), (3, 5), (0, 5), (3, 0), (2, 3, 4), (2, 0, 4)])
def test_linear_any_leading_dimensions(isa: str, shape: Any, values: Values) -> None:
    linear = random_linear(np.random.default_rng(0), 19, 44, 0.2)
    blob = pack_linear(linear, PackOptions(values))
    x = np.random.default_rng(1).standard_normal((*shape, 44)).astype(np.float32)
    seen = x if values == "fp32" or x.size == 0 else quantized_activations(x.astype(np.float64))
    actual = run(linear_session(blob), x=x)
    assert actual.shape == (*shape, 19)
    assert np.allclose(actual, linear_reference(unpack_linear(blob), seen.astype(np.float64)), rtol=0, atol=2e-2)


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_linear_without_weights_returns_bias(isa: str, values: Values) -> None:
    bias = np.arange(9, dtype=np.float32)
    linear = LinearWeights(np.zeros((9, 30), np.float32), bias)
    answer = run(linear_session(pack_linear(linear, PackOptions(values))), x=np.ones((5, 30), np.float32))
    assert np.array_equal(answer, np.broadcast_to(bias, (5, 9)))


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_linear_zero_activation_returns_bias(isa: str, values: Values) -> None:
    linear = random_linear(np.random.default_rng(0), 9, 30, 1.0)
    answer = run(linear_session(pack_linear(linear, PackOptions(values))), x=np.zeros((5, 30), np.float32))
    assert linear.bias is not None
    assert np.array_equal(answer, np.broadcast_to(linear.bias, (5, 9)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_linear_isas_multiply_same_integers(monkeypatch: pytest.MonkeyPatch, layout: Any) -> None:
    """Activations of 0 and 255 times the largest weights that a pair may have: where 16-bit sums would saturate."""
    generator = np.random.default_rng(0)
    weight = generator.choice([-1.0, 1.0], (20, 64)).astype(np.float32)
    weight[:, ::2] *= generator.choice([1.0, 1e-3], (20, 32)).astype(np.float32)
    if layout == "unstructured":
        weight[:, generator.random(64) < 0.6] = 0
    options = {"dense": PackOptions("int8", dense_above=0), "1x4": PackOptions("int8", None, 0.0)}
    blob = pack_linear(LinearWeights(weight), options.get(layout, PackOptions("int8", None, None)))
    assert [part.layout for part in parts(blob)] == [layout]
    x = np.concatenate([np.ones((3, 64)), generator.choice([0.0, 1.0], (60, 64))]).astype(np.float32)
    expected = linear_reference(unpack_linear(blob), x.astype(np.float64))
    for name in supported_isas():
        monkeypatch.setenv("SPARSERVE_ISA", name)
        assert relative_error(run(linear_session(blob), x=x), expected) < 1e-6, name


@pytest.mark.parametrize("values", ["fp32", "int8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_linear_bad_activation_spoils_its_token_only(isa: str, layout: Any, values: Values) -> None:
    linear = random_linear(np.random.default_rng(0), 9, 32, **LAYOUTS[layout])
    x = np.random.default_rng(1).standard_normal((3, 40, 32)).astype(np.float32)
    column = np.flatnonzero(linear.weight.any(axis=0))[0]
    x[range(3), [0, 17, 39], column] = np.nan, np.inf, -np.inf
    answer = run(linear_session(pack_linear(linear, PackOptions(values))), x=x)
    reads = linear.weight[:, column] != 0 if values == "fp32" else np.ones(9, bool)
    for row, token in enumerate((0, 17, 39)):
        assert not np.isfinite(answer[row, token][reads]).any()
        assert np.isfinite(np.delete(answer[row], token, axis=0)).all()
