"""Weights of an encoder as numpy arrays: the input of `packing` and the output of `unpacking`."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Activation = Literal["none", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class LinearWeights:
    """`y = weight @ x + bias`: weight `[out, in]`, bias `[out]` or none."""

    weight: Floats
    bias: Floats | None = None


@dataclass(frozen=True)
class NormWeights:
    """LayerNorm over the hidden features: weight and bias `[hidden]`."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True)
class LayerWeights:
    """One post-norm transformer layer. Widths may differ between layers (squeezed models)."""

    query: LinearWeights
    key: LinearWeights
    value: LinearWeights
    attention_output: LinearWeights
    attention_norm: NormWeights
    intermediate: LinearWeights
    output: LinearWeights
    output_norm: NormWeights


@dataclass(frozen=True)
class EncoderWeights:
    """Stack of layers whose attention heads have `head_size` features."""

    layers: tuple[LayerWeights, ...]
    head_size: int
    activation: Activation
    epsilon: float

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return int(self.layers[0].query.weight.shape[1])
