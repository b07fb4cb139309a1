"""The activations of SparseEncoder against numpy in float64, from tiny to huge."""

import numpy as np
import pytest

from sparserve.kernels.packing import Values
from sparserve.kernels.weights import Activation, EncoderWeights, LayerWeights, LinearWeights, NormWeights
from tests.support.kernels.cases import pack
from tests.support.kernels.reference import encoder_reference, encoder_session, run

pytestmark = pytest.mark.usefixtures("sparse_runtime")


def one_layer(intermediate: LinearWeights, output: LinearWeights, activation: Activation) -> EncoderWeights:
    """Return an encoder of two features in which only the feed-forward layer is not zero."""
    nothing = LinearWeights(np.zeros((2, 2), np.float32))
    plain = NormWeights(np.ones(2, np.float32), np.zeros(2, np.float32))
    layer = LayerWeights(nothing, nothing, nothing, nothing, plain, intermediate, output, plain)
    return EncoderWeights((layer,), 2, activation, 1.0)


ARGUMENTS = [-1e6, -1e3, -30.0, -6.0, -4.0, -2.0, -1.0, -0.5, -0.1, -1e-3, -1e-20]
ARGUMENTS += [-argument for argument in ARGUMENTS]


def activation_error(activation: Activation, x: float, smallest: float, values: Values) -> float:
    """Return the error of the activation of `x` as a fraction of the larger of |x| and `smallest`.

    The bias of one intermediate feature is the argument; LayerNorm of epsilon 1 and of the value, times a weight, and
    of a zero shows it. As int8, one feature alone is a whole number of steps.
    """
    intermediate = LinearWeights(np.zeros((1, 2), np.float32), np.array([x], np.float32))
    weight = np.array([[1 / max(abs(x), smallest)], [0]], np.float32)
    blob, encoder = pack(one_layer(intermediate, LinearWeights(weight), activation), values)
    states, mask = np.zeros((1, 1, 2), np.float32), np.ones((1, 1), np.int64)
    actual = run(encoder_session(blob), states=states, mask=mask)[0, 0].astype(np.float64)
    expected = encoder_reference(encoder, states, mask)[0, 0]

    def value(normed: np.ndarray) -> float:
        """Invert LayerNorm(v, 0), which is +-v / 2 / sqrt(v^2 / 4 + 1)."""
        return float(2 * normed[0] / np.sqrt(1 - normed[0] ** 2))

    return abs(value(actual) - value(expected))


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu", "silu"])
def test_activation_agrees_with_float64_from_tiny_to_huge(isa: str, activation: Activation) -> None:
    errors = {x: activation_error(activation, x, 1e-3, "fp32") for x in ARGUMENTS}
    assert max(errors.values()) < 1e-6, errors


@pytest.mark.parametrize(
    ("activation", "tolerance"), [("none", 1e-6), ("gelu", 3.3e-4), ("gelu_tanh", 1e-6), ("relu", 1e-6), ("silu", 1e-6)]
)
def test_activation_before_quantization_agrees_with_float64(isa: str, activation: Activation, tolerance: float) -> None:
    """GELU is coarser there, by 3.2e-4 of min(1, |x|)."""
    errors = {x: activation_error(activation, x, 1e-3, "int8") for x in ARGUMENTS}
    assert max(errors.values()) < tolerance, errors
