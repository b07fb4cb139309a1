"""Packing round trips and sizes; weights that do not fit are refused by name."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserve.kernels.packed_format import PackingError
from sparserve.kernels.packing import PackOptions, Values, pack_encoder, pack_linear
from sparserve.kernels.quantization import quantize_paired, quantize_unstructured
from sparserve.kernels.unpacking import parts, unpack_encoder, unpack_linear
from sparserve.kernels.weights import Activation, EncoderWeights, LinearWeights, NormWeights
from tests.support.kernels.cases import assert_equal_linears, matrices
from tests.support.kernels.reference import MATRICES, random_encoder, random_linear, repeatable

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
LAYOUTS: dict[str, Any] = {
    "dense": PackOptions(dense_above=-1.0),
    "unstructured": PackOptions(dense_above=None, block_fill=None),
    "1x4": PackOptions(dense_above=None, block_fill=0.0),
}


def with_layout(name: str, values: Values) -> PackOptions:
    return dataclasses.replace(LAYOUTS[name], values=values)


def stored_int8(weight: np.ndarray, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the int8 weights [rows, columns] and scales [rows] of a matrix from the quantizer itself."""
    if layout == "dense":
        kept = np.ones(weight.shape, bool)
    elif layout == "1x4":
        kept = np.repeat(weight.reshape(len(weight), -1, 4).any(axis=2), 4, axis=1)
    else:
        kept = weight != 0
    quantize = quantize_unstructured if layout == "unstructured" else quantize_paired
    ints, scales = quantize(weight[kept], kept.sum(axis=1, dtype=np.int64))
    matrix = np.zeros(weight.shape, np.int8)
    matrix[kept] = ints
    return matrix, scales


@settings(repeatable, max_examples=80)
@given(weight=matrices, bias=st.booleans())
def test_pack_float_weights_round_trip(weight: Any, bias: Any) -> None:
    linear = LinearWeights(weight, np.arange(len(weight), dtype=np.float32) if bias else None)
    assert_equal_linears(unpack_linear(pack_linear(linear)), linear)


@settings(repeatable, max_examples=40)
@given(weight=matrices)
def test_pack_every_layout_round_trip(weight: Any) -> None:
    for name, options in LAYOUTS.items():
        if name == "1x4" and (weight.shape[1] % 4 or not weight.any()):
            continue
        blob = pack_linear(LinearWeights(weight), options)
        assert [part.layout for part in parts(blob)] == [name]
        assert np.array_equal(unpack_linear(blob).weight, weight)


@settings(repeatable, max_examples=80)
@given(weight=matrices, layout=st.sampled_from(list(LAYOUTS)))
def test_pack_int8_within_half_a_step_keeps_zeros(weight: Any, layout: Any) -> None:
    if layout == "1x4" and (weight.shape[1] % 4 or not weight.any()):
        layout = "unstructured"
    ints, scales = stored_int8(weight, layout)
    unpacked = unpack_linear(pack_linear(LinearWeights(weight), with_layout(layout, "int8"))).weight
    assert np.array_equal(unpacked, ints.astype(np.float32) * scales[:, None])
    assert not unpacked[weight == 0].any()
    assert (np.abs(unpacked - weight) <= scales[:, None] * np.float32(0.50001)).all()


@pytest.mark.parametrize("values", ["fp32", "int8"])
@pytest.mark.parametrize(
    "options",
    [
        {"densities": (0.1,)},
        {"densities": (0.3,), "blocks": True},
        {"densities": (0.0, 1.0)},
        {"layers": 3, "hidden": 37, "head_size": 5, "widths": (15, 40, 5), "intermediates": (50, 1, 77)},
        {"densities": (0.1,), "empty_rows": 0.5},
    ],
    ids=["unstructured", "blocks", "empty and full layers", "uneven widths", "empty rows"],
)
def test_pack_encoder_keeps_widths_and_settings(values: Values, options: Any) -> None:
    encoder = random_encoder(**options)
    unpacked = unpack_encoder(pack_encoder(encoder, PackOptions(values)))
    assert (unpacked.head_size, unpacked.activation) == (encoder.head_size, encoder.activation)
    assert unpacked.epsilon == np.float32(encoder.epsilon)
    for mine, theirs in zip(unpacked.layers, encoder.layers, strict=True):
        for name in MATRICES:
            linear = getattr(theirs, name)
            if values == "int8":
                largest = np.abs(linear.weight).max(axis=1, keepdims=True)
                weight = getattr(mine, name).weight
                assert (np.abs(weight - linear.weight) <= largest / 63 * 0.50001).all(), "coarser than seven bits"
                linear = LinearWeights(weight, linear.bias)
            assert_equal_linears(getattr(mine, name), linear)
        for name in ("attention_norm", "output_norm"):
            assert np.array_equal(getattr(mine, name).weight, getattr(theirs, name).weight)
            assert np.array_equal(getattr(mine, name).bias, getattr(theirs, name).bias)


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu", "silu"])
def test_pack_encoder_keeps_activation(activation: Activation) -> None:
    assert unpack_encoder(pack_encoder(random_encoder(activation=activation))).activation == activation


