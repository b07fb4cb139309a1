"""Message classes of the Open Inference Protocol, from the compiled `open_inference.proto`.

They live in a separate descriptor pool, so that a process may load a client's generated copy of the same protocol too.
"""

from importlib.resources import files
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE: Final = "inference"
SERVICE: Final = f"{PACKAGE}.GRPCInferenceService"
PARAMETER_CHOICE: Final = "parameter_choice"


def read_descriptors() -> Any:
    """Return the compiled protocol, a FileDescriptorSet."""
    return FileDescriptorSet.FromString(files(__package__).joinpath("open_inference.binpb").read_bytes())


def load_messages() -> dict[str, Any]:
    """Return the classes of the messages, by name."""
    (file,) = read_descriptors().file
    pool = DescriptorPool()
    pool.Add(file)
    names = [message.name for message in file.message_type]
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in names}
