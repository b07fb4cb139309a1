"""The protocol's file, its compiled descriptors, and Triton's generated copy of it agree."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import service_pb2

import sparserve.service.grpc_api
from sparserve.service.grpc_api.messages import load_messages, read_descriptors

FOLDER = Path(sparserve.service.grpc_api.__path__[0])
CALLS = {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"}


def fields(message: Descriptor) -> dict[str, Any]:
    own = {one.name: (one.number, one.type, one.is_repeated) for one in message.fields}
    inner = {one.name: fields(one.message_type) for one in message.fields if one.message_type}
    return {"fields": own, "messages": inner}


@pytest.mark.parametrize("name", sorted(load_messages()))
def test_messages_have_the_fields_of_tritons_copy(name: str) -> None:
    theirs = fields(getattr(service_pb2, name).DESCRIPTOR)
    assert fields(load_messages()[name].DESCRIPTOR) == theirs


def test_messages_declare_each_call_with_its_request_and_response() -> None:
    (service,) = read_descriptors().file[0].service
    assert {one.name for one in service.method} == CALLS
    for one in service.method:
        assert (one.input_type, one.output_type) == (f".inference.{one.name}Request", f".inference.{one.name}Response")


def test_messages_are_compiled_from_the_proto_file(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    output = tmp_path / "open_inference.binpb"
    arguments = ["", f"--proto_path={FOLDER}", f"--descriptor_set_out={output}", "open_inference.proto"]
    assert protoc.main(arguments) == 0
    assert type(read_descriptors()).FromString(output.read_bytes()) == read_descriptors()


def test_messages_proto_file_names_every_message_and_field() -> None:
    text = (FOLDER / "open_inference.proto").read_text()
    for message in read_descriptors().file[0].message_type:
        assert f"message {message.name} {{" in text
        for field in message.field:
            assert f" {field.name} = {field.number};" in text
