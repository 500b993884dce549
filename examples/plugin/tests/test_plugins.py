"""Both plug-ins keep the rules of their contracts, and do what they are for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import lbkit
from lbkit.testing import check_balancer, check_resolver, memory_channel, virtual_time

BACKENDS = ["10.0.0.1:50051", "10.0.0.2:50051"]


@pytest.fixture(autouse=True)
def variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECKED_BACKENDS", "10.0.0.1:50051, 10.0.0.2:50051")


@contextmanager
def unset() -> Iterator[None]:
    kept = os.environ.pop("CHECKED_BACKENDS")
    yield
    os.environ["CHECKED_BACKENDS"] = kept


def test_env_keeps_the_rules() -> None:
    asyncio.run(check_resolver("env:///CHECKED_BACKENDS", expect=BACKENDS, outage=unset))


def test_sticky_keeps_the_rules() -> None:
    check_balancer("sticky", updates=500)


class Echo:
    """Answers with its name, over raw bytes: no generated code is needed."""

    def __init__(self, name: str) -> None:
        self.server = lbkit.Server()
        self.name = name.encode()
        self.server.add_registered_method_handlers("example.Echo", {"Name": self})

    # What a grpcio method handler has.
    request_streaming = response_streaming = False
    request_deserializer = response_serializer = None
    unary_stream = stream_unary = stream_stream = None

    async def unary_unary(self, request: bytes, context: lbkit.ServicerContext) -> bytes:
        return self.name


@virtual_time
async def test_a_user_stays_with_a_backend() -> None:
    servers = [Echo(f"backend {number}").server for number in range(3)]
    async with memory_channel(*servers, balancer="sticky") as channel:
        name = channel.unary_unary("/example.Echo/Name")
        await channel.ready(5.0)
        await asyncio.sleep(1.0)  # all three are READY, not one
        answers = {
            user: {bytes(await name(b"", metadata=(("user", user),))) for _ in range(5)}
            for user in ("ann", "bob", "cyd", "dan", "eve", "fay", "gus", "hal")
        }
        assert all(len(backends) == 1 for backends in answers.values())
        assert len(set.union(*answers.values())) > 1
