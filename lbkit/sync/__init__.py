"""The blocking API: ``sync.Channel`` and ``sync.Server``, with the names of the asynchronous ones.

All of them share one event loop, in a thread that lives as long as the first and the last of them.
"""

from lbkit.sync.channel import Channel
from lbkit.sync.foreign import FutureCancelledError, FutureTimeoutError
from lbkit.sync.handles import BlockingCall, ResponseCall, ResponseIterator
from lbkit.sync.multicallable import (
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from lbkit.sync.registration import Registration
from lbkit.sync.server import Server

__all__ = [
    "BlockingCall",
    "Channel",
    "FutureCancelledError",
    "FutureTimeoutError",
    "Registration",
    "ResponseCall",
    "ResponseIterator",
    "Server",
    "StreamStreamMultiCallable",
    "StreamUnaryMultiCallable",
    "UnaryStreamMultiCallable",
    "UnaryUnaryMultiCallable",
]
