"""Channels whose methods all have one configuration, and policies for it that are quick."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import lbkit
from lbkit import StatusCode
from lbkit.resolution import CallConfig, MethodConfig
from lbkit.retry import HedgingPolicy, RetryPolicy
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S, Backend

UNAVAILABLE = frozenset([StatusCode.UNAVAILABLE])


def retry(attempts: int = 3, backoff_s: float = 0.001) -> MethodConfig:
    return MethodConfig(retry=RetryPolicy(attempts, backoff_s, backoff_s, 1.0, UNAVAILABLE))


def hedge(attempts: int = 3, delay_s: float = 0.0) -> MethodConfig:
    return MethodConfig(hedging=HedgingPolicy(attempts, delay_s, UNAVAILABLE))


class _Selector:
    def __init__(self, config: MethodConfig) -> None:
        self.config = CallConfig(config)

    def select(self, call: lbkit.CallInfo) -> CallConfig:
        return self.config


@asynccontextmanager
async def channel_with(
    config: MethodConfig, *where: Backend | int, **options: Any
) -> AsyncGenerator[lbkit.Channel, None]:
    """A channel to these backends, once all are connected; every call has this configuration."""
    endpoints = tuple(
        lbkit.Endpoint(place.address if isinstance(place, Backend) else f"127.0.0.1:{place}")
        for place in where
    )

    class Fixed(lbkit.Resolver):
        async def run(self, sink: lbkit.Sink) -> None:
            sink.update(lbkit.Resolution(endpoints, selector=_Selector(config)))

    resolver = Fixed(lbkit.Target.parse("fixed:///x", {"fixed"}))
    async with lbkit.Channel("fixed:///x", resolver=resolver, **options) as channel:
        await channel.ready(PATIENCE_S)
        while any(sub.state is not lbkit.ConnectivityState.READY for sub in channel.subchannels()):
            await channel.ready(PATIENCE_S)
        yield channel


@asynccontextmanager
async def kinds_with(config: MethodConfig, *servicers: object, **options: Any) -> AsyncGenerator[Any, None]:
    """A stub of ``Kinds`` for servers with these servicers, one each."""
    servers = [lbkit.Server() for _ in servicers]
    ports = [server.bind("127.0.0.1:0") for server in servers]
    for server, servicer in zip(servers, servicers, strict=True):
        server.add(kinds_pb2, "Kinds", servicer)
        await server.start()
    try:
        async with channel_with(config, *ports, **options) as channel:
            yield channel.stub(kinds_pb2, "Kinds")
    finally:
        for server in servers:
            await server.stop(None)
