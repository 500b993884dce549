"""Connections that are slow, silent, half dead, of another protocol, or too many: rows S14 to S18, S29 and S30."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest

import lbkit
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, Setting
from lbkit.limits import Limits
from tests.attacks.attacker import (
    ACK,
    BODY,
    HELLO,
    REQUEST_BLOCK,
    Attacker,
    Handlers,
    attacked,
    block,
    call,
    continuation,
    crowd,
    headers,
)
from tests.support.servers import request_fields, until
from tests.support.wire import data_frame, goaway_frame, settings_frame, window_update

KIB = 1024
SOON_S = 0.25  # limits that have to be waited for
DRIP_S = 0.02
CALM = ErrorCode.ENHANCE_YOUR_CALM
TLS_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(506)
HTTP1_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 80\r\n\r\n"
    b"This port speaks gRPC over HTTP/2 with prior knowledge; HTTP/1.1 is not served.\n"
)


async def drip(attacker: Attacker, pieces: Iterable[bytes]) -> None:
    """Send slowly, until everything is sent or the server hangs up: the pace is the attack."""
    for piece in pieces:
        if not await attacker.send(piece):
            return
        await asyncio.sleep(DRIP_S)


def bytewise(data: bytes) -> list[bytes]:
    """Take bytes apart."""
    return [data[at : at + 1] for at in range(len(data))]


# S14: slowloris


@pytest.mark.parametrize(
    ("hello", "slow"),
    [(b"", b""), (b"", frames.PREFACE), (frames.PREFACE, settings_frame((0x42, 0), (0x43, 0)))],
    ids=["silence", "preface", "SETTINGS"],
)
async def test_s14_handshake_must_be_over_in_time(hello: bytes, slow: bytes) -> None:
    """RFC 9113 10.5: from accepting the connection to the whole SETTINGS frame, however it is dripped."""
    async with (
        attacked(limits=Limits(handshake_timeout_s=SOON_S)) as scene,
        scene.attacker(hello) as attacker,
    ):
        await drip(attacker, bytewise(slow[:-1]))
        await attacker.until_hung_up()
        assert scene.exceeded == {"handshake_timeout_s": 1}


async def test_s14_hundred_slow_handshakes_are_all_ended() -> None:
    """RFC 9113 10.5."""
    async with attacked(limits=Limits(handshake_timeout_s=SOON_S)) as scene:
        async with crowd(scene.backend.port, 100, frames.PREFACE[:1]):
            await until(lambda: scene.exceeded["handshake_timeout_s"] == 100)
            await until(lambda: len(scene.connections) == 1)
        await scene.healthy()


@pytest.mark.parametrize(
    "pieces",
    [
        bytewise(headers(3))[:-1],
        [headers(3, REQUEST_BLOCK[:9], flags=0) + b"\0", *bytewise(continuation(3, bytes(200)))[1:-1]],
        bytewise(settings_frame((0x42, 0)) * 5)[:-1],
        bytewise(b"\0\0\1\0\0\0\0\0"),
    ],
    ids=["HEADERS", "CONTINUATION", "SETTINGS", "DATA of which the type is not known yet"],
)
async def test_s14_frame_other_than_data_must_be_complete_in_time(pieces: list[bytes]) -> None:
    """RFC 9113 10.5."""
    limits = Limits(header_timeout_s=SOON_S)
    async with attacked(Handlers(busy=True), limits=limits) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await drip(attacker, pieces)
        await attacker.assert_goaway(CALM, "a frame was not finished", last=1)
        assert scene.exceeded == {"header_timeout_s": 1}


@pytest.mark.parametrize(
    "pieces",
    [
        [headers(3, REQUEST_BLOCK[:9], flags=0)],
        [headers(3, REQUEST_BLOCK[:9], flags=0), *[b"", continuation(3, b"\0")] * 4],
    ],
    ids=["HEADERS, then nothing", "dripped CONTINUATION"],
)
async def test_s14_header_block_must_be_complete_in_time_also_in_whole_frames(pieces: list[bytes]) -> None:
    """RFC 9113 6.10, 10.5: nothing else may come in between, so nothing else would notice."""
    limits = Limits(header_timeout_s=SOON_S)
    async with attacked(Handlers(busy=True), limits=limits) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await drip(attacker, pieces)
        async with asyncio.timeout(4 * SOON_S):
            await attacker.assert_goaway(CALM, last=1)
        assert scene.exceeded == {"header_timeout_s": 1}


async def test_s14_data_may_take_its_time() -> None:
    """RFC 9113 10.5: a slow upload is no attack; its deadline watches over it."""
    limits = Limits(header_timeout_s=SOON_S / 4)
    async with attacked(limits=limits) as scene, scene.attacker() as attacker:
        whole = data_frame(1, BODY, end=True)
        await attacker.send(headers(1) + whole[:9])
        await drip(attacker, bytewise(whole[9:]))
        await attacker.assert_served(1)
        assert not scene.exceeded


async def test_s14_slow_data_ends_with_its_deadline() -> None:
    """PROTOCOL-HTTP2, grpc-timeout: the handler has not begun, and never will."""
    timed = block(request_fields((b"grpc-timeout", b"100m")))
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.send(headers(3, timed) + data_frame(3, BODY)[:-1])
        await attacker.assert_reset(3, ErrorCode.CANCEL)
        await attacker.send(BODY[-1:])
        assert scene.handlers.started == 1
        await scene.assert_lives(attacker, 5)


# S15: the peer is there no more, or takes nothing

OPEN_WINDOWS = HELLO + settings_frame((Setting.INITIAL_WINDOW_SIZE, 1 << 30)) + window_update(0, 1 << 30)


async def test_s15_peer_that_never_reads_is_given_up() -> None:
    """The kernel takes no byte of a long reply for too long (gRFC A18); then its handler ends, too."""
    handlers = Handlers(reply_bytes=3 << 20)
    async with (
        attacked(handlers, limits=Limits(write_timeout_s=SOON_S), sndbuf=4096) as scene,
        scene.attacker(OPEN_WINDOWS, rcvbuf=4096) as attacker,
    ):
        await attacker.send(call(1))
        await until(lambda: scene.handlers.started == 1)
        await until(lambda: scene.exceeded["write_timeout_s"])
        await until(lambda: not scene.tasks)
        await until(lambda: len(scene.connections) == 1)
        await attacker.until_hung_up()
        assert scene.exceeded == {"write_timeout_s": 1}


async def test_s15_peer_that_reads_slowly_is_served() -> None:
    """A byte now and then is enough: it takes twice the time-out here."""
    timeout_s = 0.5
    handlers = Handlers(reply_bytes=1 << 20)
    async with (
        attacked(
            handlers, limits=Limits(write_timeout_s=timeout_s, send_buffer=1 << 18), sndbuf=4096
        ) as scene,
        scene.attacker(OPEN_WINDOWS, rcvbuf=4096) as attacker,
    ):
        loop = asyncio.get_running_loop()
        await attacker.send(call(1))
        slow_until = loop.time() + 2 * timeout_s
        while loop.time() < slow_until:
            await attacker.read()
            await asyncio.sleep(DRIP_S)
        assert scene.tasks == 1
        await attacker.assert_served(1)
        assert attacker.bodies[1] > 1 << 20
        assert not scene.exceeded


# S16, S17, S18: who does not speak HTTP/2


STRANGERS = {
    "random bytes": bytes(range(1, 25)),
    "TLS": TLS_HELLO,
    "wrong in the end": frames.PREFACE[:-1] + b"X",
    "wrong in the middle, and no more": frames.PREFACE[:15] + b"X",
    "one byte": b"\x16",
    "nearly HTTP/1, byte by byte": b"POSE / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("name", STRANGERS)
async def test_s16_wrong_preface_is_hung_up_on_without_a_word(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 9113 3.4: GOAWAY may be left out. Nothing is logged that an operator would have to read."""
    said = STRANGERS[name]
    async with attacked() as scene, scene.attacker(b"") as attacker:
        await attacker.flood(bytewise(said) if "byte by byte" in name else [said])
        await attacker.until_hung_up()
        assert attacker.raw == b""
        assert scene.seen["connection_faults"] == 1
    assert [each for each in caplog.records if each.levelno > logging.DEBUG] == []


