"""Keepalive between lbkit and grpcio: each tells the other when it is too lively, and the other slows down (gRFC A8)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from tests.support.peers import ROOT, environment, peer
from tests.support.servers import PATIENCE_S, Item, channel_to, failure, serving, unary
from tests.support.tied import tied

pytestmark = pytest.mark.interop

# Makes calls that are never answered, one after the other, and says how long each took and how it ended.
LIVELY = """
import json, sys, time, grpc
port, calls = sys.argv[1:]
options = [("grpc.keepalive_time_ms", 800), ("grpc.keepalive_timeout_ms", 5000),
           ("grpc.http2.max_pings_without_data", 0), ("grpc.initial_reconnect_backoff_ms", 100),
           ("grpc.min_reconnect_backoff_ms", 100), ("grpc.keepalive_permit_without_calls", 0)]
with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
    call = channel.unary_unary("/lbkit.tests.Kinds/UnaryUnary")
    for _ in range(int(calls)):
        grpc.channel_ready_future(channel).result(10)
        began = time.monotonic()
        try:
            call(b"", timeout=20)
        except grpc.RpcError as error:
            print(json.dumps([time.monotonic() - began, error.code().name, error.details()]), flush=True)
"""


@asynccontextmanager
async def script(code: str, *arguments: object) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """Run a Python program, and end it."""
    process = await asyncio.create_subprocess_exec(
        *tied([sys.executable, "-c", code, *map(str, arguments)]),
        stdout=asyncio.subprocess.PIPE, env=environment(), cwd=ROOT,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def hang(request: Any, context: lbkit.ServicerContext) -> Any:
    await asyncio.Event().wait()


async def test_grpcios_client_is_told_and_asks_half_as_often_after_it() -> None:
    strict = lbkit.Limits(ping_strikes=0)
    async with serving(hang, limits=strict) as backend, script(LIVELY, backend.port, 2) as process:
        assert process.stdout is not None
        lines = [await asyncio.wait_for(process.stdout.readline(), 3 * PATIENCE_S) for _ in range(2)]
        said = [json.loads(line) for line in lines]
        assert [code for _, code, _ in said] == ["UNAVAILABLE"] * 2
        assert all("too_many_pings" in details for _, _, details in said), said
        took = [seconds for seconds, _, _ in said]
        # 0.8 s to the first PING and 1 s to the next, which is its least; then 1.6 s.
        assert took[1] > 1.4 * took[0]
        assert backend.server.counters.exceeded["ping_strikes"] == 2


async def test_grpcios_client_may_do_so_where_it_is_allowed() -> None:
    async with (
        serving(hang, keepalive_min_interval=0.05, limits=lbkit.Limits(ping_strikes=0)) as backend,
        script(LIVELY, backend.port, 1) as process,
    ):
        assert process.stdout is not None
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.stdout.readline(), 4.5)
        assert backend.calls == 1
        assert backend.server.counters.seen["pings"] >= 3
        assert not backend.server.counters.exceeded


async def test_our_client_is_told_by_grpcio_and_asks_half_as_often_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "lbkit.transport")
    with peer("grpcio_aio") as process:
        port = (await process.ask("serve"))["port"]
        async with channel_to(port, keepalive=0.1, keepalive_timeout=5.0) as channel:
            for asked in (0.2, 0.4):
                error = await failure(unary(channel)(Item(text="wait"), timeout=2 * PATIENCE_S))
                assert error.code() is StatusCode.UNAVAILABLE
                assert "too many pings" in error.details().lower().replace("_", " ")
                assert f"from now on one in {asked:g} s" in caplog.text


async def test_grpcios_downloads_measure_the_path_without_a_strike() -> None:
    """BDP PINGs of C-core come as often as data does: they are no keepalive."""
    code = """
import sys, grpc
with grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}", [("grpc.max_receive_message_length", -1)]) as channel:
    call = channel.unary_unary("/lbkit.tests.Kinds/UnaryUnary")
    print(sum(len(call(bytes([10, 0]), timeout=20)) for _ in range(30)), flush=True)
"""

    async def large(request: Any, context: lbkit.ServicerContext) -> Any:
        return Item(body=bytes(2 << 20))

    async with (
        serving(large, limits=lbkit.Limits(ping_strikes=0)) as backend,
        script(code, backend.port) as process,
    ):
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 3 * PATIENCE_S)
        assert int(line) > 30 * (2 << 20)
        assert backend.server.counters.seen["pings"] > 0
        assert not backend.server.counters.exceeded


async def test_our_server_finds_a_grpcio_client_that_is_frozen() -> None:
    import signal

    async with (
        serving(hang, keepalive=0.2, keepalive_timeout=0.5) as backend,
        script(LIVELY, backend.port, 1) as process,
    ):
        async with asyncio.timeout(3 * PATIENCE_S):
            # Not before there is a call: until the handshake is over, it is that which is timed.
            while not backend.server.call_counts().started:  # noqa: ASYNC110 -- a call sets no event
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGSTOP)
            while backend.server._connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert backend.server.counters.exceeded["keepalive_timeout"] == 1
