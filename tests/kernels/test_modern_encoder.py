"""SparseEncoder with ModernBERT's parts, against numpy in float64: norms first, gates, rotary positions, bands."""

from typing import Any

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from sparserve.kernels.packed_format import PackingError
from sparserve.kernels.packing import PackOptions, Values, pack_encoder
from sparserve.kernels.unpacking import unpack_encoder
from tests.support.kernels.cases import TOLERANCE, assert_invariant, masked_batch, pack, random_batch
from tests.support.kernels.reference import (
    encoder_reference,
    encoder_session,
    modern_encoder,
    random_encoder,
    relative_error,
    run,
)

pytestmark = pytest.mark.usefixtures("sparse_runtime")

UNEVEN: dict[str, Any] = {
    "layers": 4, "hidden": 37, "head_size": 6, "widths": (18, 42, 6, 30), "intermediates": (50, 1, 77, 130),
    "densities": (0.3, 1.0), "bands": (None, 3, 20, 0),
}  # fmt: skip
BLOCKS: dict[str, Any] = {
    "layers": 3, "hidden": 36, "head_size": 12, "widths": (12, 36, 24), "intermediates": (52, 4, 76), "blocks": True,
    "densities": (0.3,), "bands": (5, None, 40),
}  # fmt: skip
ENCODERS: dict[str, Any] = {
    "uneven": (UNEVEN, 41),
    "blocks": (BLOCKS, 41),
    "longer than a block of keys": ({"hidden": 16, "head_size": 8, "widths": (24,), "bands": (None, 64, 130)}, 197),
    "norms behind, SiLU": ({"norm_first": False, "activation": "silu", "bands": (None,)}, 41),
    "ungated, one token": ({"gated": False, "activation": "relu"}, 1),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_modern_encoder_agrees_with_float64(isa: str, name: str) -> None:
    options, length = ENCODERS[name]
    encoder = modern_encoder(**options)
    states, mask = masked_batch(encoder.hidden, length)
    expected = encoder_reference(encoder, states, mask)
    blob = pack_encoder(encoder)
    assert relative_error(run(encoder_session(blob), states=states, mask=mask), expected) < TOLERANCE
    first = run(encoder_session(blob, first_token_only=True), states=states, mask=mask)
    assert relative_error(first, expected[:, :1]) < TOLERANCE


@pytest.mark.parametrize("name", ENCODERS)
def test_modern_encoder_int8_rounds_activations_to_nearest_step(isa: str, name: str) -> None:
    options, length = ENCODERS[name]
    blob, encoder = pack(modern_encoder(**{"activation": "relu", **options}), "int8")
    states, mask = masked_batch(encoder.hidden, length)
    expected = encoder_reference(encoder, states, mask, int8=True)
    actual = run(encoder_session(blob), states=states, mask=mask)
    first = run(encoder_session(blob, first_token_only=True), states=states, mask=mask)
    for answer, wanted in ((actual, expected), (first, expected[:, :1])):
        assert relative_error(answer, wanted) < 0.015
        assert np.mean(np.abs(answer - wanted) > 1e-3 * np.abs(wanted).max()) < 0.1


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_modern_encoder_is_invariant_to_batch_padding_and_threads(isa: str, values: Values) -> None:
    """Bit for bit: bands must not let a query's answer depend on the queries that are computed with it."""
    encoder = modern_encoder(layers=3, hidden=20, head_size=4, widths=(12, 20, 8), bands=(7, 30, 150), positions=400)
    blob = pack_encoder(encoder, PackOptions(values))
    sessions = [encoder_session(blob, threads=threads) for threads in (1, 2, 3)]
    for seed, (batch, length) in enumerate(((7, 40), (3, 133), (1, 300))):
        states, mask = random_batch(encoder.hidden, batch, length, seed)
        mask[0] = 1
        assert_invariant(sessions, states, mask)


def test_modern_encoder_refuses_longer_sequences() -> None:
    encoder = modern_encoder(positions=9)
    session = encoder_session(pack_encoder(encoder))
    states, mask = random_batch(encoder.hidden, batch=2, length=12, seed=0)
    mask[:] = np.arange(12) < 9
    run(session, states=states, mask=mask)
    mask[1, 9] = 1
    with pytest.raises(InvalidArgument, match="a sequence of 10 tokens is longer than this encoder's 9 positions"):
        run(session, states=states, mask=mask)


def test_pack_encoder_keeps_modern_parts() -> None:
    encoder = modern_encoder(**UNEVEN)
    unpacked = unpack_encoder(pack_encoder(encoder))
    assert (unpacked.pre_norm, unpacked.positions) == (True, 200)
    assert [layer.band for layer in unpacked.layers] == [None, 3, 20, 0]
    assert unpacked.layers[0].attention_norm is None
    for ours, theirs in zip(unpacked.layers, encoder.layers, strict=True):
        assert ours.gate and theirs.gate and np.array_equal(ours.gate.weight, theirs.gate.weight)
        assert ours.rotary is not None and theirs.rotary is not None and np.array_equal(ours.rotary, theirs.rotary)


def test_pack_encoder_writes_old_encoders_in_version_one() -> None:
    """Older libraries keep reading them, and bundles keep their digests."""
    assert pack_encoder(random_encoder())[8:12] == b"\1\0\0\0"
    assert pack_encoder(modern_encoder())[8:12] == b"\2\0\0\0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": 0}, "1 to 1,048,576 positions, not 0"),
        ({"positions": 1 << 20, "layers": 10}, "at most 33,554,432 angles"),
        ({"bands": (-1,)}, "attention band must be 0 to"),
    ],
)
def test_pack_encoder_refuses_positions_out_of_range(options: Any, message: str) -> None:
    with pytest.raises(PackingError, match=message):
        pack_encoder(modern_encoder(**options))
