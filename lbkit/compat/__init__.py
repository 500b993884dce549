"""Drop-in for grpcio: ``import lbkit.compat as grpc`` is the line that a program changes, or ``from lbkit.compat import aio``.

The names are those of ``grpc``, with ``grpc.aio`` as ``aio``; channels and servers are lbkit's. Generated modules import
grpcio still: where it is not installed, call ``install_grpc_shim()`` before they are imported. See docs/migration.md.
"""

from typing import TYPE_CHECKING, Any

from lbkit.compat import aio
from lbkit.compat.blocking import (
    channel_ready_future,
    insecure_channel,
    intercept_channel,
    secure_channel,
    server,
)
from lbkit.compat.credentials import (
    access_token_call_credentials,
    composite_call_credentials,
    composite_channel_credentials,
    metadata_call_credentials,
    ssl_channel_credentials,
    ssl_server_credentials,
)
from lbkit.compat.install import install_grpc_shim
from lbkit.compat.options import UnknownOptionWarning
from lbkit.compat.shim.handlers import (
    method_handlers_generic_handler,
    stream_stream_rpc_method_handler,
    stream_unary_rpc_method_handler,
    unary_stream_rpc_method_handler,
    unary_unary_rpc_method_handler,
)

if TYPE_CHECKING:  # classes that programs derive from and annotate with: they keep the types that they have
    from grpc import (
        AuthMetadataContext,
        AuthMetadataPlugin,
        AuthMetadataPluginCallback,
        Call,
        CallCredentials,
        Channel,
        ChannelConnectivity,
        ChannelCredentials,
        ClientCallDetails,
        Compression,
        Future,
        FutureCancelledError,
        FutureTimeoutError,
        GenericRpcHandler,
        HandlerCallDetails,
        RpcContext,
        RpcError,
        RpcMethodHandler,
        Server,
        ServerCredentials,
        ServerInterceptor,
        ServicerContext,
        ServiceRpcHandler,
        Status,
        StatusCode,
        StreamStreamClientInterceptor,
        StreamStreamMultiCallable,
        StreamUnaryClientInterceptor,
        StreamUnaryMultiCallable,
        UnaryStreamClientInterceptor,
        UnaryStreamMultiCallable,
        UnaryUnaryClientInterceptor,
        UnaryUnaryMultiCallable,
    )
else:
    from collections.abc import Callable as CallCredentials

    from lbkit.compat.aio import RpcContext
    from lbkit.compat.blocking import ClientCallDetails, ServerInterceptor, Status
    from lbkit.compat.credentials import AuthMetadataPlugin, AuthMetadataPluginCallback, ChannelCredentials
    from lbkit.compat.errors import error_class as _error_class
    from lbkit.compat.shim.handlers import (
        GenericRpcHandler,
        HandlerCallDetails,
        RpcMethodHandler,
        ServiceRpcHandler,
    )
    from lbkit.connectivity import ConnectivityState as ChannelConnectivity
    from lbkit.credentials import CredentialsContext as AuthMetadataContext
    from lbkit.encoding.compressors import Compression
    from lbkit.interceptor import (
        StreamStreamClientInterceptor,
        StreamUnaryClientInterceptor,
        UnaryStreamClientInterceptor,
        UnaryUnaryClientInterceptor,
    )
    from lbkit.security import Tls as ServerCredentials
    from lbkit.service import BlockingContext as ServicerContext
    from lbkit.status import StatusCode
    from lbkit.sync import BlockingCall as Call
    from lbkit.sync import (
        Channel,
        FutureCancelledError,
        FutureTimeoutError,
        Server,
        StreamStreamMultiCallable,
        StreamUnaryMultiCallable,
        UnaryStreamMultiCallable,
        UnaryUnaryMultiCallable,
    )

    Future = Call
    RpcContext.register(Call)
    RpcContext.register(ServicerContext)

    _TLS = "lbkit has TLS only: ssl_channel_credentials and ssl_server_credentials"
    _RELOADING = "use lbkit.tls(cert=path, key=path), which reads files again when they have changed"
    _PROTOC = "generate the modules with protoc"

    # Names of grpc that there are none of here: what to do instead.
    _ABSENT = {
        "LocalConnectionType": _TLS,
        "ServerCertificateConfiguration": _RELOADING,
        "alts_channel_credentials": _TLS,
        "alts_server_credentials": _TLS,
        "compute_engine_channel_credentials": _TLS,
        "dynamic_ssl_server_credentials": _RELOADING,
        "insecure_server_credentials": "use add_insecure_port",
        "local_channel_credentials": _TLS,
        "local_server_credentials": _TLS,
        "protos": _PROTOC,
        "protos_and_services": _PROTOC,
        "services": _PROTOC,
        "ssl_server_certificate_configuration": _RELOADING,
        "xds_channel_credentials": _TLS,
        "xds_server_credentials": _TLS,
    }

    def __getattr__(name: str) -> Any:
        if name == "RpcError":
            return _error_class(name)
        cure = f"; {_ABSENT[name]}" if name in _ABSENT else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{cure}")


__all__ = [
    "AuthMetadataContext",
    "AuthMetadataPlugin",
    "AuthMetadataPluginCallback",
    "Call",
    "CallCredentials",
    "Channel",
    "ChannelConnectivity",
    "ChannelCredentials",
    "ClientCallDetails",
    "Compression",
    "Future",
    "FutureCancelledError",
    "FutureTimeoutError",
    "GenericRpcHandler",
    "HandlerCallDetails",
    "RpcContext",
    "RpcError",
    "RpcMethodHandler",
    "Server",
    "ServerCredentials",
    "ServerInterceptor",
    "ServiceRpcHandler",
    "ServicerContext",
    "Status",
    "StatusCode",
    "StreamStreamClientInterceptor",
    "StreamStreamMultiCallable",
    "StreamUnaryClientInterceptor",
    "StreamUnaryMultiCallable",
    "UnaryStreamClientInterceptor",
    "UnaryStreamMultiCallable",
    "UnaryUnaryClientInterceptor",
    "UnaryUnaryMultiCallable",
    "UnknownOptionWarning",
    "access_token_call_credentials",
    "aio",
    "channel_ready_future",
    "composite_call_credentials",
    "composite_channel_credentials",
    "insecure_channel",
    "install_grpc_shim",
    "intercept_channel",
    "metadata_call_credentials",
    "method_handlers_generic_handler",
    "secure_channel",
    "server",
    "ssl_channel_credentials",
    "ssl_server_credentials",
    "stream_stream_rpc_method_handler",
    "stream_unary_rpc_method_handler",
    "unary_stream_rpc_method_handler",
    "unary_unary_rpc_method_handler",
]
