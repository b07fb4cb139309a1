"""SparseEncoder against numpy in float64.

The measure everywhere: the largest absolute difference, as a fraction of the largest magnitude in the expected output.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserve.kernels.packing import Values, pack_encoder
from sparserve.kernels.weights import EncoderWeights, LayerWeights, LinearWeights
from tests.support.kernels.cases import SMALL, TOLERANCE, batches, masked_batch, pack, random_batch
from tests.support.kernels.reference import (
    MATRICES,
    encoder_reference,
    encoder_session,
    random_encoder,
    random_mask,
    relative_error,
    repeatable,
    run,
)

pytestmark = pytest.mark.usefixtures("sparse_runtime")


ENCODERS: dict[str, Any] = {
    "unstructured": {"densities": (0.1,)},
    "1x4 blocks": {"densities": (0.2,), "blocks": True},
    "dense": {"densities": (1.0,)},
    "tanh GELU": {"activation": "gelu_tanh"},
    "ReLU": {"activation": "relu"},
    "no activation": {"activation": "none"},
    "uneven widths": {
        "layers": 4, "hidden": 37, "head_size": 5, "widths": (15, 40, 5, 35), "intermediates": (50, 1, 77, 130),
        "densities": (0.3, 1.0),
    },
    "uneven blocks": {
        "layers": 3, "hidden": 36, "head_size": 12, "widths": (12, 36, 24), "intermediates": (52, 4, 76),
        "densities": (0.3,), "blocks": True,
    },
    "one feature": {"hidden": 2, "head_size": 1, "widths": (1,), "intermediates": (1,), "densities": (1.0,)},
    "empty layers": {"densities": (0.0,)},
    "empty and full layers": {"layers": 4, "densities": (0.0, 1.0, 0.05)},
    "empty rows": {"empty_rows": 0.5},
    "panels of hidden states": {"hidden": 1100, "head_size": 8, "widths": (16,), "intermediates": (20,)},
    "panels of blocks": {
        "hidden": 1100, "head_size": 8, "widths": (16,), "intermediates": (1600,), "densities": (0.05,), "blocks": True,
    },
    "panels of feed-forward": {"hidden": 20, "head_size": 4, "widths": (12,), "intermediates": (2500,)},
}  # fmt: skip


def assert_agrees(encoder: Any, expected: Any, *, rows: Any = slice(None), threads: int = 1, **inputs: Any) -> None:
    """Check the outputs of all tokens, and of the first token alone, against the expected rows."""
    for first_token_only, wanted in ((False, expected), (True, expected[:, :1])):
        session = encoder_session(
            pack_encoder(encoder),
            first_token_only=first_token_only,
            position_bias="position_bias" in inputs,
            threads=threads,
        )
        assert relative_error(run(session, **inputs)[rows], wanted) < TOLERANCE


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_float_agrees_with_float64(isa: str, name: Any) -> None:
    encoder = random_encoder(**ENCODERS[name])
    states, mask = masked_batch(encoder.hidden)
    expected = encoder_reference(encoder, states, mask)
    blob = pack_encoder(encoder)
    assert relative_error(run(encoder_session(blob), states=states, mask=mask), expected) < TOLERANCE
    first = run(encoder_session(blob, first_token_only=True), states=states, mask=mask)
    assert relative_error(first, expected[:, :1]) < TOLERANCE


# LayerNorm of one or two features is a sign, which any rounding may turn.
INT8_ENCODERS = [name for name in ENCODERS if name != "one feature"]


@pytest.mark.parametrize("name", INT8_ENCODERS)
def test_encoder_int8_agrees_within_activation_steps(isa: str, name: Any) -> None:
    """One step is 1/255 of a token's range; rounding errors are independent: within 4 %."""
    blob, encoder = pack(random_encoder(**ENCODERS[name]), "int8")
    states, mask = masked_batch(encoder.hidden)
    expected = encoder_reference(encoder, states, mask)
    assert relative_error(run(encoder_session(blob), states=states, mask=mask), expected) < 0.04
    first = run(encoder_session(blob, first_token_only=True), states=states, mask=mask)
    assert relative_error(first, expected[:, :1]) < 0.04


