"""Forged packed weights: each is refused with the reason, and none crashes.

tests/attacks/blobs holds what a fuzzer found (its README says how); `forged_blobs` those that were thought of.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, RuntimeException

from sparserve.kernels.packed_format import ENCODER, GAPS, HEADER, LAYER_RECORDS, LINEAR, RECORD, PackingError
from sparserve.kernels.packing import pack_encoder
from sparserve.kernels.unpacking import parts, unpack_encoder, unpack_linear
from tests.support.kernels.blob_seeds import mended, seeds, tiny_modern_encoder
from tests.support.kernels.forged_blobs import (
    ENCODER_BLOB,
    FLOATS,
    GOOD,
    HUGE,
    REFUSED,
    TWO_LAYERS,
    WHOLE,
    Forgery,
    header_of,
    kind_of,
    record_of,
)
from tests.support.kernels.reference import encoder_session, linear_session, relative_encoder, repeatable, run

pytestmark = pytest.mark.usefixtures("sparse_runtime")

ATTACKS = Path(__file__).parents[1] / "attacks" / "blobs"
REFUSALS = (Fail, InvalidArgument, InvalidGraph, RuntimeException)


def open_blob(blob: bytes) -> onnxruntime.InferenceSession:
    return encoder_session(blob) if kind_of(blob) == ENCODER else linear_session(blob)


def run_blob(blob: bytes, *, first_token_only: bool = False) -> None:
    """Check that outputs have the right shape, whatever their values."""
    generator = np.random.default_rng(0)
    if kind_of(blob) == ENCODER:
        session = encoder_session(blob, first_token_only=first_token_only)
        hidden = header_of(blob)["hidden"]
        states = generator.standard_normal((2, 5, hidden), np.float32)
        mask = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]])
        assert run(session, states=states, mask=mask).shape == (2, 1 if first_token_only else 5, hidden)
    else:
        session = linear_session(blob)
        record = record_of(blob)
        x = generator.standard_normal((7, record["columns"]), np.float32)
        assert run(session, x=x).shape == (7, record["rows"])


@pytest.mark.parametrize("case", REFUSED)
def test_parse_forged_blob_is_refused_with_reason(case: str) -> None:
    forged, message = REFUSED[case]
    blob = forged() if isinstance(forged, Forgery) else forged
    with pytest.raises(REFUSALS, match=message):
        open_blob(blob)


@pytest.mark.parametrize("name", [*GOOD, *seeds()])
def test_forged_blobs_start_from_good_ones(name: str) -> None:
    run_blob(GOOD[name] if name in GOOD else seeds()[name])


@pytest.mark.parametrize("blob", [FLOATS, ENCODER_BLOB], ids=["linear", "encoder"])
def test_parse_blob_of_other_kind_is_refused(blob: bytes) -> None:
    other = ENCODER + LINEAR - kind_of(blob)
    with pytest.raises(REFUSALS, match=r"out of range|number of records is wrong"):
        open_blob(Forgery(blob, {"kind": other})())


def test_parse_matrices_sharing_bytes_are_refused() -> None:
    """Otherwise a small file could fill any memory: 256 layers, all with the same bytes."""
    forged = TWO_LAYERS
    size = len(LAYER_RECORDS)
    for index in range(size):
        forged = Forgery(forged, record=record_of(TWO_LAYERS, index), index=size + index)()
    end_of_first_layer = record_of(TWO_LAYERS, size)["values"]
    with pytest.raises(REFUSALS, match=r"layer 1, .* makes the sections larger than the blob"):
        open_blob(mended(forged[:end_of_first_layer]))


def test_parse_matrices_too_large_together_are_refused() -> None:
    """Empty rows take two bytes each, and their places none."""
    empty = {**HUGE, "type": 0, "layout": 1, "coding": GAPS, "has_bias": 0, "entries": 0, "index_bytes": 0}
    blob = ENCODER_BLOB
    for index in range(2):
        at = len(blob)
        record = {**empty, "counts": at, "index": at, "values": at}
        blob = Forgery(blob, {"hidden": 65535, "head_size": 1}, record, index, appended=bytes(2 * 65535))()
    with pytest.raises(REFUSALS, match="matrices are too large together"):
        open_blob(blob)


def test_parse_rotary_tables_too_large_are_refused() -> None:
    """Small files must not fill the memory: the tables are computed when a session is made."""
    encoder = tiny_modern_encoder(layers=1, hidden=2, head_size=66, widths=(66,))
    blob = Forgery(pack_encoder(encoder), {"positions": 1 << 20})()
    with pytest.raises(REFUSALS, match="tables of rotary positions are too large together"):
        open_blob(blob)


def test_parse_relative_tables_too_large_are_refused() -> None:
    """One distance, but as many rows as a table can have: all of them would be projected."""
    blob = pack_encoder(relative_encoder(positions=1, layers=1, hidden=4, head_size=4, widths=(1032,)))
    index = header_of(blob)["records"] - 2
    table = {**record_of(blob, index), "rows": 65535, "entries": 65535 * 4, "values": len(blob)}
    with pytest.raises(REFUSALS, match="tables of relative positions are too large together"):
        open_blob(Forgery(blob, record=table, index=index, appended=bytes(65535 * 4 * 4))())


@pytest.mark.parametrize("first_token_only", [False, True], ids=["all", "first"])
def test_parse_fuzzer_findings_are_refused_or_run(isa: str, first_token_only: bool) -> None:
    outcomes = {True: 0, False: 0}
    for path in sorted(ATTACKS.iterdir()):
        blob = path.read_bytes()
        try:
            run_blob(blob, first_token_only=first_token_only)
            outcomes[True] += 1
        except REFUSALS as error:
            assert "packed weights" in str(error), path.name
            outcomes[False] += 1
    assert min(outcomes.values()) > 10


@pytest.mark.filterwarnings("ignore:overflow encountered|invalid value encountered:RuntimeWarning")
def test_python_reader_accepts_or_refuses_fuzzer_findings() -> None:
    forgeries = [forged() if isinstance(forged, Forgery) else forged for forged, _ in REFUSED.values()]
    outcomes = {True: 0, False: 0}
    for blob in [path.read_bytes() for path in sorted(ATTACKS.iterdir())] + forgeries:
        for read in (parts, unpack_encoder if kind_of(blob) == ENCODER else unpack_linear):
            try:
                list(parts(blob)) if read is parts else read(blob)
                outcomes[True] += 1
            except PackingError:
                outcomes[False] += 1
    assert min(outcomes.values()) > 100


@pytest.mark.parametrize("case", WHOLE)
def test_python_reader_refuses_incomplete_blobs(case: str) -> None:
    for read in (unpack_linear, lambda blob: list(parts(blob))):
        with pytest.raises(PackingError):
            read(WHOLE[case][0])


@settings(repeatable, max_examples=300)
@given(st.data())
def test_parse_damage_under_valid_checksum_is_refused_or_runs(data: st.DataObject) -> None:
    blob = bytearray(seeds()[data.draw(st.sampled_from(sorted(seeds())))])
    for _ in range(data.draw(st.integers(1, 4))):
        # Most of it where the sizes and offsets are.
        end = data.draw(st.sampled_from((HEADER.size + RECORD.size, len(blob))))
        blob[data.draw(st.integers(len("SPARSRV\x01"), end - 1))] = data.draw(st.integers(0, 255))
    forged = mended(bytes(blob))
    try:
        run_blob(forged)
    except REFUSALS as error:
        assert "packed weights" in str(error)
