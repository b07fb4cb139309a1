"""Messages of the Open Inference Protocol v2: JSON, and the binary tensors that may follow it.

A body is JSON. The header Inference-Header-Content-Length gives the length of the JSON if the binary data of the inputs
follows, in their order, each of `binary_data_size` bytes. A BYTES tensor has for each element its length as a
little-endian 32-bit number and then its bytes; other tensors are numbers in little-endian order.
"""

import codecs
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sparserve.service.api.long_texts import LongTextFields
from sparserve.service.errors import InvalidRequest, UnreadableRequest
from sparserve.service.http.json_body import parse_json
from sparserve.service.limits import check_count
from sparserve.service.strict_model import StrictModel

HEADER: Final = "Inference-Header-Content-Length"
# More than any model here has. Each wrong tensor makes an error message.
MAX_TENSORS: Final = 8
_LENGTH: Final = struct.Struct("<I")


Name = Annotated[str, StringConstraints(max_length=100)]


class Parameters(BaseModel):
    """Parameters of a request, an input or an output; unknown ones are ignored, as the protocol requires."""

    model_config = ConfigDict(extra="allow", strict=True)

    binary_data_size: int | None = Field(None, ge=0, description="bytes of an input's data after the JSON")
    binary_data: bool | None = Field(None, description="true to get an output's data after the JSON")
    binary_data_output: bool | None = Field(None, description="true to get all outputs' data after the JSON")
    classification: int | None = Field(None, ge=1, description="number of best labels to return instead of scores")
    timeout: int | None = Field(None, ge=1, description="limit for the answer in microseconds")


class RequestParameters(Parameters, LongTextFields):
    """Parameters of a request."""


class InputTensor(StrictModel):
    """Texts: shape [n] or [n, 1]."""

    name: Name
    shape: list[int] = Field(max_length=MAX_TENSORS)
    datatype: Name
    parameters: Parameters = Parameters()
    data: list[Any] | None = None


class RequestedOutput(StrictModel):
    """An output that the client requests."""

    name: Name
    parameters: Parameters = Parameters()


class InferRequest(StrictModel):
    """The JSON of an inference request."""

    id: str | None = None
    model_name: str | None = Field(None, description="sent by KServe's client and ignored; the path names the model")
    parameters: RequestParameters = RequestParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=MAX_TENSORS)
    outputs: list[RequestedOutput] = Field([], max_length=MAX_TENSORS)


