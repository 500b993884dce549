from collections.abc import Mapping

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import MessageMap
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

class HealthCheckRequest(Message):
    service: str
    def __init__(self, *, service: str = ...) -> None: ...

class HealthCheckResponse(Message):
    UNKNOWN: int
    SERVING: int
    NOT_SERVING: int
    SERVICE_UNKNOWN: int
    status: int
    def __init__(self, *, status: int = ...) -> None: ...

class HealthListRequest(Message): ...

class HealthListResponse(Message):
    statuses: MessageMap[str, HealthCheckResponse]
    def __init__(self, *, statuses: Mapping[str, HealthCheckResponse] = ...) -> None: ...