async def test_s16_wrong_preface_is_one_line_in_the_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    """RFC 9113 3.4: who looks for the reason finds it."""
    caplog.set_level(logging.DEBUG, "lbkit")
    async with attacked() as scene, scene.attacker(b"") as attacker:
        await attacker.send(STRANGERS["random bytes"])
        await attacker.until_hung_up()
    (record,) = [each for each in caplog.records if each.name.startswith("lbkit")]
    assert "does not speak HTTP/2" in record.getMessage()
    assert record.exc_info is None


@pytest.mark.parametrize(
    "first", [b"\0\0\0\1\4\0\0\0\1", b"\0\0\0\4\1\0\0\0\0", b"\0\x40\1\4\0\0\0\0\0"],
    ids=["HEADERS", "SETTINGS ACK", "SETTINGS of 16 385 bytes"],
)  # fmt: skip
async def test_s16_preface_without_settings_is_hung_up_on(first: bytes) -> None:
    """RFC 9113 3.4."""
    async with attacked() as scene, scene.attacker(frames.PREFACE + first) as attacker:
        await attacker.until_hung_up()
        assert attacker.count(frames.SETTINGS) == 1  # ours went when the preface had come
        assert scene.seen["connection_faults"] == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT"])
async def test_s17_http1_request_is_answered_in_its_own_language(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 9113 3.4: a browser or a health checker of HTTP/1 shows what is wrong."""
    said = f"{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    async with attacked() as scene, scene.attacker(said) as attacker:
        await attacker.until_hung_up()
        assert attacker.raw == HTTP1_ANSWER
    assert [each for each in caplog.records if each.levelno > logging.DEBUG] == []


@pytest.mark.parametrize("alpn", [["h2"], []], ids=["with ALPN", "without"])
async def test_s18_tls_client_on_a_plain_port_fails_at_once_and_harms_nobody(
    alpn: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 9113 3.3. There is no TLS yet; this is what its clients see of a server without."""
    tls = ssl.create_default_context()
    if alpn:
        tls.set_alpn_protocols(alpn)
    async with attacked() as scene:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", scene.backend.port, ssl=tls)
        await until(lambda: scene.seen["connection_faults"] == 1)
        await until(lambda: len(scene.connections) == 1)
    assert [each for each in caplog.records if each.name.startswith("lbkit")] == []


async def test_s18_tls_is_refused_where_it_is_asked_for() -> None:
    """Never plain text where TLS was meant."""
    context: Any = ssl.create_default_context()
    with pytest.raises(TypeError, match=r"use lbkit\.tls\(context="):
        lbkit.Server().bind("127.0.0.1:0", tls=context)
    with pytest.raises(TypeError, match=r"use lbkit\.tls\(context="):
        lbkit.Channel("static:///127.0.0.1:1", tls=context)


# S29: GOAWAY from a client


@pytest.mark.parametrize("code", [ErrorCode.NO_ERROR, ErrorCode.PROTOCOL_ERROR])
async def test_s29_goaway_of_a_client_lets_its_streams_finish_and_closes_then(code: ErrorCode) -> None:
    """RFC 9113 6.8: the last stream id in it is about ours, and we open none."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker(HELLO + ACK) as attacker:
        await attacker.send(call(1) + call(3) + headers(5) + goaway_frame(0, code, b"bye"))
        await until(lambda: scene.handlers.alive == 2)
        await attacker.send(data_frame(5, BODY, end=True))  # the rest of what was open
        await until(lambda: scene.handlers.alive == 3)
        scene.handlers.go_on.set()
        for stream_id in (1, 3, 5):
            await attacker.assert_served(stream_id)
        await attacker.until_hung_up()
        assert attacker.goaways == []
        assert attacker.resets == {}


async def test_s29_goaway_of_an_idle_client_closes_at_once() -> None:
    """RFC 9113 6.8."""
    async with attacked() as scene, scene.attacker() as attacker:
        await attacker.send(call(1))
        await attacker.assert_served(1)
        await attacker.send(goaway_frame(0))
        await attacker.until_hung_up()
        await until(lambda: len(scene.connections) == 1)
        assert not scene.seen["connection_faults"]


# S30: many connections


async def test_s30_connections_above_the_limit_are_closed_and_the_others_live() -> None:
    """RFC 9113 10.5: those that are there are worth more than those that come."""
    async with attacked(limits=Limits(max_connections=20)) as scene:
        async with crowd(scene.backend.port, 30):
            await until(lambda: scene.exceeded["max_connections"] == 11)  # the healthy caller has one
            assert len(scene.connections) == 20
            await scene.healthy()
        await until(lambda: len(scene.connections) == 1)
        async with scene.attacker() as attacker:  # there is room again
            await attacker.send(call(1))
            await attacker.assert_served(1)
        assert scene.exceeded == {"max_connections": 11}


async def test_s30_connections_of_one_address_have_a_limit_of_their_own() -> None:
    """RFC 9113 10.5."""
    async with attacked(limits=Limits(max_connections_per_peer=10)) as scene:
        async with crowd(scene.backend.port, 15):
            await until(lambda: scene.exceeded["max_connections_per_peer"] == 6)
            assert len(scene.connections) == 10
        await until(lambda: len(scene.connections) == 1)
        async with scene.attacker() as attacker:
            await attacker.send(call(1))
            await attacker.assert_served(1)
        assert scene.exceeded == {"max_connections_per_peer": 6}


async def test_s30_connections_that_say_nothing_are_freed_by_the_handshake_timeout() -> None:
    """RFC 9113 10.5."""
    async with attacked(limits=Limits(handshake_timeout_s=2 * SOON_S)) as scene:
        async with crowd(scene.backend.port, 300, b""):
            await until(lambda: scene.exceeded["handshake_timeout_s"] == 300)
            await until(lambda: len(scene.connections) == 1)
        assert scene.exceeded == {"handshake_timeout_s": 300}


async def test_s30_idle_connection_costs_less_than_forty_kilobytes() -> None:
    """The figure is for connections that have shaken hands and do nothing; the clients' sockets are in it too."""
    count = 150
    async with attacked() as scene:
        tracemalloc.start()
        try:
            async with crowd(scene.backend.port, count, HELLO + ACK):
                await until(lambda: len(scene.connections) == count + 1)
                await until(lambda: all(each.engine.settings_acked for each in scene.connections))
                gc.collect()
                used, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await until(lambda: len(scene.connections) == 1)
        assert used / count < 40 * KIB
