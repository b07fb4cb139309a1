"""Outputs are bit-identical for any batch, padding, threads and callers, and agree on every instruction set."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from sparserve.kernels.packing import PackOptions, Values, pack_encoder
from tests.support.kernels.cases import SMALL, SMALL_VARIANTS, TOLERANCE, assert_invariant, batches, pack, random_batch
from tests.support.kernels.reference import (
    encoder_session,
    random_encoder,
    relative_error,
    repeatable,
    run,
    supported_isas,
)

pytestmark = pytest.mark.usefixtures("sparse_runtime")


@pytest.mark.parametrize("first_token_only", [False, True], ids=["all tokens", "first token"])
@pytest.mark.parametrize("values", ["fp32", "int8"])
@pytest.mark.parametrize("variant", SMALL_VARIANTS)
def test_encoder_invariant_to_batch_padding_and_threads(
    isa: str, variant: Any, values: Values, first_token_only: bool
) -> None:
    """Bit for bit: each row alone and without its padding, and the batch on more threads and in another order."""
    blob, encoder = pack(random_encoder(**SMALL, **SMALL_VARIANTS[variant]), values)
    sessions = [encoder_session(blob, first_token_only=first_token_only, threads=threads) for threads in (1, 2, 3)]

    @settings(repeatable, max_examples=12)
    @given(shape=batches)
    def check(shape: dict[str, int]) -> None:
        assert_invariant(sessions, *random_batch(encoder.hidden, **shape))

    check()


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_encoder_invariant_to_place_in_large_batch(isa: str, values: Values) -> None:
    blob, encoder = pack(random_encoder(**SMALL), values)
    states, mask = random_batch(encoder.hidden, batch=64, length=70, seed=8)
    states[40], mask[40] = states[3], mask[3]
    mask[[3, 40], :-1] = 1
    one, two = (run(encoder_session(blob, threads=threads), states=states, mask=mask) for threads in (1, 2))
    assert np.array_equal(one, two)
    assert np.array_equal(one[3], one[40])
    alone = run(encoder_session(blob), states=states[3:4], mask=mask[3:4])
    assert np.array_equal(alone[0], one[3])


@pytest.mark.parametrize(("values", "tolerance"), [("fp32", TOLERANCE), ("int8", 0.015)])
def test_encoder_first_token_only_equals_first_token(isa: str, values: Values, tolerance: Any) -> None:
    """In int8 the two ways to add up attention may round an activation to neighbouring steps."""
    for variant in SMALL_VARIANTS.values():
        blob, encoder = pack(random_encoder(**SMALL, **variant), values)
        states, mask = random_batch(encoder.hidden, batch=40, length=70, seed=4)
        full = run(encoder_session(blob), states=states, mask=mask)
        first = run(encoder_session(blob, first_token_only=True), states=states, mask=mask)
        assert first.shape == (40, 1, encoder.hidden)
        assert relative_error(first, full[:, :1]) < tolerance


@pytest.mark.parametrize(("values", "tolerance"), [("fp32", TOLERANCE), ("int8", 0.015)])
@pytest.mark.parametrize("variant", SMALL_VARIANTS)
def test_encoder_instruction_sets_agree(
    monkeypatch: pytest.MonkeyPatch, variant: Any, values: Values, tolerance: Any
) -> None:
    blob, encoder = pack(random_encoder(**SMALL, **SMALL_VARIANTS[variant]), values)
    states, mask = random_batch(encoder.hidden, batch=9, length=70, seed=6)
    answers = []
    for name in supported_isas():
        monkeypatch.setenv("SPARSERVE_ISA", name)
        answers.append(run(encoder_session(blob), states=states, mask=mask))
    for answer in answers[1:]:
        assert relative_error(answer, answers[0].astype(np.float64)) < tolerance


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_encoder_concurrent_sessions_are_bit_identical(isa: str, values: Values) -> None:
    blobs = [pack_encoder(random_encoder(**SMALL, seed=seed), PackOptions(values)) for seed in range(2)]
    sessions = [
        encoder_session(blob, first_token_only=first, threads=threads)
        for blob, first, threads in ((blobs[0], False, 2), (blobs[0], True, 1), (blobs[1], False, 1))
    ]
    requests = [random_batch(20, batch=1 + seed % 5, length=1 + 17 * seed % 80, seed=seed) for seed in range(10)]
    jobs = [(session, states, mask) for session in sessions for states, mask in requests]
    expected = [run(session, states=states, mask=mask) for session, states, mask in jobs]
    together = threading.Barrier(4)

    def work(worker: int) -> bool:
        together.wait()
        same = True
        for step in range(2 * len(jobs)):
            index = (step * 7 + worker * 11) % len(jobs)
            session, states, mask = jobs[index]
            same &= np.array_equal(run(session, states=states, mask=mask), expected[index])
        return same

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
