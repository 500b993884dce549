"""Servers with odd limits, servers that vanish, and peers that are no HTTP/2 servers at all.

The numbers in the names are those of the catalogue of bad servers, C22 to C26.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import lbkit
from lbkit import ConnectivityState, StatusCode
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, Setting, frame
from tests.attacks.bad_server import (
    GOOD,
    GOOD_MESSAGE,
    goaways,
    good,
    hang_up_rudely,
    heard,
    of_kind,
    resets,
    scene,
    unread,
)
from tests.support.servers import (
    PATIENCE_S,
    Item,
    RawPeer,
    channel_to,
    failure,
    listening,
    raw_server,
    serving,
    silence,
    unary,
    until,
)
from tests.support.wire import RESPONSE, data_frame, goaway_frame, settings_frame

QUICK_CONNECT_S = 0.3


def limit_of(streams: int) -> bytes:
    """SETTINGS with a new MAX_CONCURRENT_STREAMS."""
    return settings_frame((Setting.MAX_CONCURRENT_STREAMS, streams))


# C22: MAX_CONCURRENT_STREAMS (RFC 9113 5.1.2)


async def test_c22_limit_of_one_serves_calls_in_turn() -> None:
    async with scene((Setting.MAX_CONCURRENT_STREAMS, 1)) as stage:
        calls = [stage.call() for _ in range(10)]
        for number, call in enumerate(calls):
            await stage.arrived(number + 1)
            await heard(stage.peer)
            assert len(stage.server.heads) == number + 1
            stage.say(good(stage.peer, 2 * number + 1))
            assert await call == GOOD
        assert len(stage.server.peers) == 1
        assert resets(stage.peer) == []


async def test_c22_deadline_applies_to_calls_that_wait_for_room() -> None:
    async with scene((Setting.MAX_CONCURRENT_STREAMS, 1)) as stage:
        (first,) = await stage.calls(1)
        late, patient = stage.call(timeout=0.05), stage.call()
        error = await failure(late)
        assert error.code() is StatusCode.DEADLINE_EXCEEDED
        assert "waiting for a backend" in error.details()
        stage.say(good(stage.peer, 1))
        assert await first == GOOD
        await stage.arrived(2)
        stage.say(good(stage.peer, 3))
        assert await patient == GOOD
        assert len(stage.server.heads) == 2  # the late one never came
        assert [each.in_flight for each in stage.channel.subchannels()] == [0]


async def test_c22_room_of_a_call_that_gave_up_goes_to_the_next() -> None:
    async with scene((Setting.MAX_CONCURRENT_STREAMS, 1)) as stage:
        first = (await stage.calls(1))[0]
        waiting = stage.call()
        first.cancel()
        await stage.arrived(2)
        assert resets(stage.peer) == [(1, ErrorCode.CANCEL)]
        stage.say(good(stage.peer, 3))
        assert await waiting == GOOD


async def test_c22_limit_of_none_waits_without_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0
    selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]  # once for each turn
    select = selector.select

    def counting(timeout: float | None) -> Any:
        nonlocal turns
        turns += 1
        return select(timeout)

    async with scene((Setting.MAX_CONCURRENT_STREAMS, 0)) as stage:
        patient = stage.call()
        monkeypatch.setattr(selector, "select", counting)
        errors = await asyncio.gather(*(failure(stage.call(timeout=0.3)) for _ in range(20)))
        monkeypatch.undo()
        assert {error.code() for error in errors} == {StatusCode.DEADLINE_EXCEEDED}
        assert 0 < turns < 50  # thousands, if it spun
        assert stage.server.heads == []
        assert not patient.done()
        stage.say(limit_of(1))
        await stage.arrived(1)
        stage.say(good(stage.peer, 1))
        assert await patient == GOOD
        assert len(stage.server.peers) == 1


async def test_c22_limit_of_none_for_one_backend_of_two_holds_its_calls_only() -> None:
    """A backend with a limit of 0 is READY: whoever is sent there waits. The others are served."""
    async with scene((Setting.MAX_CONCURRENT_STREAMS, 0)) as stage, serving() as backend:
        both = channel_to(stage.server.port, backend)
        async with both:
            await until(lambda: _ready(both) == 2)
            errors = await asyncio.gather(
                *(unary(both)(Item(text="good"), timeout=0.5) for _ in range(4)), return_exceptions=True
            )
            late = [each for each in errors if isinstance(each, lbkit.RpcError)]
            assert len(late) == backend.calls == 2
            assert {each.code() for each in late} == {StatusCode.DEADLINE_EXCEEDED}


def _ready(channel: lbkit.Channel) -> int:
    channel.get_state(try_to_connect=True)
    return sum(each.state is ConnectivityState.READY for each in channel.subchannels())


async def test_c22_limit_lowered_below_what_is_open_fails_nothing() -> None:
    """RFC 9113 6.5.2: those that are open may stay; the next one waits until there is room by the new limit."""
    async with scene((Setting.MAX_CONCURRENT_STREAMS, 3)) as stage:
        calls = await stage.calls(3)
        stage.say(limit_of(1))
        await heard(stage.peer)
        waiting = stage.call()
        for number, call in enumerate(calls):
            await heard(stage.peer)
            assert len(stage.server.heads) == 3
            stage.say(good(stage.peer, 2 * number + 1))
            assert await call == GOOD
        await stage.arrived(4)
        stage.say(good(stage.peer, 7))
        assert await waiting == GOOD
        assert resets(stage.peer) == []


async def test_c22_limit_raised_lets_those_in_that_wait() -> None:
    async with scene((Setting.MAX_CONCURRENT_STREAMS, 1)) as stage:
        calls = [stage.call() for _ in range(5)]
        await heard(stage.peer)
        assert len(stage.server.heads) == 1
        stage.say(limit_of(4))
        await stage.arrived(4)
        await heard(stage.peer)
        assert len(stage.server.heads) == 4
        stage.say(*(good(stage.peer, stream_id) for stream_id in (1, 3, 5, 7)))
        await stage.arrived(5)
        stage.say(good(stage.peer, 9))
        assert await asyncio.gather(*calls) == [GOOD] * 5


async def test_c22_waiting_calls_leave_a_connection_that_breaks() -> None:
    """They were never sent, so they are free to go elsewhere (gRFC A6)."""
    async with scene((Setting.MAX_CONCURRENT_STREAMS, 1)) as stage:
        (first,) = await stage.calls(1)
        waiting = [stage.call() for _ in range(5)]
        stage.peer.writer.write_eof()
        assert (await failure(first)).code() is StatusCode.UNAVAILABLE
        await asyncio.gather(*waiting)
        assert len(stage.server.peers) == 2
        assert len(stage.server.heads) == 6


# C23: the connection goes away (statuscodes: UNAVAILABLE)

BEGINNINGS: dict[str, Callable[[RawPeer, int], bytes]] = {
    "after the request": lambda peer, stream_id: b"",
    "after the headers": lambda peer, stream_id: peer.headers(stream_id, RESPONSE),
    "in mid message": lambda peer, stream_id: (
        peer.headers(stream_id, RESPONSE) + data_frame(stream_id, GOOD_MESSAGE[:7])
    ),
    "in mid frame": lambda peer, stream_id: (
        peer.headers(stream_id, RESPONSE) + data_frame(stream_id, GOOD_MESSAGE)[:-3]
    ),
    "in a big message": lambda peer, stream_id: (
        peer.headers(stream_id, RESPONSE)
        + data_frame(stream_id, b"\0\0\1\0\0" + bytes(9000))
        + data_frame(stream_id, bytes(16384))[:9000]
    ),
    "before the trailers": lambda peer, stream_id: (
        peer.headers(stream_id, RESPONSE) + data_frame(stream_id, GOOD_MESSAGE)
    ),
    "in a header block": lambda peer, stream_id: frame(frames.HEADERS, 0, stream_id, b"\x88"),
}


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("when", BEGINNINGS)
async def test_c23_broken_connection_is_unavailable_and_not_repeated(when: str, how: str) -> None:
    """The request was sent: what became of it is unknown, so it must not run twice (gRFC A6)."""
    async with scene() as stage:
        victim, other = await stage.calls(2)
        await heard(stage.peer)  # and nothing of ours is unread: closing would make it RST
        stage.say(BEGINNINGS[when](stage.peer, 1))
        await until(lambda: unread(stage.connection) == 0)  # RST would throw away what is
        if how == "FIN":
            stage.peer.writer.write_eof()
        else:
            hang_up_rudely(stage.peer)
        for call in (victim, other):
            error = await failure(call)
            assert error.code() is StatusCode.UNAVAILABLE
            assert "the connection broke" in error.details()
            assert ("the peer closed" if how == "FIN" else "reset by peer") in error.details()
            assert len(error.attempts) == 1
        assert len(stage.server.heads) == 2
        await stage.assert_reconnects()
        assert [each.in_flight for each in stage.channel.subchannels()] == [0]


async def test_c23_answer_before_the_fin_counts() -> None:
    async with scene() as stage:
        first, second = await stage.calls(2)
        stage.say(good(stage.peer, 1))
        stage.peer.writer.write_eof()
        assert await first == GOOD
        assert (await failure(second)).code() is StatusCode.UNAVAILABLE


# C24: a server that accepts and says nothing


async def test_c24_silent_server_is_unavailable_after_the_connect_timeout() -> None:
    async with silence() as port, channel_to(port, connect_timeout=QUICK_CONNECT_S) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "no HTTP/2 SETTINGS within" in error.details()
        assert channel.subchannels()[0].state is not ConnectivityState.READY


async def test_c24_half_a_settings_frame_is_silence_too() -> None:
    half = settings_frame((1, 1))[:12]
    async with silence(half) as port, channel_to(port, connect_timeout=QUICK_CONNECT_S) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert "no HTTP/2 SETTINGS within" in error.details()


@pytest.mark.parametrize("balancer", ["pick_first", "round_robin"])
async def test_c24_next_address_is_tried(balancer: str) -> None:
    options: dict[str, Any] = {"balancer": balancer, "connect_timeout": QUICK_CONNECT_S}
    async with silence() as port, serving() as backend, channel_to(port, backend, **options) as channel:
        for _ in range(3):
            call = unary(channel)(Item(text="good"), timeout=PATIENCE_S, wait_for_ready=True)
            assert await call == GOOD
        assert backend.calls == 3


async def test_c24_connect_timeout_and_not_the_servers_handshake_limit_decides() -> None:
    """``Limits.handshake_timeout_s`` is for servers: a client's attempt has one time-out for all of it."""
    options: dict[str, Any] = {
        "limits": lbkit.Limits(handshake_timeout_s=0.01),
        "connect_timeout": QUICK_CONNECT_S,
    }
    async with silence() as port, channel_to(port, **options) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert f"no HTTP/2 SETTINGS within {QUICK_CONNECT_S} s" in error.details()
        assert not channel.counters.exceeded


