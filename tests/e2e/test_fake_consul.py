"""What users of ``fake_consul`` can ask of it, beside what it does like a real one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress

import aiohttp
import pytest

from lbkit.testing import FakeConsul, fake_consul
from tests.e2e.test_consul_faults import Host
from tests.support.servers import PATIENCE_S, until


@pytest.fixture
async def fake() -> AsyncGenerator[FakeConsul, None]:
    async with fake_consul() as running:
        yield running


async def test_instances_are_put_and_changed_by_hand(fake: FakeConsul) -> None:
    async with Host(fake.target("greeter", "tag=a")) as host:
        await host.has()
        fake.put("greeter", "10.0.0.1:80", id="one", tags=["a"], meta={"zone": "eu"}, weights=(3, 1))
        await host.has("10.0.0.1:80")
        fake.set_state("one", "critical")
        await host.has()
        fake.set_state("one", "passing")
        await host.has("10.0.0.1:80")
    found = fake.service("one")
    assert found is not None
    assert (found["Meta"], found["Weights"]) == ({"zone": "eu"}, {"Passing": 3, "Warning": 1})
    assert fake.service("two") is None
    fake.remove("two")  # which changes nothing
    assert [request.get("tag") for request in fake.requests] == ["a"] * len(fake.requests)


async def test_other_fields_are_those_of_the_http_api(fake: FakeConsul) -> None:
    fake.put("greeter", "10.0.0.1:80", TaggedAddresses={"grpc": {"Address": "10.0.0.2", "Port": 90}})
    async with Host(fake.target("greeter")) as host:
        await host.has("10.0.0.2:90")


async def test_index_can_be_left_out(fake: FakeConsul) -> None:
    fake.send_index = False
    fake.put("greeter", "10.0.0.1:80")
    async with Host(fake.target("greeter")) as host:
        await host.has("10.0.0.1:80")
        fake.put("greeter", "10.0.0.2:80")
        await host.has("10.0.0.1:80", "10.0.0.2:80")  # by asking once a second


async def test_restart_forgets_everything_and_breaks_connections(fake: FakeConsul) -> None:
    fake.put("greeter", "10.0.0.1:80")
    async with Host(fake.target("greeter", "empty-guard=0s")) as host:
        await host.has("10.0.0.1:80")
        await until(lambda: len(fake.requests) > 1)
        fake.restart()
        await host.has()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/kv/greeter", "", 404),
        ("GET", "/v1/health/service/greeter?filter=Service.Port+==+80", "", 400),
        ("PUT", "/v1/agent/service/register", "{", 400),
        ("GET", "/v1/agent/service/nobody", "", 404),
        ("PUT", "/v1/agent/check/pass/nobody", "", 404),
    ],
)
async def test_what_it_cannot_do_it_says(
    fake: FakeConsul, method: str, path: str, body: str, status: int
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{fake.address}{path}", data=body) as answer,
    ):
        assert answer.status == status
        assert await answer.text()


async def test_who_was_met_with_silence_is_answered_when_that_is_over(fake: FakeConsul) -> None:
    fake.fault = "silence"
    async with aiohttp.ClientSession() as session:
        asked = asyncio.create_task(session.get(f"http://{fake.address}/v1/health/service/greeter"))
        await until(lambda: fake.requests)
        fake.put("greeter", "127.0.0.1:50051")  # a change ends no silence
        fake.fault = None
        answer = await asyncio.wait_for(asked, PATIENCE_S)
        assert [each["Service"]["Port"] for each in await answer.json()] == [50051]
        answer.close()


async def test_closing_waits_for_no_query(fake: FakeConsul) -> None:
    async with fake_consul() as another:
        another.fault = "silence"
        async with aiohttp.ClientSession() as session:
            asked = asyncio.create_task(session.get(f"http://{another.address}/v1/status/leader"))
            await until(lambda: another.requests)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)


async def test_restart_breaks_a_query_that_the_agent_has_not_read_yet(fake: FakeConsul) -> None:
    """It would block there, with an index that is ahead of the new one."""
    reader, writer = await asyncio.open_connection(*fake.address.split(":"))
    writer.write(b"GET /v1/status/leader HTTP/1.1\r\nHost: consul\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"GET /v1/health/service/greeter?index=1000&wait=60s HTTP/1.1\r\nHost: consul\r\n\r\n")
    fake.restart()
    with suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    assert [request.path for request in fake.requests] == ["/v1/status/leader"]


async def test_missing_aiohttp_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ImportError, match="pip install 'lbkit\\[consul\\]'"):
        async with fake_consul():
            pass
