"""What the client makes of servers that answer badly: one scripted answer per rule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from lbkit import StatusCode
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.wire.messages import frame_message
from tests.support.servers import (
    PATIENCE_S,
    Item,
    RawPeer,
    channel_to,
    failure,
    listening,
    raw_server,
    unary,
    until,
)
from tests.support.wire import (
    RESPONSE,
    TRAILERS,
    data_frame,
    goaway_frame,
    reset_frame,
    settings_frame,
    window_update,
)

GOOD = frame_message(Item(text="good").SerializeToString())
Say = Callable[[RawPeer, int], bytes]


def good(peer: RawPeer, stream_id: int) -> bytes:
    """What a good server says."""
    return (
        peer.headers(stream_id, RESPONSE)
        + data_frame(stream_id, GOOD)
        + peer.headers(stream_id, TRAILERS, end=True)
    )


def only(*fields: tuple[bytes, bytes], end: bool = True) -> Say:
    """An answer of one header block; by default it ends the stream."""
    return lambda peer, stream_id: peer.headers(stream_id, fields, end=end)


def trailers(*fields: tuple[bytes, bytes], body: bytes = GOOD) -> Say:
    """A good answer with other trailers."""
    return lambda peer, stream_id: (
        peer.headers(stream_id, RESPONSE)
        + data_frame(stream_id, body)
        + peer.headers(stream_id, fields, end=True)
    )


def status(http: int, *more: tuple[bytes, bytes]) -> Say:
    """An answer of an HTTP proxy, say."""
    return only((b":status", b"%d" % http), (b"content-type", b"text/html"), *more)


def resetting(error: ErrorCode) -> Say:
    """An answer that is none."""
    return lambda peer, stream_id: reset_frame(stream_id, error)


def twice(peer: RawPeer, stream_id: int) -> bytes:
    return peer.headers(stream_id, RESPONSE) + data_frame(stream_id, GOOD) + data_frame(stream_id, GOOD)


def ends_with_data(peer: RawPeer, stream_id: int) -> bytes:
    return peer.headers(stream_id, RESPONSE) + data_frame(stream_id, GOOD, end=True)


def html(peer: RawPeer, stream_id: int) -> bytes:
    head = ((b":status", b"200"), (b"content-type", b"text/html"))
    return peer.headers(stream_id, head) + data_frame(stream_id, b"<html>", end=True)


def third_block(peer: RawPeer, stream_id: int) -> bytes:
    return peer.headers(stream_id, RESPONSE) + peer.headers(stream_id, TRAILERS)


def pseudo_in_trailers(peer: RawPeer, stream_id: int) -> bytes:
    return peer.headers(stream_id, RESPONSE) + peer.headers(stream_id, RESPONSE, end=True)


ANSWERS: dict[str, tuple[Say, StatusCode, str]] = {
    "trailers without grpc-status": (trailers((b"x-a", b"1")), StatusCode.UNKNOWN, "without a grpc-status"),
    "end on DATA": (ends_with_data, StatusCode.INTERNAL, "without trailers"),
    "grpc-status abc": (
        trailers((b"grpc-status", b"abc")),
        StatusCode.UNKNOWN,
        "malformed grpc-status b'abc'",
    ),
    "grpc-status -1": (trailers((b"grpc-status", b"-1")), StatusCode.UNKNOWN, "malformed grpc-status b'-1'"),
    "grpc-status 99": (trailers((b"grpc-status", b"99")), StatusCode.UNKNOWN, "99"),
    "OK without a message": (only(*RESPONSE, *TRAILERS), StatusCode.INTERNAL, "no message"),
    "OK with half a message": (
        trailers(*TRAILERS, body=GOOD[:-1]),
        StatusCode.INTERNAL,
        "middle of a message",
    ),
    "OK with half a prefix": (trailers(*TRAILERS, body=GOOD[:3]), StatusCode.INTERNAL, "middle of a message"),
    "message flag 2": (trailers(*TRAILERS, body=b"\x02" + GOOD[1:]), StatusCode.INTERNAL, "flag 2"),
    "compressed without an encoding": (
        trailers(*TRAILERS, body=b"\x01" + GOOD[1:]),
        StatusCode.INTERNAL,
        "flag 1",
    ),
    "two messages": (twice, StatusCode.INTERNAL, "more than one message"),
    "two messages at once": (
        trailers(*TRAILERS, body=GOOD * 2),
        StatusCode.INTERNAL,
        "more than one message",
    ),
    "a message of 4 GiB": (
        trailers(*TRAILERS, body=b"\0\xff\xff\xff\xff"),
        StatusCode.RESOURCE_EXHAUSTED,
        "4294967295",
    ),
    "bad base64 in trailers": (trailers(*TRAILERS, (b"x-bin", b"!")), StatusCode.INTERNAL, "x-bin"),
    "bad base64 in headers": (only(*RESPONSE, (b"x-bin", b"!"), end=False), StatusCode.INTERNAL, "x-bin"),
    "a web page": (html, StatusCode.UNKNOWN, "text/html"),
    "third header block": (third_block, StatusCode.INTERNAL, "HEADERS in mid-stream"),
    "pseudo-header in trailers": (pseudo_in_trailers, StatusCode.INTERNAL, "malformed trailers"),
    "malformed :status": (only((b":status", b"2x0")), StatusCode.INTERNAL, "malformed response"),
    "huge trailers": (
        trailers(*TRAILERS, (b"x-big", b"v" * 14_000), (b"x-big2", b"v" * 1500), (b"x-b", b"v" * 1000)),
        StatusCode.RESOURCE_EXHAUSTED,
        "limit is",
    ),
    "503 with grpc-status": (status(503, (b"grpc-status", b"5")), StatusCode.NOT_FOUND, ""),
    **{
        f"HTTP {http}": (status(http), code, f"HTTP status {http}")
        for http, code in {
            400: StatusCode.INTERNAL,
            401: StatusCode.UNAUTHENTICATED,
            403: StatusCode.PERMISSION_DENIED,
            404: StatusCode.UNIMPLEMENTED,
            429: StatusCode.UNAVAILABLE,
            502: StatusCode.UNAVAILABLE,
            503: StatusCode.UNAVAILABLE,
            504: StatusCode.UNAVAILABLE,
            500: StatusCode.UNKNOWN,
            302: StatusCode.UNKNOWN,
        }.items()
    },
    **{
        f"RST_STREAM {error.name}": (
            resetting(error),
            code,
            error.name,
        )
        for error, code in {
            ErrorCode.NO_ERROR: StatusCode.INTERNAL,
            ErrorCode.PROTOCOL_ERROR: StatusCode.INTERNAL,
            ErrorCode.INTERNAL_ERROR: StatusCode.INTERNAL,
            ErrorCode.FLOW_CONTROL_ERROR: StatusCode.INTERNAL,
            ErrorCode.CANCEL: StatusCode.CANCELLED,
            ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
            ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
        }.items()
    },
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_bad_answer_fails_its_call_and_no_other(name: str) -> None:
    say, code, text = ANSWERS[name]

    def answer(peer: RawPeer, stream_id: int) -> bytes:
        return say(peer, stream_id) if stream_id == 1 else good(peer, stream_id)

    async with raw_server(answer) as server, channel_to(server.port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is code
        assert text in error.details()
        assert error.backend == f"127.0.0.1:{server.port}"
        assert await unary(channel)(Item(), timeout=PATIENCE_S) == Item(text="good")
        assert len(server.peers) == 1
        assert not channel._dialler._connections.copy().pop().engine.streams


BREAKS: dict[str, Callable[[RawPeer, int], bytes | None]] = {
    "hangs up": lambda peer, stream_id: None,
    "PUSH_PROMISE": lambda peer, stream_id: frame(
        frames.PUSH_PROMISE, frames.END_HEADERS, stream_id, bytes(4)
    ),
    "DATA on an idle stream": lambda peer, stream_id: data_frame(99, b"x"),
    "undecodable headers": lambda peer, stream_id: frame(
        frames.HEADERS, 5, stream_id, b"\xff\xff\xff\xff\xff\xff\xff"
    ),
    "too long a frame": lambda peer, stream_id: b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "window overflow": lambda peer, stream_id: window_update(0, frames.MAX_WINDOW),
    "GOAWAY and hangs up": lambda peer, stream_id: (
        goaway_frame(frames.MAX_STREAM_ID, 2, b"panic") + b"\xff" * 9
    ),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_broken_connection_is_unavailable_and_made_anew(name: str) -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes | None:
        return BREAKS[name](peer, stream_id) if peer is server.peers[0] else good(peer, stream_id)

    async with raw_server(answer) as server, channel_to(server.port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "the connection broke" in error.details()
        answer_2 = await unary(channel)(Item(), timeout=PATIENCE_S, wait_for_ready=True)
        assert answer_2 == Item(text="good")
        assert len(server.peers) == 2


# Tolerated


def informational(peer: RawPeer, stream_id: int) -> bytes:
    early = peer.headers(stream_id, ((b":status", b"100"),)) + peer.headers(
        stream_id, ((b":status", b"103"),)
    )
    return early + good(peer, stream_id)


def bytewise(peer: RawPeer, stream_id: int) -> bytes:
    body = b"".join(data_frame(stream_id, GOOD[n : n + 1]) for n in range(len(GOOD)))
    return peer.headers(stream_id, RESPONSE) + body + peer.headers(stream_id, TRAILERS, end=True)


def noisy(peer: RawPeer, stream_id: int) -> bytes:
    noise = (
        frame(0xFA, 0, 0, b"?")
        + frame(frames.PRIORITY, 0, stream_id, bytes(5))
        + frame(frames.PING, 0, 0, bytes(8))
    )
    return noise + settings_frame() + window_update(0, 1) + good(peer, stream_id)


def empty_frames(peer: RawPeer, stream_id: int) -> bytes:
    return (
        peer.headers(stream_id, RESPONSE)
        + data_frame(stream_id, b"")
        + data_frame(stream_id, GOOD)
        + data_frame(stream_id, b"")
        + peer.headers(stream_id, TRAILERS, end=True)
    )


@pytest.mark.parametrize("say", [good, informational, bytewise, noisy, empty_frames])
async def test_odd_but_legal_answers_are_read(say: Say) -> None:
    async with raw_server(say) as server, channel_to(server.port) as channel:
        for _ in range(3):
            assert await unary(channel)(Item(), timeout=PATIENCE_S) == Item(text="good")
        assert len(server.peers) == 1


async def test_odd_details_never_fail_a_call() -> None:
    say = only(*RESPONSE, (b"grpc-status", b"5"), (b"grpc-message", b"a%zzb%4 %FF"))
    async with raw_server(say) as server, channel_to(server.port) as channel:
        error = await failure(unary(channel)(Item()))
        assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "a%zzb%4 \ufffd")


async def test_answer_before_the_whole_request_stops_the_sending() -> None:
    """The server says its status after the headers: the rest of a big request is not sent."""
    config = settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 1000))

    async def serve_early(peer: RawPeer) -> None:
        while (found := await peer.next_frame()).kind != frames.DATA:
            pass
        peer.writer.write(peer.headers(found.stream_id, (*RESPONSE, (b"grpc-status", b"8")), end=True))
        came = len(found.payload)
        while (found := await peer.next_frame()).kind != frames.RST_STREAM:
            came += len(found.payload)
        assert came <= 1000, "more than the window, which was used up before the answer"

    reset = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        await reader.readexactly(len(frames.PREFACE))
        writer.write(config)
        await serve_early(peer)
        reset.set()
        await peer.close()

    async with listening(serve) as port, channel_to(port) as channel:
        error = await failure(unary(channel)(Item(body=bytes(100_000)), timeout=PATIENCE_S))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        async with asyncio.timeout(PATIENCE_S):
            await reset.wait()


# Refused and unprocessed calls are tried again, once


async def test_refused_stream_is_tried_again_at_once() -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes:
        return reset_frame(stream_id, ErrorCode.REFUSED_STREAM) if stream_id == 1 else good(peer, stream_id)

    async with raw_server(answer) as server, channel_to(server.port) as channel:
        running = unary(channel)(Item(), timeout=PATIENCE_S)
        assert await running == Item(text="good")
        assert len(server.heads) == 2


async def test_calls_refused_by_a_full_server_wait_until_it_has_room() -> None:
    """Sent again at once they would be refused again, and a second refusal is the end (gRFC A6)."""
    refused: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        admitted: int | None = None

        def release(stream_id: int) -> None:
            nonlocal admitted
            admitted = None
            writer.write(good(peer, stream_id))

        try:
            await reader.readexactly(len(frames.PREFACE))
            # One more than it admits.
            writer.write(settings_frame((frames.Setting.MAX_CONCURRENT_STREAMS, 2)))
            while True:
                found = await peer.next_frame()
                if found.kind == frames.HEADERS:
                    peer.decode(found.payload)
                    if admitted is None:
                        admitted = found.stream_id
                    else:
                        refused.append(found.stream_id)
                        writer.write(reset_frame(found.stream_id, ErrorCode.REFUSED_STREAM))
                elif found.kind == frames.DATA and found.stream_id == admitted:
                    # Others come meanwhile.
                    asyncio.get_running_loop().call_later(0.01, release, found.stream_id)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            await peer.close()

    async with listening(serve) as port, channel_to(port) as channel:
        await channel.ready(PATIENCE_S)
        calls = [unary(channel)(Item(), timeout=PATIENCE_S) for _ in range(6)]
        assert await asyncio.gather(*calls) == [Item(text="good")] * 6
        assert len(refused) < 3, "then it was one at a time, but for a try of two after a second"


async def test_call_refused_beside_a_stream_that_stays_is_tried_again_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lbkit.transport.client._REFUSED_S", 0.05)

    def answer(peer: RawPeer, stream_id: int) -> bytes:
        if stream_id == 1:
            return peer.headers(stream_id, RESPONSE)
        return reset_frame(stream_id, ErrorCode.REFUSED_STREAM) if stream_id == 3 else good(peer, stream_id)

    limit = settings_frame((frames.Setting.MAX_CONCURRENT_STREAMS, 2))
    async with raw_server(answer, limit) as server, channel_to(server.port) as channel:
        stays = unary(channel)(Item(), timeout=PATIENCE_S)
        await stays.initial_metadata()
        assert await unary(channel)(Item(), timeout=PATIENCE_S) == Item(text="good")
        assert not stays.done()
        stays.cancel()


async def test_call_refused_twice_is_unavailable_with_both_attempts() -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes:
        return reset_frame(stream_id, ErrorCode.REFUSED_STREAM)

    async with raw_server(answer) as server, channel_to(server.port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert len(error.attempts) == len(server.heads) == 2


async def test_stream_refused_after_its_headers_is_not_tried_again() -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes:
        return peer.headers(stream_id, RESPONSE) + reset_frame(stream_id, ErrorCode.REFUSED_STREAM)

    async with raw_server(answer) as server, channel_to(server.port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert len(server.heads) == 1


async def test_call_above_a_goaways_last_id_is_tried_on_a_new_connection() -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes:
        return goaway_frame(0) if peer is server.peers[0] else good(peer, stream_id)

    async with raw_server(answer) as server, channel_to(server.port) as channel:
        assert await unary(channel)(Item(), timeout=PATIENCE_S) == Item(text="good")
        assert len(server.peers) == 2
        assert [peer.received[-1].kind for peer in server.peers[:1]] != [frames.RST_STREAM]
        assert len([each for each in server.peers[0].received if each.kind == frames.HEADERS]) == 1


async def test_call_below_a_goaways_last_id_finishes_there() -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes:
        said = good(peer, stream_id)
        return goaway_frame(stream_id) + said if peer is server.peers[0] else said

    async with raw_server(answer) as server, channel_to(server.port) as channel:
        assert await unary(channel)(Item(), timeout=PATIENCE_S) == Item(text="good")
        assert len(server.heads) == 1
        assert await unary(channel)(Item(), timeout=PATIENCE_S) == Item(text="good")
        assert len(server.peers) == 2


# Limits that the server announces


async def test_stream_limit_of_one_serves_calls_in_turn() -> None:
    limit = settings_frame((frames.Setting.MAX_CONCURRENT_STREAMS, 1))
    async with raw_server(good, limit) as server, channel_to(server.port) as channel:
        answers = await asyncio.gather(*(unary(channel)(Item(), timeout=PATIENCE_S) for _ in range(20)))
        assert answers == [Item(text="good")] * 20
        assert len(server.peers) == 1


async def test_stream_limit_of_none_waits_for_a_raise() -> None:
    none = settings_frame((frames.Setting.MAX_CONCURRENT_STREAMS, 0))
    async with raw_server(good, none) as server, channel_to(server.port) as channel:
        await channel.ready(PATIENCE_S)
        waiting = unary(channel)(Item(), timeout=PATIENCE_S)
        error = await failure(unary(channel)(Item(), timeout=0.05))
        assert error.code() is StatusCode.DEADLINE_EXCEEDED
        assert server.heads == []
        server.peers[0].writer.write(settings_frame((frames.Setting.MAX_CONCURRENT_STREAMS, 10)))
        assert await waiting == Item(text="good")


async def test_windows_of_the_server_hold_the_request_back() -> None:
    tight = settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 10))
    async with raw_server(good, tight) as server, channel_to(server.port) as channel:
        running: Any = unary(channel)(Item(body=bytes(95)), timeout=PATIENCE_S)
        await until(lambda: server.heads)
        peer = server.peers[0]
        await until(lambda: any(each.kind == frames.DATA for each in peer.received))
        assert [len(each.payload) for each in peer.received if each.kind == frames.DATA] == [10]
        assert not running.done()
        peer.writer.write(window_update(1, 1000))
        assert await running == Item(text="good")
