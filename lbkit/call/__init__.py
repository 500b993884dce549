"""Calls on the client: one kind each for what is streamed in neither, one or both directions."""

from lbkit.call.base import Call
from lbkit.call.handles import StreamStreamCall, StreamUnaryCall, UnaryStreamCall
from lbkit.call.multicallable import (
    MultiCallable,
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from lbkit.call.unary import UnaryUnaryCall

__all__ = [
    "Call",
    "MultiCallable",
    "StreamStreamCall",
    "StreamStreamMultiCallable",
    "StreamUnaryCall",
    "StreamUnaryMultiCallable",
    "UnaryStreamCall",
    "UnaryStreamMultiCallable",
    "UnaryUnaryCall",
    "UnaryUnaryMultiCallable",
]
