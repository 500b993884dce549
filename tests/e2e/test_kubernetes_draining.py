"""A channel whose backends are pods that come, stop and go."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import lbkit
from lbkit.testing import fake_kubernetes
from lbkit_resolvers.kubernetes.failures import SLOW_S
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S, Item, failure, fleet, naming, serving, shares, unary


async def settled(channel: lbkit.Channel, *names: str) -> None:
    """Wait until exactly these backends answer."""
    async with asyncio.timeout(PATIENCE_S):
        while (await shares(unary(channel), 12)).keys() != {*names}:
            pass


async def test_channel_follows_the_pods() -> None:
    async with fake_kubernetes() as cluster, fleet(3) as backends:
        one, two, three = (each.address for each in backends)
        cluster.set("greeter", one, two)
        async with lbkit.Channel(cluster.target("greeter:grpc")) as channel:
            await settled(channel, "backend 0", "backend 1")
            assert await shares(unary(channel), 20) == Counter({"backend 0": 10, "backend 1": 10})
            cluster.set("greeter", two, three)
            await settled(channel, "backend 1", "backend 2")
            cluster.fail(500)
            cluster.end_watches("cut")
            for _ in range(3):
                assert (await shares(unary(channel), 12)).keys() == {"backend 1", "backend 2"}


async def test_stopping_pod_gets_no_new_calls_while_its_stream_goes_on() -> None:
    class Streaming:
        def __init__(self) -> None:
            self.more: asyncio.Queue[str] = asyncio.Queue()

        async def UnaryUnary(self, request: Any, context: Any) -> Any:
            return Item(text="stopping")

        async def UnaryStream(self, request: Any, context: Any) -> Any:
            while text := await self.more.get():
                yield Item(text=text)

    servicer = Streaming()
    stopping = lbkit.Server()
    stopping.add(kinds_pb2, "Kinds", servicer)
    address = f"127.0.0.1:{stopping.bind('127.0.0.1:0')}"
    await stopping.start()
    try:
        async with fake_kubernetes() as cluster, serving(naming("staying")) as other:
            cluster.set("greeter", address)
            async with lbkit.Channel(cluster.target("greeter")) as channel:
                stream = channel.stub(kinds_pb2, "Kinds").UnaryStream(Item())
                servicer.more.put_nowait("one")
                assert (await stream.read()).text == "one"
                cluster.set("greeter", address, other.address)
                await settled(channel, "stopping", "staying")
                cluster.set("greeter", address, other.address, draining=[address])
                await settled(channel, "staying")
                assert await shares(unary(channel), 50) == Counter({"staying": 50})
                servicer.more.put_nowait("two")
                assert (await stream.read()).text == "two"
                servicer.more.put_nowait("")
                assert await stream.read() is lbkit.EOF
    finally:
        await stopping.stop(None)


async def test_when_all_are_stopping_they_are_used() -> None:
    async with fake_kubernetes() as cluster, fleet(2) as backends:
        addresses = [each.address for each in backends]
        cluster.set("greeter", *addresses)
        async with lbkit.Channel(cluster.target("greeter")) as channel:
            await settled(channel, "backend 0", "backend 1")
            cluster.set("greeter", *addresses, draining=addresses[:1])
            await settled(channel, "backend 1")
            cluster.set("greeter", *addresses, draining=addresses)
            await settled(channel, "backend 0", "backend 1")


async def test_call_to_a_service_without_pods_says_so() -> None:
    async with fake_kubernetes() as cluster:
        async with lbkit.Channel(cluster.target("greeter")) as channel:
            error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is lbkit.StatusCode.UNAVAILABLE
        assert "the resolver's answer has no endpoints" in error.details()


async def test_call_without_permission_says_which_rule_is_missing() -> None:
    async with fake_kubernetes() as cluster:
        cluster.fail(403)
        async with lbkit.Channel(cluster.target("greeter.shop")) as channel:
            error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is lbkit.StatusCode.UNAVAILABLE
        assert "allow it with a Role with {apiGroups:" in error.details()
        assert "in namespace shop" in error.details()


async def test_who_knows_that_permission_was_given_need_not_wait() -> None:
    async with fake_kubernetes() as cluster, serving(naming("one")) as backend:
        cluster.set("greeter", backend.address)
        cluster.fail(403)
        async with lbkit.Channel(cluster.target("greeter")) as channel:
            await failure(unary(channel)(Item(), timeout=PATIENCE_S))
            cluster.heal()
            channel.reset_backoff()  # else it asks again after 30 s
            assert SLOW_S > PATIENCE_S
            answer = await unary(channel)(Item(), wait_for_ready=True, timeout=PATIENCE_S)
        assert answer.text == "one"
        assert [request.verb for request in cluster.asked][:2] == ["list", "list"]
