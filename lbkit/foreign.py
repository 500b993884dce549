"""grpcio in the same process: errors that its ``except`` clauses catch, classes that its ``isinstance`` knows.

grpcio is never imported here: who has not loaded it needs none of this.
"""

from __future__ import annotations

import abc
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from lbkit.errors import RpcError
from lbkit.status import StatusCode

if TYPE_CHECKING:
    # Typed stubs (mypy-protobuf) choose between their asynchronous and their blocking twin by the class of the
    # channel. Ours has the methods of grpc.aio's with types of its own: Any lets it say so.
    import grpc.aio

    class AioChannel(grpc.aio.Channel):
        """What type checkers take ``lbkit.Channel`` for."""

        get_state: Any
        unary_unary: Any
        unary_stream: Any
        stream_unary: Any
        stream_stream: Any

    class AioServer(grpc.aio.Server):
        """What type checkers take ``lbkit.Server`` for."""

        add_secure_port: Any
else:
    AioChannel = AioServer = object

_made: dict[type, type[RpcError]] = {}  # the classes of errors, by theirs

__all__ = ["AioChannel", "AioServer", "register", "rpc_error_class"]


def rpc_error_class() -> type[RpcError]:
    """Return the class of the errors that calls raise.

    ``lbkit.RpcError``; where grpcio is loaded, a subclass of it that ``except grpc.RpcError`` and
    ``except grpc.aio.AioRpcError`` catch as well. Its constructor is that of ``lbkit.RpcError``.
    """
    theirs = _of_aio("AioRpcError")
    # A grpc that is half imported, mocked, or our own stand-in has no class to derive from.
    if not isinstance(theirs, type) or not issubclass(theirs, Exception) or issubclass(RpcError, theirs):
        return RpcError
    made = _made.get(theirs)
    if made is None:
        made = _made[theirs] = _error_over(theirs)
    return made


def register(name: str, ours: type) -> None:
    """Make ``isinstance(x, grpc.aio.<name>)`` hold for instances of ``ours``, where grpcio is loaded.

    grpc_reflection and grpc_channelz choose between their asynchronous and their blocking servicer that way.
    """
    theirs = _of_aio(name)
    if isinstance(theirs, abc.ABCMeta):
        theirs.register(ours)


def _of_aio(name: str) -> object:
    """Return what grpc.aio has under ``name``; None where grpcio is not loaded."""
    grpc = sys.modules.get("grpc")
    return None if grpc is None else getattr(getattr(grpc, "aio", None), name, None)


def _error_over(theirs: type[Exception]) -> type[RpcError]:
    """Make the class that is both an RpcError and one of theirs."""

    def init(self: Any, code: StatusCode, details: str = "", **more: Any) -> None:
        RpcError.__init__(self, code, details, **more)
        self.args = (code, details)  # theirs is a base as well, and its constructor clears them

    def result(self: RpcError, *_: object) -> NoReturn:
        raise self  # grpc.intercept_channel takes an error for the call that it came from

    def reduce(self: RpcError) -> tuple[Any, ...]:
        return _remake, (self.code(), self.details()), self.__dict__

    return type(
        "RpcError",
        (RpcError, theirs),
        {
            "__module__": "lbkit",  # how a traceback names it
            "__doc__": RpcError.__doc__,
            "__init__": init,
            "__repr__": Exception.__repr__,
            "__reduce__": reduce,
            "debug_error_string": RpcError.__str__,
            "exception": lambda self, *_: self,
            "result": result,
        },
    )


def _remake(code: StatusCode, details: str) -> RpcError:
    """Make a pickled error anew, of the class that is right where it arrives."""
    return rpc_error_class()(code, details)