class Tensor(BaseModel):
    """One output; `data` has strings for BYTES or numbers for FP32, row by row."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


def read_request(body: bytes, header_length: str | None, max_items: int) -> tuple[InferRequest, dict[str, list[str]]]:
    """Return a request and the texts of its inputs by name.

    Raises:
        UnreadableRequest: the body does not match its headers.
        InvalidRequest: an input is not a list of texts, or an input or output is named twice.
        TooLarge: an input has more than `max_items` texts.
    """
    length = len(body)
    if header_length is not None:
        # Python refuses to parse numbers of thousands of digits.
        if not header_length.isdecimal() or len(header_length) > 20 or int(header_length) > len(body):
            raise UnreadableRequest(f"{HEADER} must be the bytes of the JSON, at most the body's {len(body)}")
        length = int(header_length)
    try:
        content = parse_json(body[:length].removeprefix(codecs.BOM_UTF8), orjson.loads)
    except orjson.JSONDecodeError as error:
        raise UnreadableRequest(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    request = _validate(content)
    rest = memoryview(body)[length:]
    texts: dict[str, list[str]] = {}
    for tensor in request.inputs:
        size = tensor.parameters.binary_data_size
        if size is not None and tensor.data is not None:
            raise InvalidRequest(f"input {tensor.name} has both data and binary_data_size: send one of them")
        if size is not None and size > len(rest):
            raise UnreadableRequest(f"input {tensor.name} has {size} bytes, but {len(rest)} are left of the body")
        _add_texts(texts, tensor, None if size is None else bytes(rest[:size]), max_items)
        rest = rest[size or 0 :]
    if len(rest):
        raise UnreadableRequest(f"{len(rest)} bytes are left after the last input")
    _check_outputs(request)
    return request, texts


def read_message(
    content: dict[str, Any], data: Sequence[bytes], max_items: int
) -> tuple[InferRequest, dict[str, list[str]]]:
    """Return a request and the texts of its inputs by name; `data` has the binary data of each input.

    Raises:
        UnreadableRequest, InvalidRequest, TooLarge: as in `read_request`.
    """
    request = _validate(content)
    texts: dict[str, list[str]] = {}
    for tensor, binary in zip(request.inputs, data, strict=True):
        _add_texts(texts, tensor, binary, max_items)
    _check_outputs(request)
    return request, texts


def write_answer(
    answer: dict[str, Any], tensors: Sequence[Tensor], binary: frozenset[str]
) -> tuple[bytes, dict[str, str]]:
    """Return the body of an answer, with the data of the outputs in `binary` after the JSON, and its headers."""
    outputs, tail = [], []
    for tensor in tensors:
        described = tensor.model_dump()
        if tensor.name in binary:
            data = tensor_bytes(tensor)
            del described["data"]
            described["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        outputs.append(described)
    head = orjson.dumps({**answer, "outputs": outputs})
    if not tail:
        return head, {"Content-Type": "application/json"}
    return b"".join([head, *tail]), {"Content-Type": "application/octet-stream", HEADER: str(len(head))}


def pack_texts(texts: Iterable[bytes]) -> bytes:
    """Return the binary data of a BYTES tensor."""
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def _validate(content: Any) -> InferRequest:
    try:
        return InferRequest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place, message = ".".join(map(str, first["loc"])) or "body", first["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"{place}: {message}") from error


def _check_outputs(request: InferRequest) -> None:
    # Every output is as long as the inputs: without this check a short request could have an answer of any length.
    names = [output.name for output in request.outputs]
    for position, name in enumerate(names):
        if name in names[:position]:
            raise InvalidRequest(f"output {name} is there twice")


def _add_texts(texts: dict[str, list[str]], tensor: InputTensor, binary: bytes | None, max_items: int) -> None:
    if tensor.name in texts:
        raise InvalidRequest(f"input {tensor.name} is there twice")
    texts[tensor.name] = _texts(tensor, binary, max_items)


def _texts(tensor: InputTensor, binary: bytes | None, max_items: int) -> list[str]:
    name, shape = tensor.name, tensor.shape
    if tensor.datatype != "BYTES":
        raise InvalidRequest(f"input {name} has datatype {tensor.datatype}: texts are BYTES")
    if not shape or len(shape) > 2 or (len(shape) == 2 and shape[1] != 1) or shape[0] < 1:
        raise InvalidRequest(f"input {name} has shape {shape}: give [n] or [n, 1] with n texts")
    if binary is None and tensor.data is None:
        raise InvalidRequest(f"input {name} has no data")
    check_count(max(shape[0], len(tensor.data or [])), max_items)
    texts = _split(binary, name, shape[0]) if binary is not None else _flat(tensor.data or [])
    if len(texts) != math.prod(shape):
        raise InvalidRequest(f"input {name} has {len(texts)} texts, but the shape {shape}")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidRequest(f"input {name}: element {position} is not a text")
    return texts


def _flat(data: list[Any]) -> list[Any]:
    """Return data of shape [n, 1], which may be nested, as [n]."""
    return [row[0] if isinstance(row, list) and len(row) == 1 else row for row in data]


def _split(data: bytes, name: str, expected: int) -> list[str]:
    texts: list[str] = []
    place = 0
    while place < len(data):
        if len(texts) == expected:
            raise InvalidRequest(f"input {name} has more than the {expected} texts of its shape")
        if place + _LENGTH.size > len(data):
            raise UnreadableRequest(f"input {name}: {len(data) - place} bytes are left, too few for a length")
        (length,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size
        if place + length > len(data):
            raise UnreadableRequest(f"input {name}: text {len(texts)} has {length} bytes, more than are left")
        try:
            texts.append(data[place : place + length].decode())
        except UnicodeDecodeError as error:
            raise UnreadableRequest(f"input {name}: text {len(texts)} is not UTF-8") from error
        place += length
    return texts


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the binary data of an output."""
    if tensor.datatype == "BYTES":
        return pack_texts(text.encode() for text in tensor.data)
    numbers: npt.NDArray[np.float32] = np.asarray(tensor.data, dtype="<f4")
    return numbers.tobytes()
