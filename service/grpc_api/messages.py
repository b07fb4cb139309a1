"""The Open Inference Protocol's messages of gRPC, declared here and built when the extra `grpc` is installed.

Numbers and types of the fields are the protocol's (package inference, service GRPCInferenceService). They live in a
pool of their own, so that a process may load a client's generated copy of the same protocol besides.
"""

from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE: Final = "inference"
SERVICE: Final = f"{PACKAGE}.GRPCInferenceService"
# A field is "number type name"; a type with a + is repeated, * is a map from strings to InferParameter.
_NAMED: Final = ("1 string name", "2 string version")
_TENSOR: Final = ("1 string name", "2 string datatype", "3 +int64 shape")
_FULL_TENSOR: Final = (*_TENSOR, "4 * parameters", "5 InferTensorContents contents")
_MESSAGES: Final[dict[str, tuple[str, ...]]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("1 bool live",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("1 bool ready",),
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": ("1 bool ready",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": (*_NAMED, "3 +string extensions"),
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": (
        "1 string name",
        "2 +string versions",
        "3 string platform",
        "4 +ModelMetadataResponse.TensorMetadata inputs",
        "5 +ModelMetadataResponse.TensorMetadata outputs",
    ),
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelInferRequest": (
        "1 string model_name",
        "2 string model_version",
        "3 string id",
        "4 * parameters",
        "5 +ModelInferRequest.InferInputTensor inputs",
        "6 +ModelInferRequest.InferRequestedOutputTensor outputs",
        "7 +bytes raw_input_contents",
    ),
    "ModelInferRequest.InferInputTensor": _FULL_TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": ("1 string name", "2 * parameters"),
    "ModelInferResponse": (
        "1 string model_name",
        "2 string model_version",
        "3 string id",
        "4 * parameters",
        "5 +ModelInferResponse.InferOutputTensor outputs",
        "6 +bytes raw_output_contents",
    ),
    "ModelInferResponse.InferOutputTensor": _FULL_TENSOR,
    "InferTensorContents": (
        "1 +bool bool_contents",
        "2 +int32 int_contents",
        "3 +int64 int64_contents",
        "4 +uint32 uint_contents",
        "5 +uint64 uint64_contents",
        "6 +float fp32_contents",
        "7 +double fp64_contents",
        "8 +bytes bytes_contents",
    ),
}
CHOICE: Final = "parameter_choice"
_CHOICES: Final = (
    "bool bool_param",
    "int64 int64_param",
    "string string_param",
    "double double_param",
    "uint64 uint64_param",
)


def _declare(message: DescriptorProto, number: int, kind: str, name: str) -> FieldDescriptorProto:
    field = message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
    if kind.startswith("+"):
        field.label, kind = FieldDescriptorProto.LABEL_REPEATED, kind[1:]
    if kind[0].isupper():
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    return field


def _declare_parameters(message: DescriptorProto, path: str, number: int, name: str) -> None:
    entry = message.nested_type.add(name="ParametersEntry")
    entry.options.map_entry = True
    _declare(entry, 1, "string", "key")
    _declare(entry, 2, "InferParameter", "value")
    _declare(message, number, f"+{path}.ParametersEntry", name)


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="open_inference.proto", package=PACKAGE, syntax="proto3")
    parameter = file.message_type.add(name="InferParameter")
    parameter.oneof_decl.add(name=CHOICE)
    for place, choice in enumerate(_CHOICES, 1):
        _declare(parameter, place, *choice.split()).oneof_index = 0
    declared: dict[str, DescriptorProto] = {}
    for path, fields in _MESSAGES.items():
        outer, _, name = path.rpartition(".")
        message = declared[outer].nested_type.add(name=name) if outer else file.message_type.add(name=name)
        declared[path] = message
        for field in fields:
            number, kind, name = field.split()
            if kind == "*":
                _declare_parameters(message, path, int(number), name)
            else:
                _declare(message, int(number), kind, name)
    return file


def messages() -> dict[str, Any]:
    """The classes of the messages, by name."""
    pool = DescriptorPool()
    pool.Add(_file())
    names = [name for name in _MESSAGES if "." not in name]
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in names}
