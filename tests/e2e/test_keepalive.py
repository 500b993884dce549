"""A server that falls silent is found out, and one that is only slow, or watched by a busy process, is not."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.http2 import frames
from lbkit.http2.frames import frame
from lbkit.testing import memory_channel, virtual_time
from tests.support.servers import (
    PATIENCE_S,
    Backend,
    Item,
    RawPeer,
    channel_to,
    failure,
    listening,
    serving,
    silence,
    unary,
    until,
)
from tests.support.wire import goaway_frame, settings_frame

QUICK: dict[str, Any] = {"keepalive": 0.1, "keepalive_timeout": 0.1}
ANSWERED: dict[str, Any] = {"keepalive": 0.1, "keepalive_timeout": 2.0}
TEXT = "the server did not answer a keepalive PING within 0.1 s"
LENIENT = lbkit.Limits(ping_interval_s=0.0, idle_ping_interval_s=0.0)


class Pinged:
    """A server that answers no call; it counts PINGs, and answers them if it is told to."""

    def __init__(self, *, answers: bool, last_words: bytes = b"") -> None:
        self.answers = answers
        self.last_words = last_words
        self.pings = 0
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read frames until the client closes."""
        self.connections += 1
        peer = RawPeer(reader, writer)
        writer.write(settings_frame())
        try:
            await reader.readexactly(len(frames.PREFACE))
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == frames.PING:
                    self.pings += 1
                    if self.answers:
                        writer.write(frame(frames.PING, frames.ACK, 0, payload))
                    if self.last_words:
                        writer.write(self.last_words)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await peer.close()


async def test_calls_on_a_silent_connection_end_with_the_reason() -> None:
    async with silence(settings_frame()) as port, channel_to(port, **QUICK) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert TEXT in error.details()
        assert channel.counters.exceeded == {"keepalive_timeout": 1}
        assert channel.counters.seen["keepalive_pings"] == 1


async def test_the_channel_connects_anew_after_it() -> None:
    server = Pinged(answers=False)
    async with listening(server.serve) as port, channel_to(port, **QUICK) as channel:
        await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        await until(lambda: server.connections == 2)


async def test_a_server_that_answers_pings_may_take_its_time() -> None:
    server = Pinged(answers=True)
    async with listening(server.serve) as port, channel_to(port, **ANSWERED) as channel:
        call = unary(channel)(Item(), timeout=PATIENCE_S)
        await until(lambda: server.pings >= 5)
        assert not call.done()
        assert server.connections == 1
        call.cancel()


async def test_connections_without_calls_are_left_alone() -> None:
    """Unless that is asked for."""
    quiet, watched = Pinged(answers=True), Pinged(answers=True)
    async with (
        listening(quiet.serve) as one,
        listening(watched.serve) as other,
        channel_to(one, **ANSWERED) as first,
        channel_to(other, **ANSWERED, keepalive_without_calls=True) as second,
    ):
        await first.ready(PATIENCE_S)
        await second.ready(PATIENCE_S)
        await until(lambda: watched.pings >= 3)
        assert quiet.pings == 0


async def test_callers_with_short_deadlines_find_out_too() -> None:
    """No call is open for as long as the connection is silent; but none was answered either."""
    async with silence(settings_frame()) as port, channel_to(port, **QUICK) as channel:
        await channel.ready(PATIENCE_S)
        error = await failure(unary(channel)(Item(), timeout=0.02))
        assert error.code() is StatusCode.DEADLINE_EXCEEDED
        await until(lambda: channel.counters.exceeded == {"keepalive_timeout": 1})


@virtual_time
async def test_traffic_makes_pings_unnecessary() -> None:
    async def slow(request: Any, context: lbkit.ServicerContext) -> Any:
        await asyncio.sleep(request.number)
        return request

    backend = Backend(slow, limits=LENIENT)
    async with memory_channel(backend.server, keepalive=0.5) as channel:
        for _ in range(100):
            await unary(channel)(Item())
            await asyncio.sleep(0.4)
        assert channel.counters.seen["keepalive_pings"] == 0
        await unary(channel)(Item(number=2))
        assert channel.counters.seen["keepalive_pings"] > 0


async def test_a_process_that_was_busy_blames_nobody() -> None:
    """F21: the answer to the PING came while the event loop stood still."""

    async def slow(request: Any, context: lbkit.ServicerContext) -> Any:
        await asyncio.sleep(0.5)
        return request

    server = Pinged(answers=True)
    options: dict[str, Any] = {"keepalive": 0.1, "keepalive_timeout": 0.3}
    async with listening(server.serve) as port, channel_to(port, **options) as channel:
        call = unary(channel)(Item(), timeout=PATIENCE_S)
        for number in range(1, 4):
            await until(lambda: channel.counters.seen["keepalive_pings"] >= number)  # noqa: B023 -- awaited here
            time.sleep(0.6)  # noqa: ASYNC251 -- what must be borne
        assert not call.done()
        assert not channel.counters.exceeded
        call.cancel()
    async with serving(slow, limits=LENIENT) as backend, channel_to(backend, **ANSWERED) as channel:
        waiting = unary(channel)(Item(text="answered"), timeout=PATIENCE_S)
        await until(lambda: channel.counters.seen["keepalive_pings"])
        assert (await waiting).text == "answered"


async def test_a_server_that_finds_it_too_often_slows_us_down(caplog: pytest.LogCaptureFixture) -> None:
    """GRFC A8: for the connections that come later."""
    caplog.set_level(logging.WARNING, "lbkit.transport")
    server = Pinged(
        answers=True, last_words=goaway_frame(0, frames.ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings")
    )
    async with listening(server.serve) as port, channel_to(port, **QUICK) as channel:
        call = unary(channel)(Item(), timeout=PATIENCE_S)
        await until(lambda: "one in 0.2 s" in caplog.text)
        call.cancel()


async def test_lbkits_own_server_says_so_when_it_is_too_often() -> None:
    """Two strikes, and GOAWAY: a PING in five minutes is what everybody takes."""

    async def slow(request: Any, context: lbkit.ServicerContext) -> Any:
        await asyncio.Event().wait()

    async with serving(slow) as backend, channel_to(backend, keepalive=0.03) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "too_many_pings" in error.details()
        assert backend.server.counters.exceeded["ping_strikes"] == 1


@pytest.mark.parametrize("options", [{"keepalive": 0.0}, {"keepalive": 1.0, "keepalive_timeout": -1.0}])
def test_times_must_make_sense(options: Any) -> None:
    with pytest.raises(ValueError, match="keepalive"):
        lbkit.Channel("static:///127.0.0.1:1", **options)
