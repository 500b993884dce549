"""Service discovery and client-side load balancing for gRPC, over an HTTP/2 transport of its own."""

from lbkit.address import Address, Endpoint
from lbkit.backoff import BackoffPolicy
from lbkit.balancer import Balancer, Controller, EndpointBalancer, Subchannel, balancer
from lbkit.call import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from lbkit.callinfo import CallInfo
from lbkit.channel import Channel
from lbkit.connectivity import ConnectivityState
from lbkit.eof import EOF
from lbkit.errors import (
    AbortError,
    AddressError,
    Attempt,
    BrokenPluginError,
    ChannelClosedError,
    ChannelError,
    ConnectError,
    DuplicatePluginError,
    Error,
    ForeignLoopError,
    ForkedError,
    MetadataError,
    NotSupportedError,
    PluginError,
    ResolverError,
    RpcError,
    TargetError,
    UnknownPluginError,
    UsageError,
)
from lbkit.limits import Counters, Limits
from lbkit.metadata import Metadata
from lbkit.picking import QUEUE, Drop, Fail, Outcome, Picked, Picker
from lbkit.resolution import Resolution, Verdict
from lbkit.resolver import Resolver, Sink, Target, resolver
from lbkit.server import Server
from lbkit.service import BlockingContext, ServicerContext
from lbkit.status import Status, StatusCode

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
    "CallInfo",
    "Channel",
    "ChannelClosedError",
    "ChannelError",
    "ConnectError",
    "ConnectivityState",
    "Controller",
    "Counters",
    "Drop",
    "DuplicatePluginError",
    "Endpoint",
    "EndpointBalancer",
    "Error",
    "Fail",
    "ForeignLoopError",
    "ForkedError",
    "Limits",
    "Metadata",
    "MetadataError",
    "NotSupportedError",
    "Outcome",
    "Picked",
    "Picker",
    "PluginError",
    "Resolution",
    "Resolver",
    "ResolverError",
    "RpcError",
    "Server",
    "ServicerContext",
    "Sink",
    "Status",
    "StatusCode",
    "StreamStreamCall",
    "StreamUnaryCall",
    "Subchannel",
    "Target",
    "TargetError",
    "UnaryStreamCall",
    "UnaryUnaryCall",
    "UnknownPluginError",
    "UsageError",
    "Verdict",
    "balancer",
    "resolver",
]
