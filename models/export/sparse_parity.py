"""Parity check of a packed encoder against the graph that it was made from.

The packer recognises an architecture by the names of its parameters. It cannot see other changes of a configuration,
such as those of the mask or between layers; different logits reveal them.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.errors import CheckpointError
from sparserve.models.export.onnx_export import MAX_PARITY_LENGTH, PARITY_SHAPES, random_inputs

# Fraction of the largest logit. Both runtimes compute in float32 and differ by 1e-6; a wrong function by 1e-2 or more.
TOLERANCE: Final = 1e-3


def check_packed(
    graph: Path,
    pack: Callable[[Path], object],
    *,
    library: Path,
    vocabulary: int,
    pad_token_id: int,
    max_length: int,
) -> None:
    """Pack `graph` in float32, with `pack` writing to its argument, and compare the logits.

    A graph that is packed in int8 has other weights, but the same structure, so this check covers it too.

    Raises:
        CheckpointError: the logits differ, so the network must not be packed.
    """
    with tempfile.TemporaryDirectory(prefix="packed-", dir=graph.parent) as folder:
        packed = Path(folder) / "packed.onnx"
        pack(packed)
        difference = _largest_difference(
            OnnxClassifier(graph, pad_token_id=pad_token_id, threads=1),
            OnnxClassifier(packed, pad_token_id=pad_token_id, threads=1, library=library),
            vocabulary=vocabulary,
            max_length=max_length,
        )
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"In the sparse runtime the logits differ by {difference:.2g} of the largest one: the network contains an "
            "operation that the runtime does not support."
        )


def _largest_difference(one: OnnxClassifier, other: OnnxClassifier, *, vocabulary: int, max_length: int) -> float:
    """Return the largest difference of a logit, relative to the largest logit, over `PARITY_SHAPES` and a long text."""
    largest = 0.0
    for seed, (batch, length) in enumerate((*PARITY_SHAPES, (2, MAX_PARITY_LENGTH))):
        names = tuple(sorted(one.input_names))
        tensors = random_inputs(batch, min(length, max_length), vocabulary, one.pad_token_id, names, seed=seed)
        inputs = {name: value.numpy() for name, value in tensors.items()}
        expected = one.run(inputs)
        largest = max(largest, float(np.abs(other.run(inputs) - expected).max() / max(np.abs(expected).max(), 1e-6)))
    return largest
