"""Whether a packed encoder computes what the graph says that it was made from.

The packer takes an architecture from the names of its parameters. What a configuration changes beside them, in the mask
or between the layers, it would not see: the answers show it.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.errors import CheckpointError
from sparserve.models.export.onnx_export import PARITY_SHAPES, random_inputs

# Of the largest logit. Both runtimes compute in float32 and differ by 1e-6; another function by 1e-2 and more.
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
    """Pack `graph` (fp32) once more in float32, by `pack` to the path it is given, and compare their answers.

    The values of int8 weights differ from the graph's, but not what is computed with them: their structure is this one.

    Raises:
        CheckpointError: they differ; the network is not to be packed.
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
            f"in the sparse runtime its answers differ by {difference:.2g} of the largest logit: "
            "the network computes something that the runtime does not know"
        )


def _largest_difference(one: OnnxClassifier, other: OnnxClassifier, *, vocabulary: int, max_length: int) -> float:
    """Of a logit, relative to the largest, over the shapes that exports are checked by."""
    worst = 0.0
    for seed, (batch, length) in enumerate((*PARITY_SHAPES, (2, max_length))):
        names = tuple(sorted(one.input_names))
        made = random_inputs(batch, min(length, max_length), vocabulary, one.pad_token_id, names, seed=seed)
        inputs = {name: value.numpy() for name, value in made.items()}
        expected = one.run(inputs)
        worst = max(worst, float(np.abs(other.run(inputs) - expected).max() / max(np.abs(expected).max(), 1e-6)))
    return worst
