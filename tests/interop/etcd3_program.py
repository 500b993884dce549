"""A program that uses etcd3, as tests/interop/test_etcd3.py runs it: ``python -m tests.interop.etcd3_program WHAT HOST:PORT``.

It writes what happens to stdout, a line each, and ends when stdin does; to a line on stdin it answers with the seconds
of CPU that it has used so far.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from typing import Any

import etcd3  # type: ignore[import-untyped]

import lbkit
from lbkit_resolvers.etcd.adapter import Etcd3Registrar, Etcd3Resolver
from tests.support.protos import kinds_pb2


def say(*words: object) -> None:
    print(*words, flush=True)


class Saying(lbkit.Sink):
    def __init__(self) -> None:
        self.clock = asyncio.get_running_loop()
        self.random = random.Random(0)

    def update(self, resolution: lbkit.Resolution) -> lbkit.Verdict:
        say("update", *(f"{endpoint}*{endpoint.weight:g}" for endpoint in resolution.endpoints))
        return lbkit.Verdict(accepted=True)

    def fail(self, error: Exception) -> None:
        say("fail", error)

    async def wanted(self, minimum: float = 30.0, refresh: float | None = None) -> None:
        await asyncio.Event().wait()


async def resolve(client: Any) -> None:
    await Etcd3Resolver(client, "svc/foo").run(Saying())


async def call(client: Any) -> None:
    async with lbkit.Channel("etcd3:///svc/foo", resolver=Etcd3Resolver(client, "svc/foo")) as channel:
        stub = channel.stub(kinds_pb2, "Kinds")
        say("answer", (await stub.UnaryUnary(kinds_pb2.Item(text="hello"), timeout=20.0)).text)
        await asyncio.Event().wait()


async def register(client: Any) -> None:
    registrar = Etcd3Registrar(client, "svc/foo", ttl="2s")
    async with lbkit.Registration(registrar, lbkit.Instance("10.0.0.7:1", weight=3)) as one:
        while True:
            await one.registered()
            say("registered")
            while one.state is lbkit.RegistrationState.REGISTERED:  # noqa: ASYNC110 -- it sets no event
                await asyncio.sleep(0.02)
            say("lost", one.error)


async def answer() -> None:
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        say("cpu", time.process_time())


async def main(what: str, where: str) -> None:
    host, _, port = where.partition(":")
    with etcd3.client(host=host, port=int(port)) as client:
        doing = asyncio.create_task({"resolve": resolve, "call": call, "register": register}[what](client))
        await asyncio.wait({doing, asyncio.create_task(answer())}, return_when=asyncio.FIRST_COMPLETED)
        doing.cancel()
        try:
            await doing
        except asyncio.CancelledError:
            say("end")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
