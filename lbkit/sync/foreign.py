"""grpcio's blocking classes in the same process: ``isinstance`` and ``except`` clauses that know ours.

As ``lbkit.foreign`` does it for ``grpc.aio``; grpcio is never imported here.
"""

from __future__ import annotations

import abc
import sys
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Typed stubs (mypy-protobuf) choose between their asynchronous and their blocking twin by the class of the channel.
    import grpc

    class BlockingChannel(grpc.Channel):
        """What type checkers take ``lbkit.sync.Channel`` for."""

        close: Any
        subscribe: Any
        unary_unary: Any
        unary_stream: Any
        stream_unary: Any
        stream_stream: Any
        unsubscribe: Any

    class BlockingServer(grpc.Server):
        """What type checkers take ``lbkit.sync.Server`` for."""

        add_secure_port: Any
else:
    BlockingChannel = BlockingServer = object


class FutureTimeoutError(TimeoutError):
    """A call was not over when somebody gave up waiting for it; it goes on."""


class FutureCancelledError(CancelledError):
    """The result of a call was asked for that was cancelled here."""


_made: dict[tuple[type, type], type] = {}  # the classes of errors that are both ours and theirs


def future_error(name: str, ours: type[Exception]) -> type[Exception]:
    """Return ``ours``; where grpcio is loaded, a subclass that ``except grpc.<name>`` catches as well."""
    theirs = getattr(sys.modules.get("grpc"), name, None)
    if not isinstance(theirs, type) or not issubclass(theirs, Exception):
        return ours
    found = _made.get((ours, theirs))
    if found is None:
        found = _made[ours, theirs] = type(
            name, (ours, theirs), {"__module__": "lbkit.sync", "__doc__": ours.__doc__}
        )
    return found


def register(**ours: type) -> None:
    """Make ``isinstance(x, grpc.<name>)`` hold for instances of our classes, where grpcio is loaded."""
    grpc = sys.modules.get("grpc")
    for name, cls in ours.items():
        theirs = getattr(grpc, name, None)
        if isinstance(theirs, abc.ABCMeta):
            theirs.register(cls)
