import dataclasses
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import MATRICES, random_encoder, random_linear, random_weight, repeatable

from kernels.packing import (
    BITMAP,
    GAPS,
    HEADER,
    RECORD,
    PackingError,
    PackOptions,
    decode_index,
    encode_index,
    pack_encoder,
    pack_linear,
    parts,
    unpack_encoder,
    unpack_linear,
)
from kernels.quantization import MAX_MAGNITUDE, quantize_paired, quantize_unstructured
from kernels.weights import EncoderWeights, LinearWeights

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
LAYOUTS = {
    "dense": PackOptions(dense_above=-1.0),
    "unstructured": PackOptions(dense_above=None, block_fill=None),
    "1x4": PackOptions(dense_above=None, block_fill=0.0),
}

matrices = st.builds(
    lambda seed, rows, columns, density, blocks, empty: random_weight(
        np.random.default_rng(seed), rows, columns, density, blocks=blocks, empty_rows=empty
    ),
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 40),
    columns=st.one_of(st.integers(1, 70), st.integers(250, 1600)),
    density=st.sampled_from([0.0, 0.002, 0.02, 0.1, 0.3, 0.5, 0.9, 1.0]),
    blocks=st.booleans(),
    empty=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
)


def with_layout(name: str, values: str) -> PackOptions:
    return dataclasses.replace(LAYOUTS[name], values=values)


def assert_equal_linears(actual: LinearWeights, expected: LinearWeights) -> None:
    assert actual.weight.dtype == np.float32
    assert np.array_equal(actual.weight, expected.weight)
    assert (actual.bias is None) == (expected.bias is None)
    assert actual.bias is None or np.array_equal(actual.bias, expected.bias)


