"""The messages of the Open Inference Protocol over gRPC, described when they are needed instead of generated.

Names and numbers of the fields are those of
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
CHOICE = "InferParameter"  # one of its fields at a time
MESSAGES = {  # the fields in the order of their numbers: 1, 2, ...
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("bool live",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("bool ready",),
    "ModelReadyRequest": ("string name", "string version"),
    "ModelReadyResponse": ("bool ready",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("string name", "string version", "many string extensions"),
    "ModelMetadataRequest": ("string name", "string version"),
    "TensorMetadata": ("string name", "string datatype", "many int64 shape"),
    "ModelMetadataResponse": (
        "string name",
        "many string versions",
        "string platform",
        "many TensorMetadata inputs",
        "many TensorMetadata outputs",
    ),
    CHOICE: (
        "bool bool_param",
        "int64 int64_param",
        "string string_param",
        "double double_param",
        "uint64 uint64_param",
    ),
    "InferTensorContents": (
        "many bool bool_contents",
        "many int32 int_contents",
        "many int64 int64_contents",
        "many uint32 uint_contents",
        "many uint64 uint64_contents",
        "many float fp32_contents",
        "many double fp64_contents",
        "many bytes bytes_contents",
    ),
    "InferTensor": (  # the same for inputs and outputs
        "string name",
        "string datatype",
        "many int64 shape",
        f"map {CHOICE} parameters",
        "InferTensorContents contents",
    ),
    "InferRequestedOutputTensor": ("string name", f"map {CHOICE} parameters"),
    "ModelInferRequest": (
        "string model_name",
        "string model_version",
        "string id",
        f"map {CHOICE} parameters",
        "many InferTensor inputs",
        "many InferRequestedOutputTensor outputs",
        "many bytes raw_input_contents",
    ),
    "ModelInferResponse": (
        "string model_name",
        "string model_version",
        "string id",
        f"map {CHOICE} parameters",
        "many InferTensor outputs",
        "many bytes raw_output_contents",
    ),
}


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(name=f"{PACKAGE}.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == CHOICE:
            message.oneof_decl.add(name="parameter_choice")
        for number, words in enumerate(fields, 1):
            *how, kind, label = words.split()
            if how == ["map"]:
                how, kind = ["many"], _entry(message, label, kind)
            field = _field(message, number, label, kind)
            if how:
                field.label = FieldDescriptorProto.LABEL_REPEATED
            if name == CHOICE:
                field.oneof_index = 0
    return file


def _field(message: DescriptorProto, number: int, name: str, kind: str) -> FieldDescriptorProto:
    field = message.field.add(number=number, name=name, label=FieldDescriptorProto.LABEL_OPTIONAL)
    if kind.islower():
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    return field


def _entry(message: DescriptorProto, label: str, kind: str) -> str:
    """Add the message that stands for an entry of a map from text, and return its name."""
    entry = message.nested_type.add(name=f"{label.capitalize()}Entry")
    entry.options.map_entry = True
    _field(entry, 1, "key", "string")
    _field(entry, 2, "value", kind)
    return f"{message.name}.{entry.name}"


_pool = DescriptorPool()  # of its own: a client in the same process may know messages of the same names
_pool.Add(_file())


@cache
def message(name: str) -> Any:
    """Return the class of a message."""
    return GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
