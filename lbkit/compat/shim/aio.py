"""Stands in for ``grpc.aio``: the names that handlers and callers are written with."""

from __future__ import annotations

from lbkit.channel import Channel
from lbkit.eof import EOF
from lbkit.errors import AbortError, UsageError
from lbkit.errors import RpcError as AioRpcError
from lbkit.metadata import MutableMetadata as Metadata
from lbkit.server import Server
from lbkit.service import ServicerContext

__all__ = [
    "EOF",
    "AbortError",
    "AioRpcError",
    "Channel",
    "Metadata",
    "Server",
    "ServicerContext",
    "UsageError",
]