# C25: not HTTP/2 (RFC 9113 3.4)

OPENINGS: dict[str, bytes] = {
    "HTTP/1.1 answer": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 answer, a few bytes": b"HTTP",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "client preface": frames.PREFACE,
    "PING": frame(frames.PING, 0, 0, b"ourbytes"),
    "SETTINGS ACK": settings_frame(ack=True),
    "SETTINGS on a stream": frame(frames.SETTINGS, 0, 1, b""),
    "GOAWAY": goaway_frame(0, 11, b"no room"),
    "WINDOW_UPDATE": frame(frames.WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
    "HEADERS": frame(frames.HEADERS, 5, 1, b"\x88"),
    "huge SETTINGS": frame(frames.SETTINGS, 0, 0, bytes(16386)),
}


@pytest.mark.parametrize("name", OPENINGS)
async def test_c25_what_does_not_begin_with_settings_is_unavailable_with_its_first_bytes(name: str) -> None:
    async with silence(OPENINGS[name]) as port, channel_to(port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "does not speak HTTP/2" in error.details()
        assert repr(OPENINGS[name][:60])[2:-1] in error.details()
        assert channel.get_state() is not ConnectivityState.READY


async def test_c25_one_byte_that_no_settings_frame_begins_with_is_enough() -> None:
    """The peer may be waiting for us, and never say more."""
    async with silence(b"H") as port, channel_to(port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "it began with b'H'" in error.details()


async def test_c25_peer_that_hangs_up_at_once_is_unavailable() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(frames.PREFACE))
        await RawPeer(reader, writer).close()

    async with listening(serve) as port, channel_to(port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert error.attempts == ()  # nothing was sent
        assert any(text in error.details() for text in ("closed the connection", "reset by peer"))


async def test_c25_bad_backend_does_not_keep_a_good_one_from_serving() -> None:
    http1 = OPENINGS["HTTP/1.1 answer"]
    async with silence(http1) as port, serving() as backend, channel_to(port, backend) as channel:
        for _ in range(5):
            assert await unary(channel)(Item(text="good"), timeout=PATIENCE_S) == GOOD


# C26: server push (RFC 9113 8.4)


async def test_c26_first_settings_of_the_client_forbid_push() -> None:
    async with scene() as stage:
        await heard(stage.peer)
        (first, *_) = [each for each in of_kind(stage.peer, frames.SETTINGS) if not each.flags]
        pairs = [frames.unpack_setting(first.payload, at) for at in range(0, len(first.payload), 6)]
        assert (Setting.ENABLE_PUSH, 0) in pairs


@pytest.mark.parametrize("stream_id", [0, 1, 2, 99], ids="on stream {}".format)
async def test_c26_push_promise_is_a_connection_error(stream_id: int) -> None:
    async with scene() as stage:
        calls = await stage.calls(2)
        promise = b"\0\0\0\2" + stage.peer.encoder.encode([(b":method", b"GET"), (b":path", b"/")])
        stage.say(frame(frames.PUSH_PROMISE, frames.END_HEADERS, stream_id, promise))
        await stage.assert_connection_error(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE", *calls)


async def test_c26_stream_that_a_server_opens_is_a_connection_error() -> None:
    """Also without a promise: streams of servers are idle for ever (RFC 9113 5.1)."""
    async with scene() as stage:
        calls = await stage.calls(2)
        stage.say(stage.peer.headers(2, RESPONSE))
        await stage.assert_connection_error(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 2", *calls)


async def test_c26_server_that_enables_push_is_a_connection_error() -> None:
    """RFC 9113 6.5.2: a client MUST treat ENABLE_PUSH of 1 as PROTOCOL_ERROR."""

    def answer(peer: RawPeer, stream_id: int) -> bytes:
        return good(peer, stream_id)

    push = settings_frame((Setting.ENABLE_PUSH, 1))
    async with raw_server(answer, push) as server, channel_to(server.port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "ENABLE_PUSH 1" in error.details()
        assert server.heads == []
        await until(lambda: goaways(server.peers[0]))
        assert goaways(server.peers[0]) == [ErrorCode.PROTOCOL_ERROR]