@pytest.mark.parametrize(
    "row",
    [
        [LARGEST, -LARGEST, 0.0, 1.0],
        [SMALLEST, -SMALLEST, 0.0, 3 * SMALLEST],
        [LARGEST, SMALLEST, 0.0, -1e-30],
        [65504.0, 2.0**-24, 0.0, -(2.0**-14)],  # the largest, the smallest and the smallest normal float16
        [65520.0, 1.0, 0.0, 2.0],  # rounds to float16's infinity
    ],
)
def test_pack_float_any_magnitude_round_trip(row: Any) -> None:
    weight = np.array([row, row[::-1]], np.float32)
    for options in LAYOUTS.values():
        assert np.array_equal(unpack_linear(pack_linear(LinearWeights(weight), options)).weight, weight)


def value_bytes(weight: np.ndarray, options: PackOptions | None = None) -> int:
    (part,) = parts(pack_linear(LinearWeights(weight), options))
    return part.value_bytes


def test_pack_half_precision_only_if_exact() -> None:
    lossless = np.arange(1, 65, dtype=np.float32).reshape(4, 16) / 8
    assert value_bytes(lossless) == 2 * 64
    lossy = lossless.copy()
    lossy[2, 3] = 0.1
    assert value_bytes(lossy) == 4 * 64


def test_pack_int8_one_byte_per_weight_one_scale_per_row() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    assert value_bytes(weight, PackOptions("int8")) == 64 + 4 * 4


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_pack_widest_matrix_round_trip(values: Values) -> None:
    weight = np.zeros((2, 65535), np.float32)
    weight[0, [0, 65534]] = 0.5, 0.25
    weight[1, ::3] = 1
    for matrix in (weight, np.ascontiguousarray(weight.T)):
        unpacked = unpack_linear(pack_linear(LinearWeights(matrix), PackOptions(values))).weight
        assert np.allclose(unpacked, matrix, atol=0 if values == "fp32" else 1 / 127)


