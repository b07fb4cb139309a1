"""Encoders, matrices and batches shared by several tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from hypothesis import strategies as st

from sparserve.kernels.packing import PackOptions, Values, pack_encoder
from sparserve.kernels.unpacking import unpack_encoder
from sparserve.kernels.weights import EncoderWeights, LinearWeights
from tests.support.kernels.reference import random_mask, random_weight, run

TOLERANCE = 1e-5
LAYOUTS: dict[str, Any] = {
    "unstructured": {"density": 0.1},
    "1x4": {"density": 0.2, "blocks": True},
    "dense": {"density": 1.0},
}


def masked_batch(hidden: int, length: int = 41, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return states and a mask of six rows: full, padded, with holes, empty, one token, first token masked."""
    states = np.random.default_rng(seed).standard_normal((6, length, hidden)).astype(np.float32)
    mask = np.ones((6, length), np.int64)
    mask[1, length // 2 :] = 0
    mask[2, length // 8 : length // 4] = 0
    mask[2, -1] = 0
    mask[3] = 0
    mask[4, 1:] = 0
    mask[5, 0] = 0
    return states, mask


def pack(encoder: EncoderWeights, values: Values = "fp32") -> tuple[bytes, EncoderWeights]:
    """Return the packed encoder and the weights that the runtime computes with."""
    blob = pack_encoder(encoder, PackOptions(values))
    return blob, unpack_encoder(blob)


SMALL: dict[str, Any] = {"layers": 3, "hidden": 20, "head_size": 4, "widths": (12, 20, 8), "intermediates": (28, 5)}
SMALL_VARIANTS: dict[str, Any] = {
    "unstructured": {"densities": (0.3,)},
    "1x4": {"densities": (0.4,), "blocks": True},
    "dense": {"densities": (1.0,)},
}
batches = st.fixed_dictionaries(
    {"batch": st.integers(1, 10), "length": st.integers(1, 90), "seed": st.integers(0, 2**32 - 1)}
)


def random_batch(hidden: int, batch: int, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    states = generator.standard_normal((batch, length, hidden)).astype(np.float32)
    return states, random_mask(generator, batch, length)


def assert_invariant(sessions: Sequence[onnxruntime.InferenceSession], states: np.ndarray, mask: np.ndarray) -> None:
    """Check bit for bit each row alone and without its padding, and the batch in each session and in another order."""
    together = run(sessions[0], states=states, mask=mask)
    for session in sessions[1:]:
        assert np.array_equal(run(session, states=states, mask=mask), together), "threads"
    turned = run(sessions[1], states=states[::-1].copy(), mask=mask[::-1].copy())
    assert np.array_equal(turned[::-1], together), "order"
    more = ((0, 1), (0, 13))
    padded = run(sessions[-1], states=np.pad(states, (*more, (0, 0))), mask=np.pad(mask, more))
    assert np.array_equal(padded[:-1, : together.shape[1]], together), "padding"
    for row in range(len(states)):
        tokens = max(np.flatnonzero(mask[row]), default=0) + 1
        session = sessions[row % len(sessions)]
        alone = run(session, states=states[row : row + 1, :tokens], mask=mask[row : row + 1, :tokens])
        assert np.array_equal(alone[0], together[row, :tokens][: alone.shape[1]]), "alone"


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


def assert_equal_linears(actual: LinearWeights, expected: LinearWeights) -> None:
    assert actual.weight.dtype == np.float32
    assert np.array_equal(actual.weight, expected.weight)
    assert (actual.bias is None) == (expected.bias is None)
    if actual.bias is not None and expected.bias is not None:
        assert np.array_equal(actual.bias, expected.bias)
