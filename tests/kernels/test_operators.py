"""Operator inputs: shapes, weights, and graphs with several operators."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, RuntimeException

from sparserve.kernels.packing import pack_encoder, pack_linear
from sparserve.kernels.weights import LinearWeights
from sparserve.service.inference.health import is_out_of_memory
from tests.support.kernels.cases import TOLERANCE, masked_batch
from tests.support.kernels.reference import (
    encoder_reference,
    encoder_session,
    linear_reference,
    linear_session,
    model_bytes,
    open_session,
    random_encoder,
    random_linear,
    relative_error,
    run,
    session_options,
)

pytestmark = pytest.mark.usefixtures("sparse_runtime")


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("first_token_only", [False, True])
def test_operator_empty_batches(isa: str, shape: Any, first_token_only: bool) -> None:
    session = encoder_session(pack_encoder(random_encoder()), first_token_only=first_token_only)
    answer = run(session, states=np.zeros((*shape, 64), np.float32), mask=np.ones(shape, np.int64))
    assert answer.shape == (shape[0], 1 if first_token_only else shape[1], 64)
    assert not answer.any()


def test_operator_rows_without_tokens_need_no_memory(isa: str) -> None:
    """A forged graph may contain any number of empty rows: they need no memory."""
    session = encoder_session(pack_encoder(random_encoder()))
    shape = (1 << 40, 0)
    assert run(session, states=np.zeros((*shape, 64), np.float32), mask=np.ones(shape, np.int64)).shape == (*shape, 64)


def test_operator_passes_on_runtime_errors(isa: str) -> None:
    """The service runs a batch in halves when the message reports too little memory."""
    session = encoder_session(pack_encoder(random_encoder()), first_token_only=True)
    shape = (1 << 40, 0)
    with pytest.raises(Exception, match=r"(?i)GetOutput failed: .*allocate memory") as raised:
        run(session, states=np.zeros((*shape, 64), np.float32), mask=np.ones(shape, np.int64))
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    ("states", "mask", "message"),
    [
        ((2, 5, 63), (2, 5), r"hidden states must be \[batch, length, 64\]"),
        ((5, 64), (2, 5), r"hidden states must be \[batch, length, 64\]"),
        ((1, 2, 5, 64), (2, 5), r"hidden states must be \[batch, length, 64\]"),
        ((2, 5, 64), (2, 4), r"attention mask must be \[batch, length\]"),
        ((2, 5, 64), (5, 2), r"attention mask must be \[batch, length\]"),
        ((2, 5, 64), (2,), r"attention mask must be \[batch, length\]"),
        ((2, 5, 64), (2, 5, 1), r"attention mask must be \[batch, length\]"),
        ((2, 5, 64), (1, 5), r"attention mask must be \[batch, length\]"),
    ],
)
def test_operator_wrong_input_shape_is_refused(isa: str, states: Any, mask: Any, message: str) -> None:
    session = encoder_session(pack_encoder(random_encoder()))
    with pytest.raises(InvalidArgument, match=message):
        run(session, states=np.zeros(states, np.float32), mask=np.ones(mask, np.int64))
    answer = run(session, states=np.zeros((2, 5, 64), np.float32), mask=np.ones((2, 5), np.int64))
    assert np.isfinite(answer).all(), "the session works on"


@pytest.mark.parametrize("shape", [(3, 4, 5, 5), (2, 3, 5, 5), (2, 4, 4, 5), (2, 4, 5, 4), (4, 5, 5), (1, 1, 4, 5, 5)])
def test_operator_wrong_position_bias_shape_is_refused(isa: str, shape: Any) -> None:
    session = encoder_session(pack_encoder(random_encoder()), position_bias=True)
    bias = np.zeros(shape, np.float32)
    with pytest.raises(InvalidArgument, match="position bias must be"):
        run(session, states=np.zeros((2, 5, 64), np.float32), mask=np.ones((2, 5), np.int64), position_bias=bias)


def test_operator_position_bias_needs_same_heads_in_every_layer(isa: str) -> None:
    session = encoder_session(pack_encoder(random_encoder(widths=(64, 32))), position_bias=True)
    states, mask = np.zeros((2, 5, 64), np.float32), np.ones((2, 5), np.int64)
    for heads in (2, 4):
        with pytest.raises(InvalidArgument, match="same heads in every layer"):
            run(session, states=states, mask=mask, position_bias=np.zeros((1, heads, 5, 5), np.float32))


def test_operator_weights_must_be_initializer(isa: str) -> None:
    node = helper.make_node("SparseLinear", ["x", "given"], ["y"], domain="sparserve")
    inputs = {"x": TensorProto.FLOAT, "given": TensorProto.UINT8}
    with pytest.raises(RuntimeException, match="must be an initializer"):
        open_session(node, inputs, b"unused", threads=1)


def test_operator_weights_of_other_operator_are_refused(isa: str) -> None:
    with pytest.raises(RuntimeException, match="belong to the other operator"):
        encoder_session(pack_linear(LinearWeights(np.ones((2, 2), np.float32))))
    with pytest.raises(RuntimeException, match="belong to the other operator"):
        linear_session(pack_encoder(random_encoder()))


def test_operator_several_in_one_graph(isa: str) -> None:
    encoder, linear = random_encoder(), random_linear(np.random.default_rng(0), 3, 64, 0.5)
    blobs = {"first": pack_encoder(encoder), "second": pack_encoder(encoder), "head": pack_linear(linear)}
    nodes = [
        helper.make_node("SparseEncoder", ["states", "mask", "first"], ["middle"], domain="sparserve"),
        helper.make_node(
            "SparseEncoder", ["middle", "mask", "second"], ["token"], domain="sparserve", first_token_only=1
        ),
        helper.make_node("SparseLinear", ["token", "head"], ["y"], domain="sparserve"),
    ]
    model = model_bytes(nodes, {"states": TensorProto.FLOAT, "mask": TensorProto.INT64}, blobs)
    session = onnxruntime.InferenceSession(model, session_options(2), providers=["CPUExecutionProvider"])
    states, mask = masked_batch(64)
    twice = encoder_reference(encoder, encoder_reference(encoder, states, mask), mask)
    expected = linear_reference(linear, twice[:, :1])
    assert relative_error(run(session, states=states, mask=mask), expected) < TOLERANCE


@pytest.mark.parametrize("shape", [(), (43,), (45,), (44, 3), (0,)])
def test_operator_linear_refuses_other_width(isa: str, shape: Any) -> None:
    session = linear_session(pack_linear(random_linear(np.random.default_rng(0), 19, 44, 0.2)))
    with pytest.raises(InvalidArgument, match="last dimension of the activations must be 44"):
        run(session, x=np.zeros(shape, np.float32))