@pytest.mark.parametrize("name", INT8_ENCODERS)
def test_encoder_int8_rounds_activations_to_nearest_step(isa: str, name: Any) -> None:
    """Numpy rounds the same activations to the same 256 steps a token.

    What is left are the few that lie between two steps and fall to the other side in float32, one step each: within
    1.5 %, and nine in ten outputs within 0.1 %. ReLU replaces GELU, which is coarser in int8 and has its own test.
    """
    encoder = random_encoder(**{**ENCODERS[name], "activation": ENCODERS[name].get("activation", "relu")})
    blob, encoder = pack(encoder, "int8")
    states, mask = masked_batch(encoder.hidden)
    expected = encoder_reference(encoder, states, mask, int8=True)
    actual = run(encoder_session(blob), states=states, mask=mask)
    first = run(encoder_session(blob, first_token_only=True), states=states, mask=mask)
    for answer, wanted in ((actual, expected), (first, expected[:, :1])):
        assert relative_error(answer, wanted) < 0.015
        assert np.mean(np.abs(answer - wanted) > 1e-3 * np.abs(wanted).max()) < 0.1


def scaled(linear: LinearWeights, factor: float) -> LinearWeights:
    return LinearWeights(linear.weight * np.float32(factor), linear.bias)


def rescaled(encoder: EncoderWeights, attention: float, rest: float) -> EncoderWeights:
    """Queries and keys times `attention`, the other matrices times `rest`."""
    layers = []
    for layer in encoder.layers:
        factors = {name: attention if name in ("query", "key") else rest for name in MATRICES}
        changed: dict[str, Any] = {name: scaled(getattr(layer, name), factor) for name, factor in factors.items()}
        norms = {name: getattr(layer, name) for name in ("attention_norm", "output_norm")}
        layers.append(LayerWeights(**changed, **norms))
    return EncoderWeights(tuple(layers), encoder.head_size, encoder.activation, encoder.epsilon)


@pytest.mark.parametrize(
    ("attention", "rest", "activations"),
    [(1, 1e3, 1), (1, 1e-3, 1), (1, 1e-42, 1), (1e-42, 1e-42, 1), (1e-3, 1, 1e3), (1, 1, 1e-3), (1, 1, 1e-40)],
    ids=[
        "weights x1e3", "weights x1e-3", "denormal weights", "all weights denormal", "activations x1e3",
        "activations x1e-3", "denormal activations",
    ],
)  # fmt: skip
@pytest.mark.parametrize("density", [0.1, 1.0])
def test_encoder_float_extreme_magnitudes(
    isa: str, attention: float | int, rest: float | int, activations: float | int, density: float
) -> None:
    encoder = rescaled(random_encoder(densities=(density,)), attention, rest)
    states, mask = masked_batch(encoder.hidden)
    states *= np.float32(activations)
    expected = encoder_reference(encoder, states, mask)
    assert_agrees(encoder, expected, states=states, mask=mask)


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_encoder_saturated_attention(isa: str, scale: float) -> None:
    """Scores of a million: one key takes all, whichever way it is rounded."""
    encoder = random_encoder(layers=1)
    states, mask = masked_batch(encoder.hidden)
    states *= np.float32(scale)
    actual = run(encoder_session(pack_encoder(encoder)), states=states, mask=mask)
    assert relative_error(actual, encoder_reference(encoder, states, mask)) < TOLERANCE


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 512])
def test_encoder_float_at_any_length(isa: str, length: int) -> None:
    encoder = random_encoder(hidden=16, head_size=8, widths=(16,), intermediates=(24,), densities=(0.5,))
    states, mask = masked_batch(16, length)
    expected = encoder_reference(encoder, states, mask)
    assert_agrees(encoder, expected, threads=2, states=states, mask=mask)


