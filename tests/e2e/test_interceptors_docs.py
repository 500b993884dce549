"""The code blocks of docs/interceptors.md do what the text says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit import interceptors
from lbkit.testing import memory_channel
from tests.support.protos import kinds_pb2
from tests.support.servers import Item, failure, until

PAGE = (Path(__file__).resolve().parents[2] / "docs/interceptors.md").read_text()


@pytest.fixture
def names() -> dict[str, Any]:
    """What the blocks of the page define, one after the other; the servers and channels that they make are unused."""
    found: dict[str, Any] = {"__name__": "page"}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(code, "docs/interceptors.md", "exec", dont_inherit=True), found)
    return found


class Kinds:
    def __init__(self, work: Any) -> None:
        self._work = work

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        return await self._work(request, context)


async def test_client_and_server_interceptors_of_the_page_work_together(names: dict[str, Any]) -> None:
    async def tenant(request: Any, context: Any) -> Any:
        return Item(text=context.invocation_metadata()["x-tenant"])

    maintenance = names["Maintenance"]()
    server = lbkit.Server(interceptors=[maintenance])
    server.add(kinds_pb2, "Kinds", Kinds(tenant))
    async with memory_channel(server, interceptors=[names["Tenant"]("acme")]) as channel:
        call = channel.stub(kinds_pb2, "Kinds").UnaryUnary
        assert (await call(Item())).text == "acme"
        maintenance.on = True
        error = await failure(call(Item()))
        assert (error.code(), error.details()) == (lbkit.StatusCode.UNAVAILABLE, "back in a minute")


async def test_shipped_interceptors_are_put_together_as_on_the_page(names: dict[str, Any]) -> None:
    async def who(request: Any, context: Any) -> Any:
        if request.text:
            raise names["OutOfStock"]("none left")
        return Item(text=interceptors.identity())

    surrounding = [
        interceptors.ServerLogging(),
        interceptors.ServerTiming(lambda timing: None),
        interceptors.BearerAuthentication(names["check"]),
        interceptors.ErrorMapping({names["OutOfStock"]: lbkit.StatusCode.RESOURCE_EXHAUSTED}),
    ]
    server = lbkit.Server(interceptors=surrounding)
    server.add(kinds_pb2, "Kinds", Kinds(who))
    async with memory_channel(server) as channel:
        call = channel.stub(kinds_pb2, "Kinds").UnaryUnary
        token = (("authorization", "Bearer a long random string"),)
        assert (await call(Item(), metadata=token)).text == "ann"
        error = await failure(call(Item(text="x"), metadata=token))
        assert error.code() is lbkit.StatusCode.RESOURCE_EXHAUSTED


async def test_detached_work_of_the_page_goes_on(names: dict[str, Any]) -> None:
    audited = asyncio.Event()
    go = asyncio.Event()

    async def audit(request: Any) -> None:
        await go.wait()
        assert lbkit.current_call() is None
        audited.set()

    names["audit"] = audit
    server = lbkit.Server()
    server.add(kinds_pb2, "Kinds", Kinds(names["Orders"]().Place))
    async with memory_channel(server) as channel:
        assert (await channel.stub(kinds_pb2, "Kinds").UnaryUnary(Item(text="x"))).text == "x"
        go.set()
        await audited.wait()
        await until(lambda: not names["background"])


def test_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 110