def stored_int8(weight: np.ndarray, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """The int8 weights [rows, columns] and scales [rows] of a matrix, from the quantiser itself."""
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
def test_float_weights_come_back_exactly(weight, bias):
    linear = LinearWeights(weight, np.arange(len(weight), dtype=np.float32) if bias else None)
    assert_equal_linears(unpack_linear(pack_linear(linear)), linear)


@settings(repeatable, max_examples=40)
@given(weight=matrices)
def test_every_layout_gives_the_weights_back(weight):
    for name, options in LAYOUTS.items():
        if name == "1x4" and (weight.shape[1] % 4 or not weight.any()):
            continue
        blob = pack_linear(LinearWeights(weight), options)
        assert [part.layout for part in parts(blob)] == [name]
        assert np.array_equal(unpack_linear(blob).weight, weight)


@settings(repeatable, max_examples=80)
@given(weight=matrices, layout=st.sampled_from(list(LAYOUTS)))
def test_int8_weights_come_back_within_half_a_step_and_zeros_as_zeros(weight, layout):
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
def test_an_encoder_comes_back_with_its_widths_and_settings(values, options):
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


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu"])
def test_activation_is_kept(activation):
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
def test_float_weights_of_any_magnitude_come_back_exactly(row):
    weight = np.array([row, row[::-1]], np.float32)
    for options in LAYOUTS.values():
        assert np.array_equal(unpack_linear(pack_linear(LinearWeights(weight), options)).weight, weight)


def value_bytes(weight: np.ndarray, options: PackOptions | None = None) -> int:
    (part,) = parts(pack_linear(LinearWeights(weight), options))
    return part.value_bytes


def test_half_precision_is_chosen_only_where_it_loses_nothing():
    lossless = np.arange(1, 65, dtype=np.float32).reshape(4, 16) / 8
    assert value_bytes(lossless) == 2 * 64
    lossy = lossless.copy()
    lossy[2, 3] = 0.1
    assert value_bytes(lossy) == 4 * 64


def test_int8_weights_take_a_byte_each_and_a_scale_a_row():
    weight = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    assert value_bytes(weight, PackOptions("int8")) == 64 + 4 * 4


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
def test_columns_are_coded_in_the_smaller_of_bitmap_and_gaps(weight):
    mask = weight != 0
    coding, data = encode_index(mask)
    gaps, bitmap_bytes = python_gaps(mask), len(mask) * -(-mask.shape[1] // 8)
    assert len(data) == min(len(gaps), bitmap_bytes)
    assert coding == (GAPS if len(gaps) <= bitmap_bytes else BITMAP)
    if coding == GAPS:
        assert data == gaps
    assert np.array_equal(decode_index(coding, data, mask.sum(axis=1, dtype=np.int64), mask.shape[1]), mask)


@pytest.mark.parametrize("gap", [253, 254, 255, 256, 509, 510, 511, 765, 3000])
def test_gaps_around_multiples_of_255_come_back(gap):
    weight = np.zeros((3, 2 * gap + 4), np.float32)
    weight[0, [0, gap + 1, 2 * gap + 2]] = 1, 2, 3
    weight[2, [gap, 2 * gap + 1]] = 4, 5
    mask = weight != 0
    assert encode_index(mask) == (GAPS, python_gaps(mask))
    assert np.array_equal(unpack_linear(pack_linear(LinearWeights(weight))).weight, weight)


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_the_widest_matrix_comes_back(values):
    weight = np.zeros((2, 65535), np.float32)
    weight[0, [0, 65534]] = 0.5, 0.25
    weight[1, ::3] = 1
    for matrix in (weight, np.ascontiguousarray(weight.T)):
        unpacked = unpack_linear(pack_linear(LinearWeights(matrix), PackOptions(values))).weight
        assert np.allclose(unpacked, matrix, atol=0 if values == "fp32" else 1 / 127)


@settings(repeatable, max_examples=40)
@given(weight=matrices, values=st.sampled_from(["fp32", "int8"]))
def test_parts_add_up_to_the_blob(weight, values):
    blob = pack_linear(LinearWeights(weight, np.zeros(len(weight), np.float32)), PackOptions(values))
    (part,) = parts(blob)
    assert (part.name, part.shape) == ("linear", weight.shape)
    padding = 5 * 7  # five sections, each from a multiple of eight bytes
    stored = HEADER.size + RECORD.size + part.index_bytes + part.value_bytes
    assert stored <= len(blob) <= stored + padding


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_parts_of_an_encoder_are_named_and_add_up_to_at_most_the_blob(values):
    encoder = random_encoder(layers=2, hidden=48, widths=(32,), intermediates=(80,))
    blob = pack_encoder(encoder, PackOptions(values))
    found = {part.name: part for part in parts(blob)}
    assert len(found) == 20
    assert found["layer.0.query"].shape == (32, 48)
    assert found["layer.1.output"].shape == (48, 80)
    assert found["layer.1.output"].values == np.count_nonzero(encoder.layers[1].output.weight)
    assert found["layer.1.output_norm.bias"].shape == (48, 1)
    total = sum(part.index_bytes + part.value_bytes for part in found.values())
    assert total + HEADER.size + len(found) * RECORD.size <= len(blob)


def test_sparser_weights_make_smaller_blobs():
    sizes = [len(pack_encoder(random_encoder(densities=(density,)))) for density in (1.0, 0.3, 0.1, 0.03, 0.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_the_same_weights_pack_to_the_same_bytes(values):
    first, second = (pack_encoder(random_encoder(seed=3), PackOptions(values)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_memory_order_of_the_weights_does_not_change_the_bytes(values):
    linear = random_linear(np.random.default_rng(0), 12, 20, 0.3)
    strided = np.repeat(linear.weight, 2, axis=1)[:, ::2]
    for weight in (np.asfortranarray(linear.weight), strided, linear.weight.astype(np.float64)):
        turned = LinearWeights(weight, linear.bias)
        assert pack_linear(turned, PackOptions(values)) == pack_linear(linear, PackOptions(values))


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_packing_what_was_unpacked_changes_nothing(values):
    encoder = unpack_encoder(pack_encoder(random_encoder(), PackOptions(values)))
    again = unpack_encoder(pack_encoder(encoder))
    for mine, theirs in zip(again.layers, encoder.layers, strict=True):
        for name in MATRICES:
            assert_equal_linears(getattr(mine, name), getattr(theirs, name))


def test_layout_follows_density_and_blocks():
    generator = np.random.default_rng(0)

    def layout(**options: object) -> str:
        (part,) = parts(pack_linear(random_linear(generator, 64, 64, **options)))
        return part.layout

    assert layout(density=0.1) == "unstructured"
    assert layout(density=0.9) == "dense"
    assert layout(density=0.2, blocks=True) == "1x4"
    assert layout(density=0.0) == "unstructured"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_weights_and_biases_that_are_not_finite_are_refused(bad, values):
    good = np.ones((2, 4), np.float32)
    for linear in (
        LinearWeights(np.array([[1, 0, bad, 0]], np.float32)),
        LinearWeights(good, np.array([1, bad], np.float32)),
    ):
        with pytest.raises(PackingError, match="finite"):
            pack_linear(linear, PackOptions(values))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_norms_that_are_not_finite_are_refused(bad):
    encoder = random_encoder()
    norm = encoder.layers[1].output_norm
    with pytest.raises(PackingError, match="finite"):
        pack_encoder(with_layer(encoder, 1, output_norm=dataclasses.replace(norm, bias=norm.bias * np.float32(bad))))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (65536, 1), (1, 65536), (4,), (2, 2, 2)])
def test_shapes_that_are_no_matrix_of_1_to_65535_are_refused(shape):
    with pytest.raises(PackingError, match="65535"):
        pack_linear(LinearWeights(np.zeros(shape, np.float32)))


@pytest.mark.parametrize("shape", [(3,), (5,), (1,), (4, 1)])
def test_biases_of_the_wrong_size_are_refused(shape):
    with pytest.raises(PackingError, match="bias"):
        pack_linear(LinearWeights(np.ones((4, 8), np.float32), np.zeros(shape, np.float32)))


def with_layer(encoder: EncoderWeights, index: int, **changes: object) -> EncoderWeights:
    layers = list(encoder.layers)
    layers[index] = dataclasses.replace(layers[index], **changes)
    return dataclasses.replace(encoder, layers=tuple(layers))


@pytest.mark.parametrize("name", MATRICES)
def test_a_matrix_that_does_not_fit_its_layer_is_refused_by_name(name):
    encoder = random_encoder()
    rows, columns = getattr(encoder.layers[1], name).weight.shape
    wrong = LinearWeights(np.ones((rows, columns + 4), np.float32), np.zeros(rows, np.float32))
    message = "layer 1, " + ("query" if name == "query" else "")  # the other attention matrices follow the query
    with pytest.raises(PackingError, match=message):
        pack_encoder(with_layer(encoder, 1, **{name: wrong}))


@pytest.mark.parametrize("head_size", [0, -16, 7, 128])
def test_attention_that_is_not_whole_heads_is_refused(head_size):
    encoder = dataclasses.replace(random_encoder(), head_size=head_size)
    with pytest.raises(PackingError, match="whole heads"):
        pack_encoder(encoder)


def without_layers(encoder: EncoderWeights) -> EncoderWeights:
    return dataclasses.replace(encoder, layers=())


def with_too_many_layers(encoder: EncoderWeights) -> EncoderWeights:
    return dataclasses.replace(encoder, layers=encoder.layers[:1] * 257)


def with_short_norm(encoder: EncoderWeights) -> EncoderWeights:
    norm = encoder.layers[0].output_norm
    return with_layer(encoder, 0, output_norm=dataclasses.replace(norm, bias=norm.bias[:-1]))


def with_negative_epsilon(encoder: EncoderWeights) -> EncoderWeights:
    return dataclasses.replace(encoder, epsilon=-1e-5)


def with_nan_epsilon(encoder: EncoderWeights) -> EncoderWeights:
    return dataclasses.replace(encoder, epsilon=float("nan"))


@pytest.mark.parametrize(
    "spoil", [without_layers, with_too_many_layers, with_short_norm, with_negative_epsilon, with_nan_epsilon]
)
def test_an_encoder_that_the_runtime_would_not_load_is_refused(spoil):
    with pytest.raises(PackingError):
        pack_encoder(spoil(random_encoder(hidden=8, head_size=4, widths=(8,), intermediates=(4,))))


def test_an_encoder_of_more_weights_than_the_format_can_count_is_refused():
    encoder = random_encoder(hidden=8, head_size=4, widths=(8,), intermediates=(4,))
    endless = np.broadcast_to(np.float32(0), (65535, 65535))  # takes no memory
    wide = dataclasses.replace(encoder.layers[0].intermediate, weight=endless)
    layer = dataclasses.replace(encoder.layers[0], intermediate=wide)
    with pytest.raises(PackingError, match="at most 4,294,967,296 weights"):
        pack_encoder(dataclasses.replace(encoder, layers=(layer, layer)))


def test_bytes_of_the_other_kind_are_refused():
    encoder, linear = pack_encoder(random_encoder()), pack_linear(LinearWeights(np.ones((2, 2), np.float32)))
    with pytest.raises(PackingError, match="other kind"):
        unpack_linear(encoder)
    with pytest.raises(PackingError, match="other kind"):
        unpack_encoder(linear)


@pytest.mark.parametrize("blob", [b"", b"SPARSRV\x01", b"\0" * 200, b"PK\x03\x04" * 50])
def test_bytes_that_are_no_packed_weights_are_refused(blob):
    for read in (unpack_encoder, unpack_linear, lambda data: list(parts(data))):
        with pytest.raises(PackingError, match="no packed weights"):
            read(blob)


def test_an_unknown_version_is_refused_by_number():
    blob = bytearray(pack_linear(LinearWeights(np.ones((2, 2), np.float32))))
    struct.pack_into("<I", blob, 8, 7)
    with pytest.raises(PackingError, match="version 7"):
        unpack_linear(bytes(blob))


@settings(repeatable, max_examples=100)
@given(data=st.data())
def test_a_damaged_bit_is_noticed(data):
    blob = pack_linear(random_linear(np.random.default_rng(0), 6, 24, 0.2))
    position = data.draw(st.one_of(st.integers(0, HEADER.size - 1), st.integers(0, len(blob) - 1)))
    damaged = bytearray(blob)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    if 28 <= position < 32:  # reserved, and outside the checksum: nothing is read from there
        assert_equal_linears(unpack_linear(bytes(damaged)), unpack_linear(blob))
        return
    with pytest.raises(PackingError):
        unpack_linear(bytes(damaged))


@settings(repeatable, max_examples=60)
@given(data=st.data())
def test_cut_off_and_extended_blobs_are_refused(data):
    blob = pack_encoder(random_encoder(hidden=8, head_size=4, widths=(8,), intermediates=(4,)))
    with pytest.raises(PackingError):
        unpack_encoder(blob[: data.draw(st.integers(0, len(blob) - 1))])
    with pytest.raises(PackingError, match="damaged"):
        unpack_encoder(blob + b"\0" * data.draw(st.integers(1, 100)))


magnitudes = st.sampled_from([0.0, 1e-3, 0.25, 0.49, 0.5, 0.51, 1.0, 1.0, 127.0, 1e30, 1e-30])
rows_of_values = st.lists(
    st.lists(st.one_of(magnitudes, magnitudes.map(lambda x: -x), st.floats(-1, 1, width=32)), max_size=33),
    min_size=1,
    max_size=6,
)


def quantized_rows(quantize, rows):
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
def test_neighbours_in_a_row_never_exceed_the_pair_bound(rows):
    for _, ints, _ in quantized_rows(quantize_paired, rows):
        pairs = np.abs(np.append(ints, [0] * (len(ints) % 2))).reshape(-1, 2)
        assert (pairs.sum(axis=1) <= 128).all()


@settings(repeatable, max_examples=100)
@given(rows=rows_of_values)
def test_the_largest_with_the_smallest_never_exceed_the_pair_bound(rows):
    for _, ints, _ in quantized_rows(quantize_unstructured, rows):
        ordered = np.sort(np.abs(ints))
        half = len(ordered) // 2
        assert (ordered[:half] + ordered[::-1][:half] <= 128).all()


@settings(repeatable, max_examples=100)
@given(rows=rows_of_values, quantize=st.sampled_from([quantize_paired, quantize_unstructured]))
def test_quantisation_is_within_half_a_step_and_keeps_zeros_and_signs(rows, quantize):
    for values, ints, scale in quantized_rows(quantize, rows):
        assert scale > 0
        assert np.isfinite(scale)
        assert (np.abs(ints) <= MAX_MAGNITUDE).all()
        assert not ints[values == 0].any()
        assert (ints * values >= 0).all()
        assert (np.abs(values - ints * np.float64(scale)) <= 0.50001 * np.float64(scale)).all()


@pytest.mark.parametrize("quantize", [quantize_paired, quantize_unstructured])
def test_rows_do_not_share_scales(quantize):
    alone = [quantized_rows(quantize, [row])[0] for row in ([1.0, 0.01], [1e-6, 1e-8], [1e20, -3.0], [])]
    together = quantized_rows(quantize, [[1.0, 0.01], [1e-6, 1e-8], [1e20, -3.0], []])
    for (_, ints, scale), (_, expected_ints, expected_scale) in zip(together, alone, strict=True):
        assert np.array_equal(ints, expected_ints)
        assert scale == expected_scale


def test_one_large_weight_a_pair_keeps_all_eight_bits():
    row = [1.0, 1e-4] * 8
    for quantize in (quantize_paired, quantize_unstructured):
        ((_, ints, _),) = quantized_rows(quantize, [row])
        assert np.abs(ints).max() == 127


def test_equal_weights_are_stored_in_seven_bits():
    ((_, ints, scale),) = quantized_rows(quantize_paired, [[1.0] * 8])
    assert np.array_equal(ints, np.full(8, 64)) or np.array_equal(ints, np.full(8, 63))
    assert abs(ints[0] * scale - 1) <= scale / 2


def test_denormal_int8_weights_become_zeros_and_not_infinities():
    weight = np.array([[1e-40, -1e-42, 0, SMALLEST]], np.float32)
    for name in LAYOUTS:
        unpacked = unpack_linear(pack_linear(LinearWeights(weight), with_layout(name, "int8"))).weight
        assert np.array_equal(unpacked, np.zeros_like(weight))


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_the_largest_floats_do_not_overflow_in_int8(layout):
    weight = np.array([[LARGEST, -LARGEST, LARGEST, 0], [LARGEST, LARGEST, LARGEST, LARGEST]], np.float32)
    unpacked = unpack_linear(pack_linear(LinearWeights(weight), with_layout(layout, "int8"))).weight
    assert np.isfinite(unpacked).all()
    assert np.allclose(unpacked / LARGEST, weight / LARGEST, atol=1 / 127)
