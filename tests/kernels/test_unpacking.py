"""Parts of a blob, and bytes that are not packed weights."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserve.kernels.packed_format import HEADER, RECORD, PackingError
from sparserve.kernels.packing import PackOptions, Values, pack_encoder, pack_linear
from sparserve.kernels.unpacking import parts, unpack_encoder, unpack_linear
from sparserve.kernels.weights import LinearWeights
from tests.support.kernels.cases import assert_equal_linears, matrices
from tests.support.kernels.reference import random_encoder, random_linear, repeatable


@settings(repeatable, max_examples=40)
@given(weight=matrices, values=st.sampled_from(["fp32", "int8"]))
def test_parts_add_up_to_blob(weight: Any, values: Any) -> None:
    blob = pack_linear(LinearWeights(weight, np.zeros(len(weight), np.float32)), PackOptions(values))
    (part,) = parts(blob)
    assert (part.name, part.shape) == ("linear", weight.shape)
    padding = 5 * 7  # five sections, each from a multiple of eight bytes
    stored = HEADER.size + RECORD.size + part.index_bytes + part.value_bytes
    assert stored <= len(blob) <= stored + padding


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_parts_of_encoder_are_named(values: Values) -> None:
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


def test_unpack_blob_of_other_kind_is_refused() -> None:
    encoder, linear = pack_encoder(random_encoder()), pack_linear(LinearWeights(np.ones((2, 2), np.float32)))
    with pytest.raises(PackingError, match="other kind"):
        unpack_linear(encoder)
    with pytest.raises(PackingError, match="other kind"):
        unpack_encoder(linear)


@pytest.mark.parametrize("blob", [b"", b"SPARSRV\x01", b"\0" * 200, b"PK\x03\x04" * 50])
def test_unpack_foreign_bytes_are_refused(blob: Any) -> None:
    for read in (unpack_encoder, unpack_linear, lambda data: list(parts(data))):
        with pytest.raises(PackingError, match="not packed weights"):
            read(blob)


def test_unpack_unknown_version_is_named() -> None:
    blob = bytearray(pack_linear(LinearWeights(np.ones((2, 2), np.float32))))
    struct.pack_into("<I", blob, 8, 7)
    with pytest.raises(PackingError, match="version 7"):
        unpack_linear(bytes(blob))


@settings(repeatable, max_examples=100)
@given(data=st.data())
def test_unpack_damaged_bit_is_detected(data: Any) -> None:
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
def test_unpack_truncated_and_extended_are_refused(data: Any) -> None:
    blob = pack_encoder(random_encoder(hidden=8, head_size=4, widths=(8,), intermediates=(4,)))
    with pytest.raises(PackingError):
        unpack_encoder(blob[: data.draw(st.integers(0, len(blob) - 1))])
    with pytest.raises(PackingError, match="damaged"):
        unpack_encoder(blob + b"\0" * data.draw(st.integers(1, 100)))
