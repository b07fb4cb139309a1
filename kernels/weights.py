"""Weights of an encoder as numpy arrays: the input of `packing` and the output of `unpacking`."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Activation = Literal["none", "gelu", "gelu_tanh", "relu", "silu"]


@dataclass(frozen=True)
class LinearWeights:
    """`y = weight @ x + bias`: weight `[out, in]`, bias `[out]` or none."""

    weight: Floats
    bias: Floats | None = None


@dataclass(frozen=True)
class NormWeights:
    """LayerNorm over the hidden features: weight `[hidden]`, bias `[hidden]` or none."""

    weight: Floats
    bias: Floats | None = None


@dataclass(frozen=True)
class LayerWeights:
    """One transformer layer. Widths may differ between layers (squeezed models).

    Attributes:
        attention_norm: after the sum with attention's output, or ahead of attention (pre-norm), or none.
        output_norm: after the sum with the feed-forward's output, or ahead of the feed-forward.
        gate: a linear whose outputs multiply the activated outputs of `intermediate`.
        rotary: frequencies `[head_size / 2]` by which features i and i + head_size / 2 of queries and keys turn.
        band: the largest distance of a key that a query attends to; None: any.
    """

    query: LinearWeights
    key: LinearWeights
    value: LinearWeights
    attention_output: LinearWeights
    attention_norm: NormWeights | None
    intermediate: LinearWeights
    output: LinearWeights
    output_norm: NormWeights | None
    gate: LinearWeights | None = None
    rotary: Floats | None = None
    band: int | None = None


@dataclass(frozen=True)
class RelativePositions:
    """Embeddings of the distances between tokens (DeBERTa), which all layers share.

    A score gets the products of the query with the key projection, and of the key with the query projection, of the
    embedding of their distance.

    Attributes:
        table: embeddings `[rows, hidden]`.
        rows: row of the table for each distance of a query from a key, from -(positions - 1) to positions - 1.
    """

    table: Floats
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncoderWeights:
    """Stack of layers whose attention heads have `head_size` features.

    Attributes:
        pre_norm: norms are ahead of attention and feed-forward, not after the residual sums.
        final_norm: norm of the last layer's states.
        positions: length of the longest sequence; None: any. Rotary and relative positions need one.
        relative: relative positions.
    """

    layers: tuple[LayerWeights, ...]
    head_size: int
    activation: Activation
    epsilon: float
    pre_norm: bool = False
    final_norm: NormWeights | None = None
    positions: int | None = None
    relative: RelativePositions | None = None

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return int(self.layers[0].query.weight.shape[1])
