from collections.abc import Iterable

from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

class Status(Message):
    code: int
    message: str
    details: RepeatedCompositeFieldContainer[Any]
    def __init__(self, *, code: int = ..., message: str = ..., details: Iterable[Any] = ...) -> None: ...
