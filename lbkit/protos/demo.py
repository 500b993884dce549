"""The demo's Echo and Files services: use it as a ``_pb2`` module. Types are in ``demo.pyi``."""

from google.protobuf.message_factory import GetMessageClass

from lbkit.protos import load

DESCRIPTOR = load("demo")
SayRequest = GetMessageClass(DESCRIPTOR.message_types_by_name["SayRequest"])
SayReply = GetMessageClass(DESCRIPTOR.message_types_by_name["SayReply"])
DownloadRequest = GetMessageClass(DESCRIPTOR.message_types_by_name["DownloadRequest"])
Piece = GetMessageClass(DESCRIPTOR.message_types_by_name["Piece"])
