"""Stands in for ``grpc.aio``: ``from lbkit.compat import aio``, or ``import lbkit.compat as grpc`` and ``grpc.aio``.

Channels and servers are lbkit's; what is not said in ``options`` is as grpcio has it. Every public name of ``grpc.aio``
is there. To type checkers the classes are those of types-grpcio, so that a program keeps the types that it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from lbkit.channel import Channel as _Channel
from lbkit.compat.credentials import credentials_keywords
from lbkit.compat.options import Options, channel_keywords, server_keywords
from lbkit.server import Server as _Server

if TYPE_CHECKING:
    from grpc.aio import (
        EOF,
        AbortError,
        AioRpcError,
        BaseError,
        Call,
        Channel,
        ClientCallDetails,
        ClientInterceptor,
        InterceptedUnaryUnaryCall,
        InternalError,
        Metadata,
        RpcContext,
        Server,
        ServerInterceptor,
        ServicerContext,
        StreamStreamCall,
        StreamStreamClientInterceptor,
        StreamStreamMultiCallable,
        StreamUnaryCall,
        StreamUnaryClientInterceptor,
        StreamUnaryMultiCallable,
        UnaryStreamCall,
        UnaryStreamClientInterceptor,
        UnaryStreamMultiCallable,
        UnaryUnaryCall,
        UnaryUnaryClientInterceptor,
        UnaryUnaryMultiCallable,
        UsageError,
    )
else:
    from lbkit.call import (
        StreamStreamCall,
        StreamStreamMultiCallable,
        StreamUnaryCall,
        StreamUnaryMultiCallable,
        UnaryStreamCall,
        UnaryStreamMultiCallable,
        UnaryUnaryCall,
        UnaryUnaryMultiCallable,
    )
    from lbkit.call.intercepted import (
        InterceptedStreamStreamCall,
        InterceptedStreamUnaryCall,
        InterceptedUnaryStreamCall,
        InterceptedUnaryUnaryCall,
    )
    from lbkit.compat.errors import error_class as _error_class
    from lbkit.eof import EOF
    from lbkit.errors import AbortError, UsageError
    from lbkit.errors import Error as BaseError
    from lbkit.interceptor import ClientCallDetails
    from lbkit.interceptor import StreamStreamClientInterceptor as _StreamStream
    from lbkit.interceptor import StreamUnaryClientInterceptor as _StreamUnary
    from lbkit.interceptor import UnaryStreamClientInterceptor as _UnaryStream
    from lbkit.interceptor import UnaryUnaryClientInterceptor as _UnaryUnary
    from lbkit.metadata import MutableMetadata as Metadata
    from lbkit.service import ServicerContext

    Channel = _Channel
    Server = _Server

    class InternalError(BaseError):
        """What grpcio raises when it finds a mistake of its own; lbkit never does."""

    class RpcContext(ABC):  # noqa: B024 -- for isinstance() and subclasses
        """What calls are instances of, and servicers' contexts."""

    class Call(RpcContext):
        """What calls of channels are instances of, of all kinds."""

    for _kind in (UnaryUnaryCall, UnaryStreamCall, StreamUnaryCall, StreamStreamCall):
        Call.register(_kind)
    for _kind in (
        InterceptedUnaryUnaryCall,
        InterceptedUnaryStreamCall,
        InterceptedStreamUnaryCall,
        InterceptedStreamStreamCall,
    ):
        Call.register(_kind)
    RpcContext.register(ServicerContext)

    class ClientInterceptor(ABC):  # noqa: B024 -- for isinstance() and subclasses
        """What client interceptors derive from, through the class of their kind."""

    class UnaryUnaryClientInterceptor(_UnaryUnary, ClientInterceptor):
        """Intercepts unary calls."""

    class UnaryStreamClientInterceptor(_UnaryStream, ClientInterceptor):
        """Intercepts server-streaming calls."""

    class StreamUnaryClientInterceptor(_StreamUnary, ClientInterceptor):
        """Intercepts client-streaming calls."""

    class StreamStreamClientInterceptor(_StreamStream, ClientInterceptor):
        """Intercepts bidirectional calls."""

    class ServerInterceptor(ABC):
        """Chooses the handler of each call."""

        @abstractmethod
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            """Return a handler: what ``await continuation(handler_call_details)`` returned, or another."""

    def __getattr__(name: str) -> Any:
        if name == "AioRpcError":
            return _error_class("aio.AioRpcError")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "EOF",
    "AbortError",
    "AioRpcError",
    "BaseError",
    "Call",
    "Channel",
    "ClientCallDetails",
    "ClientInterceptor",
    "InterceptedUnaryUnaryCall",
    "InternalError",
    "Metadata",
    "RpcContext",
    "Server",
    "ServerInterceptor",
    "ServicerContext",
    "StreamStreamCall",
    "StreamStreamClientInterceptor",
    "StreamStreamMultiCallable",
    "StreamUnaryCall",
    "StreamUnaryClientInterceptor",
    "StreamUnaryMultiCallable",
    "UnaryStreamCall",
    "UnaryStreamClientInterceptor",
    "UnaryStreamMultiCallable",
    "UnaryUnaryCall",
    "UnaryUnaryClientInterceptor",
    "UnaryUnaryMultiCallable",
    "UsageError",
    "init_grpc_aio",
    "insecure_channel",
    "secure_channel",
    "server",
    "shutdown_grpc_aio",
]