@pytest.mark.parametrize(("batch", "length"), [(64, 512), (64, 1), (33, 40), (1, 1100)])
def test_encoder_batch_longer_than_chunk(isa: str, batch: int, length: int) -> None:
    encoder = random_encoder(layers=1, hidden=8, head_size=4, widths=(8,), intermediates=(8,), densities=(0.5,))
    generator = np.random.default_rng(2)
    states = generator.standard_normal((batch, length, 8)).astype(np.float32)
    mask = random_mask(generator, batch, length)
    mask[0] = 1
    checked = [0, batch // 2, batch - 1] if length > 256 else slice(None)
    expected = encoder_reference(encoder, states[checked], mask[checked])
    assert_agrees(encoder, expected, rows=checked, threads=2, states=states, mask=mask)


@pytest.mark.parametrize("begin", [0, 100])
def test_encoder_mask_holes_longer_than_key_block(isa: str, begin: int) -> None:
    encoder = random_encoder(hidden=16, head_size=8, widths=(16,), intermediates=(24,), densities=(0.5,))
    states = np.random.default_rng(0).standard_normal((2, 450, 16)).astype(np.float32)
    mask = np.ones((2, 450), np.int64)
    mask[0, begin : begin + 300] = 0
    mask[1, begin:-1] = 0
    expected = encoder_reference(encoder, states, mask)
    assert_agrees(encoder, expected, states=states, mask=mask)


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_encoder_masked_tokens_are_zeros(isa: str, values: Values) -> None:
    blob, encoder = pack(random_encoder(), values)
    states, mask = masked_batch(encoder.hidden)
    answer = run(encoder_session(blob), states=states, mask=mask)
    for row, own in enumerate(mask):
        tokens = np.flatnonzero(own)[-1] + 1 if own.any() else 0
        assert not answer[row, tokens:].any()
        assert answer[row, :tokens].any(axis=-1).all(), "a hole before the last token has an answer"
    first = run(encoder_session(blob, first_token_only=True), states=states, mask=mask)
    assert not first[3].any()


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_encoder_masked_content_changes_no_other_output(isa: str, values: Values) -> None:
    blob, encoder = pack(random_encoder(), values)
    states, mask = masked_batch(encoder.hidden)
    session = encoder_session(blob)
    changed = np.where(mask[..., None] != 0, states, 100 * states[::-1])
    before, after = run(session, states=states, mask=mask), run(session, states=changed, mask=mask)
    assert np.array_equal(before[mask != 0], after[mask != 0])


@pytest.mark.parametrize("first_token_only", [False, True], ids=["all tokens", "first token"])
@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_encoder_nan_and_infinity_stay_in_their_request(isa: str, values: Values, first_token_only: bool) -> None:
    blob, encoder = pack(random_encoder(layers=3), values)
    states, mask = masked_batch(encoder.hidden)
    mask[[2, 5]] = 1  # without holes: a masked token before the last one is computed with
    session = encoder_session(blob, first_token_only=first_token_only)
    expected = run(session, states=states, mask=mask)
    for bad in (np.nan, np.inf):
        padding = np.where(mask[..., None] == 0, np.float32(bad), states)
        assert np.array_equal(run(session, states=padding, mask=mask), expected)
        one_row = states.copy()
        one_row[2] = bad
        answer = run(session, states=one_row, mask=mask)
        assert np.array_equal(np.delete(answer, 2, axis=0), np.delete(expected, 2, axis=0))
        assert not np.isfinite(answer[2]).any(), "an answer that looks right"
        run(session, states=np.full_like(states, bad), mask=np.ones_like(mask))
        assert np.array_equal(run(session, states=states, mask=mask), expected), "scratch that a request left behind"


@pytest.mark.parametrize("values", ["fp32", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_encoder_bad_feature_spoils_tokens_that_attend_to_it(isa: str, values: Values, bad: Any) -> None:
    """The bad value is not rounded away in its own token or in tokens that read its key and value."""
    blob, encoder = pack(random_encoder(layers=1, densities=(1.0,)), values)
    states, mask = np.random.default_rng(0).standard_normal((2, 9, encoder.hidden)).astype(np.float32), np.ones((2, 9))
    states[0, 3, 5] = bad
    answer = run(encoder_session(blob), states=states, mask=mask.astype(np.int64))
    assert np.isnan(answer[0]).all()
    assert np.isfinite(answer[1]).all()


def test_encoder_nonzero_mask_values_keep_tokens(isa: str) -> None:
    encoder = random_encoder()
    states, mask = masked_batch(encoder.hidden)
    session = encoder_session(pack_encoder(encoder))
    for kept in (-1, 2, 2**40):
        assert np.array_equal(run(session, states=states, mask=mask * kept), run(session, states=states, mask=mask))


@pytest.mark.parametrize("heads_batch", [1, 6])
@pytest.mark.parametrize("length", [7, 41, 150])
def test_encoder_position_bias(isa: str, heads_batch: int, length: int) -> None:
    encoder = random_encoder()
    states, mask = masked_batch(encoder.hidden, length)
    bias = np.random.default_rng(5).standard_normal((heads_batch, 4, length, length)).astype(np.float32) * 3
    expected = encoder_reference(encoder, states, mask, bias)
    assert relative_error(expected, encoder_reference(encoder, states, mask)) > 0.1, "the bias does something"
    assert_agrees(encoder, expected, states=states, mask=mask, position_bias=bias)


def test_encoder_position_bias_per_row_in_later_chunks(isa: str) -> None:
    encoder = random_encoder(layers=2, hidden=8, head_size=4, widths=(8,), intermediates=(8,), densities=(0.5,))
    generator = np.random.default_rng(3)
    states = generator.standard_normal((40, 37, 8)).astype(np.float32)
    mask = random_mask(generator, 40, 37)
    bias = generator.standard_normal((40, 2, 37, 37)).astype(np.float32) * 3
    expected = encoder_reference(encoder, states, mask, bias)
    assert_agrees(encoder, expected, states=states, mask=mask, position_bias=bias)


def test_encoder_position_bias_of_minus_infinity_masks(isa: str) -> None:
    encoder = random_encoder()
    states, mask = masked_batch(encoder.hidden)
    length = states.shape[1]
    key, query = np.indices((length, length))
    mask[5] = 1  # its first token may look at the first key alone, which was masked
    for low in (-np.inf, np.finfo(np.float32).min):
        causal = np.where(key > query, np.float32(low), np.float32(0))[None, None].repeat(4, axis=1)
        session = encoder_session(pack_encoder(encoder), position_bias=True)
        actual = run(session, states=states, mask=mask, position_bias=causal)
        assert relative_error(actual, encoder_reference(encoder, states, mask, causal)) < TOLERANCE


@settings(repeatable, max_examples=30)
@given(shape=batches, density=st.sampled_from([0.05, 0.4, 1.0]), blocks=st.booleans())
def test_encoder_float_any_batch_and_mask(isa: str, shape: Any, density: Any, blocks: Any) -> None:
    encoder = random_encoder(**SMALL, densities=(density,), blocks=blocks, seed=shape["seed"] % 7)
    states, mask = random_batch(encoder.hidden, **shape)
    blob = pack_encoder(encoder)
    expected = encoder_reference(encoder, states, mask)
    assert relative_error(run(encoder_session(blob, threads=2), states=states, mask=mask), expected) < TOLERANCE
    first = run(encoder_session(blob, first_token_only=True), states=states, mask=mask)
    assert relative_error(first, expected[:, :1]) < TOLERANCE
