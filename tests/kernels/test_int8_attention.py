"""Attention in bytes, with float32 weights, so that nothing but attention is rounded."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from sparserve.kernels.packing import PackOptions, pack_encoder
from sparserve.kernels.unpacking import layers_in_bytes
from sparserve.kernels.weights import LinearWeights
from tests.support.kernels.cases import assert_invariant, batches, masked_batch, random_batch
from tests.support.kernels.reference import (
    encoder_reference,
    encoder_session,
    modern_encoder,
    random_encoder,
    relative_encoder,
    relative_error,
    repeatable,
    run,
    supported_isas,
)

pytestmark = pytest.mark.usefixtures("sparse_runtime")

# Of the largest output. Queries and values have 128 steps, keys 255: one layer's outputs are off by about 1 %.
ROUNDING = 0.03
ENCODERS: dict[str, Any] = {
    "heads of 4": {"hidden": 20, "head_size": 4, "widths": (12, 20), "intermediates": (28, 5), "densities": (0.5,)},
    "heads of 16": {"densities": (0.3,)},
    "heads of 64": {"layers": 1, "hidden": 128, "head_size": 64, "widths": (128,)},
}


@pytest.mark.parametrize("length", [1, 41, 300])
@pytest.mark.parametrize("name", ENCODERS)
def test_int8_attention_agrees_within_rounding(isa: str, name: str, length: int) -> None:
    encoder = random_encoder(**ENCODERS[name])
    states, mask = masked_batch(encoder.hidden, length)
    expected = encoder_reference(encoder, states, mask)
    blob = pack_encoder(encoder)
    actual = run(encoder_session(blob, int8_attention=True), states=states, mask=mask)
    assert relative_error(actual, expected) < ROUNDING
    assert length == 1 or not np.array_equal(actual, run(encoder_session(blob), states=states, mask=mask))
    first = run(encoder_session(blob, int8_attention=True, first_token_only=True), states=states, mask=mask)
    assert relative_error(first, expected[:, :1]) < ROUNDING


@pytest.mark.parametrize("begin", [0, 100])
def test_int8_attention_mask_holes_longer_than_key_block(isa: str, begin: int) -> None:
    encoder = random_encoder(hidden=16, head_size=8, widths=(16,), intermediates=(24,), densities=(0.5,))
    states = np.random.default_rng(0).standard_normal((1, 450, 16)).astype(np.float32)
    mask = np.ones((1, 450), np.int64)
    mask[0, begin : begin + 300] = 0
    session = encoder_session(pack_encoder(encoder), int8_attention=True)
    answer = run(session, states=states, mask=mask)
    assert relative_error(answer, encoder_reference(encoder, states, mask)) < ROUNDING
    changed = np.where(mask[..., None] != 0, states, 100 * states[:, ::-1])
    assert np.array_equal(run(session, states=changed, mask=mask)[mask != 0], answer[mask != 0])


@pytest.mark.parametrize("length", [7, 150])
def test_int8_attention_position_bias(isa: str, length: int) -> None:
    encoder = random_encoder()
    states, mask = masked_batch(encoder.hidden, length)
    bias = np.random.default_rng(5).standard_normal((6, 4, length, length)).astype(np.float32) * 3
    session = encoder_session(pack_encoder(encoder), position_bias=True, int8_attention=True)
    answer = run(session, states=states, mask=mask, position_bias=bias)
    assert relative_error(answer, encoder_reference(encoder, states, mask, bias)) < ROUNDING


def test_int8_attention_rotary_positions_and_bands(isa: str) -> None:
    """Layers with a band stay in float32; the others turn queries and keys before they are rounded."""
    encoder = modern_encoder(bands=(None, 5))
    states, mask = masked_batch(encoder.hidden, 60)
    session = encoder_session(pack_encoder(encoder), int8_attention=True)
    answer = run(session, states=states, mask=mask)
    assert relative_error(answer, encoder_reference(encoder, states, mask)) < ROUNDING
    assert not np.array_equal(answer, run(encoder_session(pack_encoder(encoder)), states=states, mask=mask))


@pytest.mark.parametrize("first_token_only", [False, True], ids=["all tokens", "first token"])
def test_int8_attention_invariant_to_batch_padding_and_threads(isa: str, first_token_only: bool) -> None:
    blob = pack_encoder(random_encoder(layers=3, **ENCODERS["heads of 4"]), PackOptions("int8"))
    sessions = [
        encoder_session(blob, int8_attention=True, first_token_only=first_token_only, threads=threads)
        for threads in (1, 2, 3)
    ]

    @settings(repeatable, max_examples=8)
    @given(shape=batches)
    def check(shape: dict[str, int]) -> None:
        assert_invariant(sessions, *random_batch(20, **shape))

    check()


def test_int8_attention_instruction_sets_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """All compute the same integers; a few values between two steps fall to the other side without a fused multiply."""
    encoder = random_encoder(**ENCODERS["heads of 64"])
    states, mask = masked_batch(encoder.hidden, 150)
    answers = []
    for name in supported_isas():
        monkeypatch.setenv("SPARSERVE_ISA", name)
        session = encoder_session(pack_encoder(encoder), int8_attention=True)
        answers.append(run(session, states=states, mask=mask))
    for answer in answers[1:]:
        assert relative_error(answer, answers[0].astype(np.float64)) < 2e-3
        assert np.mean(np.abs(answer - answers[0]) > 1e-4) < 0.05


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_int8_attention_bad_feature_spoils_tokens_that_attend_to_it(isa: str, bad: float) -> None:
    encoder = random_encoder(layers=1, densities=(1.0,))
    states, mask = np.random.default_rng(0).standard_normal((2, 9, encoder.hidden)).astype(np.float32), np.ones((2, 9))
    states[0, 3, 5] = bad
    session = encoder_session(pack_encoder(encoder), int8_attention=True)
    answer = run(session, states=states, mask=mask.astype(np.int64))
    assert np.isnan(answer[0]).all()
    assert np.isfinite(answer[1]).all()


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0xFFFFFFFF])
def test_int8_attention_nan_of_a_key_alone_spoils_its_sequence(isa: str, bits: int) -> None:
    """No value reads the bad feature; a NaN has bits of no meaning that must not make it a number."""
    encoder = random_encoder(layers=1, densities=(1.0,))
    layer = encoder.layers[0]
    weight = layer.value.weight.copy()
    weight[:, 5] = 0
    encoder = replace(encoder, layers=(replace(layer, value=replace(layer.value, weight=weight)),))
    states, mask = random_batch(encoder.hidden, batch=2, length=9, seed=0)
    mask[:] = 1
    states[0, 3, 5] = np.array(bits, np.uint32).view(np.float32)
    blob = pack_encoder(encoder, PackOptions(dense_above=None, block_fill=None))
    answer = run(encoder_session(blob, int8_attention=True), states=states, mask=mask)
    assert np.isnan(answer[0]).all()
    assert np.isfinite(answer[1]).all()


@pytest.mark.parametrize("projection", ["query", "key"])
def test_int8_attention_overflow_of_one_projection_is_not_hidden(isa: str, projection: str) -> None:
    """Finite states and values, but queries or keys beyond float32: NaN, not an answer without them."""
    encoder = random_encoder(layers=1, densities=(1.0,))
    layer = encoder.layers[0]
    large = LinearWeights(getattr(layer, projection).weight * np.float32(1e37))
    encoder = replace(encoder, layers=(replace(layer, **{projection: large}),))
    states, mask = masked_batch(encoder.hidden, 9)
    answer = run(encoder_session(pack_encoder(encoder), int8_attention=True), states=1000 * states, mask=mask)
    assert np.isnan(answer[0]).all()


@pytest.mark.parametrize("scale", [1e-40, 1e-3, 1e6])
def test_int8_attention_extreme_activations(isa: str, scale: float) -> None:
    encoder = random_encoder(layers=1)
    states, mask = masked_batch(encoder.hidden)
    states *= np.float32(scale)
    answer = run(encoder_session(pack_encoder(encoder), int8_attention=True), states=states, mask=mask)
    expected = encoder_reference(encoder, states, mask)
    # At 1e6 the scores are in the millions: rounding a query may choose another key.
    assert relative_error(answer, expected) < (ROUNDING if scale < 1 else 2)


PLACES: dict[str, Any] = {
    "plain": (random_encoder(layers=2), 2),
    "some bands": (modern_encoder(layers=3, bands=(3, None)), 1),
    "bands": (modern_encoder(bands=(3, 60)), 0),
    "relative positions": (relative_encoder(layers=2), 0),
}


@pytest.mark.parametrize("name", PLACES)
def test_layers_in_bytes_are_those_of_the_operator(name: str) -> None:
    encoder, count = PLACES[name]
    blob = pack_encoder(encoder)
    states, mask = masked_batch(encoder.hidden)
    for first_token_only in (False, True):
        floats, ints = (
            run(
                encoder_session(blob, first_token_only=first_token_only, int8_attention=choice),
                states=states,
                mask=mask,
            )
            for choice in (False, True)
        )
        layers = layers_in_bytes(blob, first_token_only=first_token_only)
        assert layers == (count - 1 if name == "plain" and first_token_only else count)
        assert np.array_equal(floats, ints) == (layers == 0)


def test_int8_attention_rejects_heads_not_in_fours() -> None:
    encoder = random_encoder(hidden=12, head_size=6, widths=(12,), intermediates=(8,))
    encoder_session(pack_encoder(encoder))
    with pytest.raises(Exception, match="int8 attention needs heads of a multiple of four features, not 6"):
        encoder_session(pack_encoder(encoder), int8_attention=True)