def insecure_channel(
    target: str,
    options: Options = None,
    compression: Any = None,
    interceptors: Iterable[object] | None = None,
) -> _Channel:
    """Return a channel without TLS; arguments as those of ``grpc.aio.insecure_channel``.

    Raises:
        ValueError: an option has a wrong value; says which. A target or a service config that is wrong is one, too.
        TypeError: an interceptor is none.
        UnknownPluginError: there is no such policy; says the nearest.
    """
    keywords = channel_keywords(options, stacklevel=3)
    keywords.pop("server_name", None)  # of a certificate that there is not
    return _channel(target, keywords, compression, interceptors)


def secure_channel(
    target: str,
    credentials: Any,
    options: Options = None,
    compression: Any = None,
    interceptors: Iterable[object] | None = None,
) -> _Channel:
    """Return a channel with TLS; arguments as those of ``grpc.aio.secure_channel``, and errors of ``insecure_channel``.

    Args:
        target: whom to talk to.
        credentials: what ``lbkit.compat.ssl_channel_credentials`` or ``lbkit.tls`` made, or grpcio's.
        options: as grpcio takes them.
        compression: of requests, where a call does not say.
        interceptors: surround each call, the first one outermost.

    Raises:
        TypeError: the credentials are none that lbkit can use; says what can be.
    """
    keywords = channel_keywords(options, stacklevel=3)
    keywords = credentials_keywords(credentials, keywords.pop("server_name", None)) | keywords
    return _channel(target, keywords, compression, interceptors)


def server(
    migration_thread_pool: Executor | None = None,
    handlers: Iterable[Any] | None = None,
    interceptors: Iterable[object] | None = None,
    options: Options = None,
    maximum_concurrent_rpcs: int | None = None,
    compression: Any = None,
) -> _Server:
    """Return a server; arguments as those of ``grpc.aio.server``.

    Raises:
        ValueError: an option has a wrong value; says which.
        TypeError: an interceptor is none.
    """
    keywords = server_keywords(options, stacklevel=3)
    if compression:
        keywords["compression"] = compression
    made = _Server(
        threads=migration_thread_pool,
        interceptors=interceptors,
        max_concurrent_rpcs=maximum_concurrent_rpcs,
        **keywords,
    )
    made.add_generic_rpc_handlers(handlers or ())
    return made


def init_grpc_aio() -> None:
    """Do nothing: lbkit needs no start."""


def shutdown_grpc_aio() -> None:
    """Do nothing: what is closed is gone."""


def _channel(
    target: str, keywords: dict[str, Any], compression: Any, interceptors: Iterable[object] | None
) -> _Channel:
    if compression:  # which says more than an option does
        keywords["compression"] = compression
    return _Channel(target, interceptors=interceptors, **keywords)