def test_pack_sparser_weights_are_smaller() -> None:
    sizes = [len(pack_encoder(random_encoder(densities=(density,)))) for density in (1.0, 0.3, 0.1, 0.03, 0.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_pack_is_deterministic(values: Values) -> None:
    first, second = (pack_encoder(random_encoder(seed=3), PackOptions(values)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_pack_ignores_memory_order(values: Values) -> None:
    linear = random_linear(np.random.default_rng(0), 12, 20, 0.3)
    strided = np.repeat(linear.weight, 2, axis=1)[:, ::2]
    weights: list[Any] = [np.asfortranarray(linear.weight), strided, linear.weight.astype(np.float64)]
    for weight in weights:
        turned = LinearWeights(weight, linear.bias)
        assert pack_linear(turned, PackOptions(values)) == pack_linear(linear, PackOptions(values))


def test_choose_layout_follows_density_and_blocks() -> None:
    generator = np.random.default_rng(0)

    def layout(**options: Any) -> str:
        (part,) = parts(pack_linear(random_linear(generator, 64, 64, **options)))
        return part.layout

    assert layout(density=0.1) == "unstructured"
    assert layout(density=0.9) == "dense"
    assert layout(density=0.2, blocks=True) == "1x4"
    assert layout(density=0.0) == "unstructured"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_pack_non_finite_weights_are_refused(bad: Any, values: Values) -> None:
    good = np.ones((2, 4), np.float32)
    for linear in (
        LinearWeights(np.array([[1, 0, bad, 0]], np.float32)),
        LinearWeights(good, np.array([1, bad], np.float32)),
    ):
        with pytest.raises(PackingError, match="finite"):
            pack_linear(linear, PackOptions(values))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pack_non_finite_norms_are_refused(bad: Any) -> None:
    encoder = random_encoder()
    norm = encoder.layers[1].output_norm
    assert norm
    with pytest.raises(PackingError, match="finite"):
        pack_encoder(with_layer(encoder, 1, output_norm=NormWeights(norm.weight, norm.weight * np.float32(bad))))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (65536, 1), (1, 65536), (4,), (2, 2, 2)])
def test_pack_bad_shapes_are_refused(shape: Any) -> None:
    with pytest.raises(PackingError, match="65535"):
        pack_linear(LinearWeights(np.zeros(shape, np.float32)))


@pytest.mark.parametrize("shape", [(3,), (5,), (1,), (4, 1)])
def test_pack_bad_bias_size_is_refused(shape: Any) -> None:
    with pytest.raises(PackingError, match="bias"):
        pack_linear(LinearWeights(np.ones((4, 8), np.float32), np.zeros(shape, np.float32)))


def with_layer(encoder: EncoderWeights, index: int, **changes: Any) -> EncoderWeights:
    layers = list(encoder.layers)
    layers[index] = dataclasses.replace(layers[index], **changes)
    return dataclasses.replace(encoder, layers=tuple(layers))


@pytest.mark.parametrize("name", MATRICES)
def test_pack_matrix_not_fitting_layer_is_named(name: Any) -> None:
    encoder = random_encoder()
    rows, columns = getattr(encoder.layers[1], name).weight.shape
    wrong = LinearWeights(np.ones((rows, columns + 4), np.float32), np.zeros(rows, np.float32))
    with pytest.raises(PackingError, match=f"layer 1, {name}:"):
        pack_encoder(with_layer(encoder, 1, **{name: wrong}))


@pytest.mark.parametrize("head_size", [0, -16, 7, 128])
def test_pack_partial_heads_are_refused(head_size: int) -> None:
    encoder = dataclasses.replace(random_encoder(), head_size=head_size)
    with pytest.raises(PackingError, match="whole heads"):
        pack_encoder(encoder)


def without_layers(encoder: EncoderWeights) -> EncoderWeights:
    return dataclasses.replace(encoder, layers=())


def with_too_many_layers(encoder: EncoderWeights) -> EncoderWeights:
    return dataclasses.replace(encoder, layers=encoder.layers[:1] * 257)


def with_short_norm(encoder: EncoderWeights) -> EncoderWeights:
    norm = encoder.layers[0].output_norm
    assert norm
    return with_layer(encoder, 0, output_norm=NormWeights(norm.weight, norm.weight[:-1]))


def with_negative_epsilon(encoder: EncoderWeights) -> EncoderWeights:
    return dataclasses.replace(encoder, epsilon=-1e-5)


def with_nan_epsilon(encoder: EncoderWeights) -> EncoderWeights:
    return dataclasses.replace(encoder, epsilon=float("nan"))


@pytest.mark.parametrize(
    "spoil", [without_layers, with_too_many_layers, with_short_norm, with_negative_epsilon, with_nan_epsilon]
)
def test_pack_unloadable_encoder_is_refused(spoil: Any) -> None:
    with pytest.raises(PackingError):
        pack_encoder(spoil(random_encoder(hidden=8, head_size=4, widths=(8,), intermediates=(4,))))


def test_pack_too_many_weights_are_refused() -> None:
    encoder = random_encoder(hidden=8, head_size=4, widths=(8,), intermediates=(4,))
    endless = np.broadcast_to(np.float32(0), (65535, 65535))  # takes no memory
    wide = dataclasses.replace(encoder.layers[0].intermediate, weight=endless)
    layer = dataclasses.replace(encoder.layers[0], intermediate=wide)
    with pytest.raises(PackingError, match="at most 4,294,967,296 weights"):
        pack_encoder(dataclasses.replace(encoder, layers=(layer, layer)))


def test_quantize_denormals_become_zero() -> None:
    weight = np.array([[1e-40, -1e-42, 0, SMALLEST]], np.float32)
    for name in LAYOUTS:
        unpacked = unpack_linear(pack_linear(LinearWeights(weight), with_layout(name, "int8"))).weight
        assert np.array_equal(unpacked, np.zeros_like(weight))


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_quantize_largest_floats_do_not_overflow(layout: Any) -> None:
    weight = np.array([[LARGEST, -LARGEST, LARGEST, 0], [LARGEST, LARGEST, LARGEST, LARGEST]], np.float32)
    unpacked = unpack_linear(pack_linear(LinearWeights(weight), with_layout(layout, "int8"))).weight
    assert np.isfinite(unpacked).all()
    assert np.allclose(unpacked / LARGEST, weight / LARGEST, atol=1 / 127)
