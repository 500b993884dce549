"""What the server makes of clients that ask badly: one raw request per rule."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from lbkit.encoding.compressors import accepted
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.wire.messages import frame_message
from tests.support.servers import (
    PATH,
    PATIENCE_S,
    Item,
    RawPeer,
    channel_to,
    raw_client,
    request_fields,
    serving,
    unary,
    until,
)
from tests.support.wire import Frame, data_frame, goaway_frame, settings_frame, window_update

GOOD = frame_message(Item(text="good").SerializeToString())
Field = tuple[bytes, bytes]


async def answer(client: RawPeer, stream_id: int) -> dict[bytes, bytes]:
    """Read until a stream ends; return its header fields, an error code as ``reset``, and the body as ``body``."""
    found: dict[bytes, bytes] = {b"body": b""}
    async with asyncio.timeout(PATIENCE_S):
        while True:
            each = await client.next_frame()
            assert each.kind != frames.GOAWAY, each.payload
            if each.kind == frames.HEADERS:
                fields = client.decode(each.payload)
                if each.stream_id == stream_id:
                    found.update(fields)
            if each.stream_id != stream_id:
                continue
            if each.kind == frames.DATA:
                found[b"body"] += each.payload
            if each.kind == frames.RST_STREAM:
                return {**found, b"reset": ErrorCode(int.from_bytes(each.payload, "big")).name.encode()}
            if each.flags & frames.END_STREAM:
                return found


async def assert_served(client: RawPeer, stream_id: int) -> None:
    """The connection still serves a good call."""
    client.writer.write(client.headers(stream_id, request_fields()) + data_frame(stream_id, GOOD, end=True))
    found = await answer(client, stream_id)
    assert (found[b"grpc-status"], found[b"body"]) == (b"0", GOOD)


REFUSED: dict[str, tuple[list[Field], dict[bytes, bytes], str]] = {
    "no content-type": (
        request_fields(without=b"content-type"),
        {b":status": b"415", b"grpc-status": b"2"},
        "content-type",
    ),
    "text/html": (request_fields((b"content-type", b"text/html")), {b":status": b"415"}, "text/html"),
    "application/grpcfoo": (
        request_fields((b"content-type", b"application/grpcfoo")),
        {b":status": b"415"},
        "application/grpcfoo",
    ),
    "GET": (request_fields((b":method", b"GET")), {b":status": b"405", b"grpc-status": b"13"}, "GET"),
    "unknown method": (
        request_fields((b":path", PATH + b"s")),
        {b":status": b"200", b"grpc-status": b"12"},
        "Did you mean",
    ),
    "path without a slash": (request_fields((b":path", b"nonsense")), {b"grpc-status": b"12"}, "nonsense"),
    **{
        f"grpc-timeout {value.decode()}": (
            request_fields((b"grpc-timeout", value)),
            {b":status": b"400", b"grpc-status": b"13"},
            "malformed grpc-timeout",
        )
        for value in (b"1", b"S", b"1x", b"-1S", b"1.5S", b"123456789S")
    },
    "two hosts": (
        [*request_fields((b"host", b"a")), (b"host", b"a")],
        {b":status": b"400", b"grpc-status": b"13"},
        "host",
    ),
    "bad base64": (request_fields((b"x-a-bin", b"?")), {b"grpc-status": b"13"}, "x-a-bin"),
    "unknown encoding": (
        request_fields((b"grpc-encoding", b"snappy")),
        {b":status": b"200", b"grpc-status": b"12", b"grpc-accept-encoding": accepted()},
        "snappy",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_bad_request_head_is_refused_and_the_connection_lives(name: str) -> None:
    fields, expected, text = REFUSED[name]
    async with serving() as backend, raw_client(backend.port) as client:
        client.writer.write(client.headers(1, fields) + data_frame(1, GOOD, end=True))
        found = await answer(client, 1)
        assert {key: found.get(key) for key in expected} == expected
        assert text in found.get(b"grpc-message", b"").decode()
        assert backend.calls == 0
        await assert_served(client, 3)


@pytest.mark.parametrize(
    "fields",
    [
        request_fields((b"te", b"gzip")),
        request_fields((b"connection", b"close")),
        request_fields((b"X-Upper", b"v")),
        request_fields((b"x-lf", b"a\nb")),
        request_fields(without=b":path"),
        request_fields((b":path", b"")),
        [*request_fields(), (b":path", b"/again")],
    ],
    ids=["te", "connection", "upper case", "line feed", "no path", "empty path", "two paths"],
)
async def test_malformed_request_is_reset_and_the_connection_lives(fields: list[Field]) -> None:
    async with serving() as backend, raw_client(backend.port) as client:
        client.writer.write(client.headers(1, fields) + data_frame(1, GOOD, end=True))
        assert (await answer(client, 1))[b"reset"] == b"PROTOCOL_ERROR"
        assert backend.calls == 0
        await assert_served(client, 3)


BODIES = {
    "none": (b"", b"12", "no message"),
    "half a prefix": (GOOD[:3], b"13", "middle of a message"),
    "half a message": (GOOD[:-1], b"13", "middle of a message"),
    "two messages": (GOOD * 2, b"12", "more than one message"),
    "flag 1": (b"\x01" + GOOD[1:], b"13", "flag 1"),
    "flag 200": (b"\xc8" + GOOD[1:], b"13", "flag 200"),
    "4 GiB": (b"\x00\xff\xff\xff\xff", b"8", "4294967295"),
    "no protobuf": (frame_message(b"\xff\xff"), b"13", "cannot be parsed"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_bad_request_message_ends_the_call_only(name: str) -> None:
    body, number, text = BODIES[name]
    async with serving() as backend, raw_client(backend.port) as client:
        client.writer.write(client.headers(1, request_fields()) + data_frame(1, body, end=True))
        found = await answer(client, 1)
        assert found[b"grpc-status"] == number
        assert text in found[b"grpc-message"].decode()
        assert backend.calls == 0
        await assert_served(client, 3)


async def test_too_large_message_is_refused_from_its_prefix_and_sending_stopped() -> None:
    async with serving(max_request_bytes=100) as backend, raw_client(backend.port) as client:
        client.writer.write(client.headers(1, request_fields()) + data_frame(1, b"\0\0\0\0\x65"))
        found = await answer(client, 1)
        assert found[b"grpc-status"] == b"8"
        reset = await client.next_frame()
        assert (reset.kind, reset.stream_id, reset.payload) == (frames.RST_STREAM, 1, bytes(4))  # NO_ERROR
        await assert_served(client, 3)


async def test_message_may_come_a_byte_at_a_time() -> None:
    async with serving() as backend, raw_client(backend.port) as client:
        client.writer.write(client.headers(1, request_fields()))
        for n in range(len(GOOD)):
            client.writer.write(data_frame(1, GOOD[n : n + 1]))
        client.writer.write(data_frame(1, b"", end=True))
        found = await answer(client, 1)
        assert (found[b"grpc-status"], found[b"body"]) == (b"0", GOOD)


async def test_end_may_come_with_trailers() -> None:
    async with serving() as backend, raw_client(backend.port) as client:
        client.writer.write(client.headers(1, request_fields()) + data_frame(1, GOOD))
        client.writer.write(client.headers(1, [(b"x-trailer", b"1")], end=True))
        assert (await answer(client, 1))[b"grpc-status"] == b"0"


async def test_missing_te_is_served() -> None:
    async with serving() as backend, raw_client(backend.port) as client:
        client.writer.write(client.headers(1, request_fields(without=b"te")) + data_frame(1, GOOD, end=True))
        assert (await answer(client, 1))[b"grpc-status"] == b"0"


async def test_streams_above_the_limit_are_refused_and_the_rest_served() -> None:
    go_on = asyncio.Event()

    async def behaviour(request: object, context: object) -> object:
        await go_on.wait()
        return request

    async with serving(behaviour, max_concurrent_streams=3) as backend, raw_client(backend.port) as client:
        for stream_id in (1, 3, 5, 7, 9):
            client.writer.write(
                client.headers(stream_id, request_fields()) + data_frame(stream_id, GOOD, end=True)
            )
        for stream_id in (7, 9):
            assert (await answer(client, stream_id))[b"reset"] == b"REFUSED_STREAM"
        go_on.set()
        await until(lambda: backend.calls == 3)
        await assert_served(client, 11)


async def test_window_of_none_holds_the_answer_back() -> None:
    async with serving() as backend, raw_client(backend.port) as client:
        client.writer.write(settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 0)))
        client.writer.write(client.headers(1, request_fields()) + data_frame(1, GOOD, end=True))
        client.writer.write(frame(frames.PING, 0, 0, b"12345678"))
        async with asyncio.timeout(PATIENCE_S):
            while not any(each.kind == frames.HEADERS for each in client.received):
                await client.next_frame()
        assert not any(each.kind == frames.DATA for each in client.received)
        client.writer.write(window_update(1, 100))
        first: Frame | None = None
        async with asyncio.timeout(PATIENCE_S):
            while first is None or not first.flags & frames.END_STREAM:
                first = await client.next_frame()
        assert [each.payload for each in client.received if each.kind == frames.DATA] == [GOOD]


async def test_goaway_of_a_client_lets_its_calls_finish() -> None:
    go_on = asyncio.Event()

    async def behaviour(request: object, context: object) -> object:
        await go_on.wait()
        return request

    async with serving(behaviour) as backend, raw_client(backend.port) as client:
        client.writer.write(
            client.headers(1, request_fields()) + data_frame(1, GOOD, end=True) + goaway_frame(0)
        )
        await until(lambda: backend.calls)
        go_on.set()
        assert (await answer(client, 1))[b"grpc-status"] == b"0"
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionResetError):  # as good an end as any
                assert await client.reader.read() == b""


@pytest.mark.parametrize(
    ("said", "answer_begins"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (bytes(range(24)), b""),
        (b"\x16\x03\x01\x02\x00", b""),
        (b"PRI * HTTP/2.0\r\n\r\nXX", b""),
    ],
    ids=["S17 HTTP/1", "S16 random", "S16 TLS", "S16 wrong preface"],
)
async def test_stranger_is_hung_up_on_and_others_are_served(said: bytes, answer_begins: bytes) -> None:
    """Who speaks no HTTP/2 cannot read a GOAWAY (RFC 9113 3.4)."""
    async with serving() as backend, channel_to(backend) as channel:
        reader, writer = await asyncio.open_connection("127.0.0.1", backend.port)
        writer.write(said)
        async with asyncio.timeout(PATIENCE_S):
            rest = await reader.read()
        assert rest.startswith(answer_begins)
        assert bool(rest) == bool(answer_begins)
        writer.close()
        await writer.wait_closed()
        assert await unary(channel)(Item(text="x")) == Item(text="x")


async def test_fault_of_a_connection_is_told_and_cancels_its_handlers_only() -> None:
    ended = asyncio.Event()

    async def behaviour(request: Item, context: object) -> Item:
        if request.text == "good":
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()
        return request

    async with (
        serving(behaviour) as backend,
        channel_to(backend) as channel,
        raw_client(backend.port) as client,
    ):
        client.writer.write(client.headers(1, request_fields()) + data_frame(1, GOOD, end=True))
        await until(lambda: backend.calls)
        client.writer.write(frame(frames.PING, 0, 0, b"short"))
        async with asyncio.timeout(PATIENCE_S):
            while (found := await client.next_frame()).kind != frames.GOAWAY:
                pass
            await ended.wait()
        assert int.from_bytes(found.payload[:4], "big") == 1
        assert int.from_bytes(found.payload[4:8], "big") == ErrorCode.FRAME_SIZE_ERROR
        assert await unary(channel)(Item(text="x")) == Item(text="x")
