"""Service discovery and client-side load balancing for gRPC, over an HTTP/2 transport of its own."""

from lbkit.address import Address, Endpoint
from lbkit.ambient import detached
from lbkit.backoff import BackoffPolicy
from lbkit.balancer import Balancer, Controller, EndpointBalancer, Subchannel, balancer
from lbkit.call import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from lbkit.callinfo import CallInfo
from lbkit.channel import Channel
from lbkit.connectivity import ConnectivityState
from lbkit.credentials import CallCredentials, CredentialsContext, access_token, composite_credentials
from lbkit.encoding.codecs import Codec, codec
from lbkit.encoding.compressors import Compression, Compressor, compressor
from lbkit.eof import EOF
from lbkit.errors import (
    AbortError,
    AddressError,
    Attempt,
    BrokenPluginError,
    ChannelClosedError,
    ChannelError,
    CompressionError,
    ConnectError,
    CorruptDataError,
    CrashLoopError,
    DuplicatePluginError,
    Error,
    ForeignLoopError,
    ForkedError,
    MetadataError,
    NotSupportedError,
    OversizedDataError,
    PluginError,
    RegistrationError,
    ResolverError,
    RpcError,
    ServiceConfigError,
    TargetError,
    UnknownPluginError,
    UsageError,
)
from lbkit.interceptor import (
    ClientCallDetails,
    ClientInterceptor,
    StreamStreamClientInterceptor,
    StreamUnaryClientInterceptor,
    UnaryStreamClientInterceptor,
    UnaryUnaryClientInterceptor,
)
from lbkit.limits import Counters, Limits
from lbkit.metadata import Metadata, MutableMetadata
from lbkit.picking import QUEUE, Drop, Fail, Outcome, Picked, Picker
from lbkit.processes import serve
from lbkit.registrar import Instance, Registrar, registrar
from lbkit.registration import Registration, RegistrationState
from lbkit.resolution import Discovery, Resolution, Verdict
from lbkit.resolver import Resolver, Sink, resolver
from lbkit.retry import RetryBudget
from lbkit.security import Tls, tls
from lbkit.server import Server
from lbkit.service import BlockingContext, ServerInterceptor, ServicerContext, current_call
from lbkit.status import Status, StatusCode
from lbkit.target import Target

__all__ = [
    "EOF",
    "QUEUE",
    "AbortError",
    "Address",
    "AddressError",
    "Attempt",
    "BackoffPolicy",
    "Balancer",
    "BlockingContext",
    "BrokenPluginError",
    "CallCredentials",
    "CallInfo",
    "Channel",
    "ChannelClosedError",
    "ChannelError",
    "ClientCallDetails",
    "ClientInterceptor",
    "Codec",
    "Compression",
    "CompressionError",
    "Compressor",
    "ConnectError",
    "ConnectivityState",
    "Controller",
    "CorruptDataError",
    "Counters",
    "CrashLoopError",
    "CredentialsContext",
    "Discovery",
    "Drop",
    "DuplicatePluginError",
    "Endpoint",
    "EndpointBalancer",
    "Error",
    "Fail",
    "ForeignLoopError",
    "ForkedError",
    "Instance",
    "Limits",
    "Metadata",
    "MetadataError",
    "MutableMetadata",
    "NotSupportedError",
    "Outcome",
    "OversizedDataError",
    "Picked",
    "Picker",
    "PluginError",
    "Registrar",
    "Registration",
    "RegistrationError",
    "RegistrationState",
    "Resolution",
    "Resolver",
    "ResolverError",
    "RetryBudget",
    "RpcError",
    "Server",
    "ServerInterceptor",
    "ServiceConfigError",
    "ServicerContext",
    "Sink",
    "Status",
    "StatusCode",
    "StreamStreamCall",
    "StreamStreamClientInterceptor",
    "StreamUnaryCall",
    "StreamUnaryClientInterceptor",
    "Subchannel",
    "Target",
    "TargetError",
    "Tls",
    "UnaryStreamCall",
    "UnaryStreamClientInterceptor",
    "UnaryUnaryCall",
    "UnaryUnaryClientInterceptor",
    "UnknownPluginError",
    "UsageError",
    "Verdict",
    "access_token",
    "balancer",
    "codec",
    "composite_credentials",
    "compressor",
    "current_call",
    "detached",
    "registrar",
    "resolver",
    "serve",
    "tls",
]
