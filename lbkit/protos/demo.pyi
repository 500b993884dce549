from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

class SayRequest(Message):
    text: str
    work_s: float
    def __init__(self, *, text: str = ..., work_s: float = ...) -> None: ...

class SayReply(Message):
    text: str
    backend: str
    def __init__(self, *, text: str = ..., backend: str = ...) -> None: ...

class DownloadRequest(Message):
    name: str
    def __init__(self, *, name: str = ...) -> None: ...

class Piece(Message):
    data: bytes
    def __init__(self, *, data: bytes = ...) -> None: ...
