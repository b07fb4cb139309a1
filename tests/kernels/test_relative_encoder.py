"""SparseEncoder with DeBERTa's relative positions, against numpy in float64."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sparserve.kernels.packed_format import PackingError
from sparserve.kernels.packing import PackOptions, Values, pack_encoder
from sparserve.kernels.unpacking import unpack_encoder
from tests.support.kernels.cases import TOLERANCE, assert_invariant, masked_batch, pack, random_batch
from tests.support.kernels.reference import encoder_reference, encoder_session, relative_encoder, relative_error, run

pytestmark = pytest.mark.usefixtures("sparse_runtime")

ENCODERS: dict[str, Any] = {
    "uneven": ({"hidden": 37, "head_size": 5, "widths": (15, 40, 5), "layers": 3, "densities": (0.3, 1.0)}, 41, 41),
    "longer than a block of keys": ({"hidden": 16, "head_size": 8, "widths": (24,), "blocks": True}, 133, 200),
    "one token": ({}, 1, 1),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_relative_encoder_agrees_with_float64(isa: str, name: str) -> None:
    options, length, positions = ENCODERS[name]
    encoder = relative_encoder(positions=positions, **options)
    states, mask = masked_batch(encoder.hidden, length)
    expected = encoder_reference(encoder, states, mask)
    blob = pack_encoder(encoder)
    assert relative_error(run(encoder_session(blob), states=states, mask=mask), expected) < TOLERANCE
    first = run(encoder_session(blob, first_token_only=True), states=states, mask=mask)
    assert relative_error(first, expected[:, :1]) < TOLERANCE


def test_relative_encoder_int8_rounds_activations_to_nearest_step(isa: str) -> None:
    """The tables are those of the int8 weights, but their inputs are not rounded."""
    blob, encoder = pack(relative_encoder(activation="relu", widths=(32, 64)), "int8")
    states, mask = masked_batch(encoder.hidden)
    expected = encoder_reference(encoder, states, mask, int8=True)
    for first_token_only, wanted in ((False, expected), (True, expected[:, :1])):
        answer = run(encoder_session(blob, first_token_only=first_token_only), states=states, mask=mask)
        assert relative_error(answer, wanted) < 0.015
        assert np.mean(np.abs(answer - wanted) > 1e-3 * np.abs(wanted).max()) < 0.1


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_relative_encoder_is_invariant_to_batch_padding_and_threads(isa: str, values: Values) -> None:
    blob = pack_encoder(relative_encoder(hidden=20, head_size=4, widths=(12, 20)), PackOptions(values))
    sessions = [encoder_session(blob, threads=threads) for threads in (1, 3)]
    assert_invariant(sessions, *random_batch(20, batch=5, length=143, seed=1))


def test_pack_encoder_keeps_used_rows_of_relative_positions() -> None:
    encoder = relative_encoder(positions=9)
    kept = unpack_encoder(pack_encoder(encoder)).relative
    assert encoder.relative and kept
    assert len(kept.table) == 17 < len(encoder.relative.table)
    assert np.array_equal(kept.table[kept.rows], encoder.relative.table[encoder.relative.rows])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": None}, "relative positions need a number of positions"),
        ({"positions": 8}, "a row of the table for each distance"),
        ({"rows": [0] * 16 + [99]}, r"table of relative positions must be \[rows, 64\] and have all their rows"),
    ],
)
def test_pack_encoder_refuses_incomplete_relative_positions(changes: Any, message: str) -> None:
    encoder = relative_encoder(positions=9)
    assert encoder.relative
    if "rows" in changes:
        changes = {"relative": replace(encoder.relative, rows=np.array(changes["rows"]))}
    with pytest.raises(PackingError, match=message):
        pack_encoder(replace(encoder, **changes))
