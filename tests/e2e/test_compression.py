"""Compressed calls: who says what in the headers, which messages are compressed, and what large ones wait for."""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

import lbkit
from lbkit import StatusCode
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode
from lbkit.wire.messages import frame_message
from tests.support.compressors import NAME, held
from tests.support.protos import kinds_pb2
from tests.support.servers import (
    GROWING_S,
    PATH,
    PATIENCE_S,
    Item,
    RawPeer,
    all_connected,
    calling,
    channel_to,
    failure,
    kinds,
    raw_client,
    raw_server,
    request_fields,
    serving,
    unary,
    until,
)
from tests.support.wire import RESPONSE, TRAILERS, data_frame

KIB = 1024
SMALL = Item(text="the same words " * 20)
LARGE = Item(body=b"0123456789abcdef" * (20 * KIB))  # 320 KiB, of which little is left
NOISE = Item(body=random.Random(2).randbytes(1000))
LIMIT = 1 << 22
BUILT_IN = ["gzip", "deflate", "zstd"]


class Echo:
    """Sends back what comes, in each of the four kinds."""

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        return request

    async def UnaryStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield request
        yield request

    async def StreamUnary(self, requests: AsyncIterator[Any], context: Any) -> Any:
        return Item(number=sum([len(each.body) async for each in requests]), body=LARGE.body)

    async def StreamStream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield request


@pytest.mark.parametrize("item", [Item(), SMALL, NOISE, LARGE], ids=["empty", "small", "noise", "large"])
@pytest.mark.parametrize("name", BUILT_IN)
async def test_every_kind_of_call_can_be_compressed(name: str, item: Any) -> None:
    async with kinds(Echo(), channel={"compression": name}) as stub:
        assert await stub.UnaryUnary(item, timeout=PATIENCE_S) == item
        assert [each async for each in stub.UnaryStream(item, timeout=PATIENCE_S)] == [item] * 2
        assert (await stub.StreamUnary(iter([item] * 3), timeout=PATIENCE_S)).number == 3 * len(item.body)
        found = [each async for each in stub.StreamStream(iter([item] * 3), timeout=PATIENCE_S)]
        assert found == [item] * 3


# What a client sends


class Sent:
    """What a raw server has got."""

    def __init__(self, head: dict[bytes, bytes], peer: RawPeer) -> None:
        self.head = head
        self.data = b"".join(each.payload for each in peer.received if each.kind == frames.DATA)

    def flags(self) -> list[int]:
        """The flag of each message."""
        at, found = 0, []
        while at < len(self.data):
            found.append(self.data[at])
            at += 5 + int.from_bytes(self.data[at + 1 : at + 5], "big")
        return found


async def sent_by(call: Callable[[Any], Any], **options: Any) -> Sent:
    """Have a client make calls of a stub; return what it sent."""
    answered = frame_message(Item().SerializeToString())

    def answer(peer: RawPeer, stream_id: int) -> bytes:
        head = peer.headers(stream_id, RESPONSE)
        return head + data_frame(stream_id, answered) + peer.headers(stream_id, TRAILERS, end=True)

    async with raw_server(answer) as server, channel_to(server.port, **options) as channel:
        await call(channel.stub(kinds_pb2, "Kinds"))
        return Sent(server.heads[0], server.peers[0])


async def test_client_says_what_it_takes_and_compresses_nothing_by_default() -> None:
    sent = await sent_by(lambda stub: stub.UnaryUnary(SMALL))
    assert sent.head[b"grpc-accept-encoding"] == b"identity,deflate,gzip,zstd"
    assert b"grpc-encoding" not in sent.head
    assert sent.flags() == [0]


@pytest.mark.parametrize(
    ("channel", "call", "name"),
    [
        ("gzip", None, b"gzip"),
        (lbkit.Compression.Deflate, None, b"deflate"),
        (None, "gzip", b"gzip"),
        (None, grpc.Compression.Gzip, b"gzip"),
        ("gzip", grpc.Compression.Deflate, b"deflate"),
        ("gzip", "identity", None),
        ("gzip", grpc.Compression.NoCompression, None),
        ("identity", None, None),
    ],
)
async def test_call_has_the_last_word(channel: Any, call: Any, name: bytes | None) -> None:
    sent = await sent_by(lambda stub: stub.UnaryUnary(SMALL, compression=call), compression=channel)
    assert sent.head.get(b"grpc-encoding") == name
    assert sent.flags() == [0 if name is None else 1]


async def test_message_is_sent_as_it_is_where_compressing_gains_nothing() -> None:
    async def stream(stub: Any) -> None:
        await stub.StreamUnary(iter([Item(), NOISE, SMALL, LARGE, SMALL]), compression="gzip")

    sent = await sent_by(stream)
    assert sent.head[b"grpc-encoding"] == b"gzip"
    assert sent.flags() == [0, 0, 1, 1, 1]


async def test_message_of_a_stream_can_be_left_out() -> None:
    async def stream(stub: Any) -> None:
        call = stub.StreamUnary(compression="gzip")
        for compress in (True, False, True):
            await call.write(SMALL, compress=compress)
        await call.done_writing()
        await call

    assert (await sent_by(stream)).flags() == [1, 0, 1]


async def test_order_of_writes_is_kept_though_large_ones_take_longer() -> None:
    async def stream(stub: Any) -> None:
        call = stub.StreamUnary(compression="gzip")
        items = [LARGE, SMALL, Item(), LARGE, SMALL]
        writes = [asyncio.ensure_future(call.write(item, compress=item is not SMALL)) for item in items]
        await asyncio.sleep(0)  # all have begun
        await call.done_writing()
        await asyncio.gather(*writes)
        await call

    assert (await sent_by(stream)).flags() == [1, 0, 0, 1, 0]


async def test_limit_is_for_what_the_message_was_before() -> None:
    async with kinds(Echo(), channel={"compression": "gzip", "max_request_bytes": 1000}) as stub:
        error = await failure(stub.UnaryUnary(LARGE, timeout=PATIENCE_S))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        call = stub.StreamUnary(timeout=PATIENCE_S)
        with pytest.raises(lbkit.RpcError, match="larger than the limit of 1000"):
            await call.write(LARGE)


async def test_unknown_compressor_is_said_at_once() -> None:
    with pytest.raises(lbkit.UnknownPluginError, match="Did you mean 'gzip'"):
        lbkit.Channel("static:///127.0.0.1:1", compression="gzpi")
    with pytest.raises(lbkit.UnknownPluginError, match="Did you mean 'zstd'"):
        lbkit.Server(compression="zst")
    async with calling() as call:
        with pytest.raises(lbkit.UnknownPluginError, match="no compressor 'brotli'"):
            call(Item(), compression="brotli")


async def test_compressor_that_raises_fails_its_call() -> None:
    with held() as compressor:
        compressor.compress = None  # type: ignore[assignment,method-assign]
        async with kinds(Echo(), channel={"compression": NAME}) as stub:
            for item in (SMALL, LARGE):
                assert (await failure(stub.UnaryUnary(item))).code() is StatusCode.INTERNAL
                assert (await failure(stub.StreamUnary(iter([item])))).code() is StatusCode.INTERNAL
            assert await stub.UnaryUnary(SMALL, compression="identity") == SMALL


# What a server sends


async def answer_of(
    behaviour: Callable[[Any, Any], Any],
    *fields: tuple[bytes, bytes],
    method: str = "UnaryUnary",
    request: bytes = frame_message(SMALL.SerializeToString()),
    **options: Any,
) -> tuple[dict[bytes, bytes], Sent]:
    """Make a call frame by frame; return the header fields of the answer, and its messages."""
    async with (
        kinds_server(SimpleNamespace(**{method: behaviour}), **options) as port,
        raw_client(port) as peer,
    ):
        path = b"/lbkit.tests.Kinds/" + method.encode()
        peer.writer.write(peer.headers(1, request_fields((b":path", path), *fields)))
        peer.writer.write(data_frame(1, request, end=True))
        found: dict[bytes, bytes] = {}
        async with asyncio.timeout(PATIENCE_S):
            while b"grpc-status" not in found:
                frame = await peer.next_frame()
                if frame.kind == frames.HEADERS:
                    found.update(peer.decode(frame.payload))
        return found, Sent(found, peer)


@contextlib.asynccontextmanager
async def kinds_server(servicer: object, **options: Any) -> AsyncIterator[int]:
    server = lbkit.Server(**options)
    server.add(kinds_pb2, "Kinds", servicer)
    port = server.bind("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def echo(request: Any, context: Any) -> Any:
    return request


TAKES_GZIP = (b"grpc-accept-encoding", b"identity, gzip")
IN_GZIP = (b"grpc-encoding", b"gzip")


@pytest.mark.parametrize(
    ("server", "fields", "name"),
    [
        (None, (), None),
        (None, (TAKES_GZIP,), None),
        (None, (TAKES_GZIP, IN_GZIP), b"gzip"),  # as grpc-go: as the request was
        (None, (IN_GZIP,), None),  # the client does not say that it takes that
        (None, ((b"grpc-encoding", b"deflate"), TAKES_GZIP), None),
        ("gzip", (TAKES_GZIP,), b"gzip"),
        ("gzip", (), None),
        ("deflate", (TAKES_GZIP,), None),
        ("deflate", (TAKES_GZIP, IN_GZIP), None),
        ("identity", (TAKES_GZIP, IN_GZIP), None),
    ],
)
async def test_server_compresses_as_it_was_told_if_the_client_takes_that(
    server: str | None, fields: tuple[tuple[bytes, bytes], ...], name: bytes | None
) -> None:
    found, sent = await answer_of(echo, *fields, compression=server)
    assert found[b"grpc-status"] == b"0"
    assert found.get(b"grpc-encoding") == name
    assert found[b"grpc-accept-encoding"] == b"identity,deflate,gzip,zstd"
    assert sent.flags() == [0 if name is None else 1]


async def test_handler_has_the_last_word() -> None:
    async def behaviour(request: Any, context: Any) -> Any:
        context.set_compression(lbkit.Compression.Gzip)
        return request

    assert (await answer_of(behaviour, TAKES_GZIP))[1].flags() == [1]
    found, sent = await answer_of(behaviour, (b"grpc-accept-encoding", b"identity"))
    assert (found.get(b"grpc-encoding"), sent.flags()) == (None, [0])

    async def against(request: Any, context: Any) -> Any:
        context.set_compression(grpc.Compression.NoCompression)
        return request

    found, sent = await answer_of(against, TAKES_GZIP, compression="gzip")
    assert (found.get(b"grpc-encoding"), sent.flags()) == (None, [0])


async def test_plain_function_has_it_too() -> None:
    def behaviour(request: Any, context: Any) -> Any:
        context.set_compression("gzip")
        return request

    assert (await answer_of(behaviour, TAKES_GZIP))[1].flags() == [1]


@pytest.mark.parametrize("first", [True, False])
async def test_handler_can_leave_out_the_next_message(first: bool) -> None:
    async def one(request: Any, context: Any) -> Any:
        if first:
            context.disable_next_message_compression()
        context.set_compression("gzip")
        if not first:
            context.disable_next_message_compression()
        return request

    assert (await answer_of(one, TAKES_GZIP))[1].flags() == [0]

    async def several(request: Any, context: Any) -> None:
        for item in (SMALL, Item(), NOISE):
            await context.write(item)
        context.disable_next_message_compression()
        await context.write(SMALL)
        await context.write(LARGE)
        await context.write(SMALL)

    _, sent = await answer_of(several, TAKES_GZIP, method="UnaryStream", compression="gzip")
    assert sent.flags() == [1, 0, 0, 0, 1, 1]


async def test_compression_is_chosen_before_the_headers_are_sent() -> None:
    seen: list[str] = []

    async def behaviour(request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("a", "b"),))
        try:
            context.set_compression("gzip")
        except RuntimeError as error:
            seen.append(str(error))
        return request

    found, _ = await answer_of(behaviour, TAKES_GZIP)
    assert found[b"grpc-status"] == b"0"
    assert len(seen) == 1


async def test_headers_sent_ahead_say_how_messages_are_compressed() -> None:
    async def behaviour(request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("a", "b"),))
        return request

    found, sent = await answer_of(behaviour, TAKES_GZIP, IN_GZIP)
    assert (found[b"grpc-encoding"], found[b"a"]) == (b"gzip", b"b")
    assert sent.flags() == [1]


async def test_compressor_of_a_server_that_raises_fails_the_call() -> None:
    with held() as compressor:
        async with kinds(Echo(), compression=NAME) as stub:
            assert await stub.UnaryUnary(SMALL) == SMALL
            compressor.compress = None  # type: ignore[assignment,method-assign]
            for item in (SMALL, LARGE):
                error = await failure(stub.UnaryUnary(item))
                assert error.code() is StatusCode.INTERNAL
                with pytest.raises(lbkit.RpcError, match=r"INTERNAL: compressor 'held' raised"):
                    await stub.StreamStream(iter([item])).read()


# Large messages are for threads


async def test_only_large_messages_go_to_threads() -> None:
    with held() as compressor:
        async with kinds(Echo(), channel={"compression": NAME}) as stub:
            assert await stub.UnaryUnary(SMALL, timeout=PATIENCE_S) == SMALL
            assert compressor.on_loop == 4
            assert await stub.UnaryUnary(LARGE, timeout=PATIENCE_S) == LARGE
            assert compressor.on_loop == 4


@pytest.mark.parametrize("holds", ["compress", "decompress"])
async def test_others_do_not_wait_for_a_large_message(holds: str) -> None:
    with held(holds) as compressor:
        async with kinds(Echo(), channel={"compression": NAME}) as stub:
            call = stub.UnaryUnary(LARGE, timeout=PATIENCE_S)
            await until(compressor.began.is_set)
            assert await stub.UnaryUnary(SMALL, timeout=PATIENCE_S) == SMALL
            assert not call.done()
            compressor.go_on.set()
            assert await call == LARGE


def held_answer(item: Any = LARGE, *, end: bool = True) -> Callable[[RawPeer, int], bytes]:
    """What a raw server says: one large message in the encoding that can be held up."""
    data = zlib.compress(item.SerializeToString())

    def answer(peer: RawPeer, stream_id: int) -> bytes:
        said = peer.headers(stream_id, (*RESPONSE, (b"grpc-encoding", NAME.encode())))
        said += data_frame(stream_id, b"\x01" + len(data).to_bytes(4, "big") + data)
        return said + (peer.headers(stream_id, TRAILERS, end=True) if end else b"")

    return answer


async def test_deadline_holds_while_the_response_is_decompressed() -> None:
    with held("decompress") as compressor:
        async with raw_server(held_answer()) as server, channel_to(server.port) as channel:
            await all_connected(channel, 1)
            for timeout in GROWING_S:
                error = await failure(unary(channel)(Item(), timeout=timeout))
                assert error.code() is StatusCode.DEADLINE_EXCEEDED
                if compressor.began.is_set():
                    break
            assert compressor.began.is_set()
            compressor.go_on.set()


async def test_call_can_be_cancelled_while_its_response_is_decompressed() -> None:
    with held("decompress") as compressor:
        async with raw_server(held_answer()) as server, channel_to(server.port) as channel:
            call = unary(channel)(Item(), timeout=PATIENCE_S)
            await until(compressor.began.is_set)
            assert call.cancel()
            compressor.go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert channel.subchannels()[0].in_flight == 0


async def test_status_that_comes_first_waits_for_the_response() -> None:
    """What was said at the end counts, whatever becomes of the connection meanwhile."""
    with held("decompress") as compressor:
        async with raw_server(held_answer()) as server, channel_to(server.port) as channel:
            call = unary(channel)(Item(), timeout=PATIENCE_S)
            await until(compressor.began.is_set)
            await server.peers[0].close()
            await until(lambda: len(server.peers) == 2)  # the channel has made another connection
            assert not call.done()
            compressor.go_on.set()
            assert await call == LARGE
            assert await call.code() is StatusCode.OK


async def test_stream_gives_what_came_before_its_connection_broke() -> None:
    with held("decompress") as compressor:
        async with raw_server(held_answer(end=False)) as server, channel_to(server.port) as channel:
            call = channel.stub(kinds_pb2, "Kinds").UnaryStream(Item(), timeout=PATIENCE_S)
            reading = asyncio.ensure_future(call.read())
            await until(compressor.began.is_set)
            await server.peers[0].close()
            await until(call.done)
            compressor.go_on.set()
            assert await reading == LARGE
            with pytest.raises(lbkit.RpcError, match="UNAVAILABLE"):
                await call.read()


async def test_stream_of_which_all_has_come_is_past_its_deadline() -> None:
    with held("decompress") as compressor:
        async with raw_server(held_answer()) as server, channel_to(server.port) as channel:
            call = channel.stub(kinds_pb2, "Kinds").UnaryStream(Item(), timeout=PATIENCE_S)
            reading = asyncio.ensure_future(call.read())
            await until(compressor.began.is_set)
            assert await call.code() is StatusCode.OK
            assert not call.cancel()
            compressor.go_on.set()
            assert await reading == LARGE
            assert await call.read() is lbkit.EOF


async def test_stream_that_was_cancelled_gives_nothing_more() -> None:
    with held("decompress") as compressor:
        async with raw_server(held_answer(end=False)) as server, channel_to(server.port) as channel:
            call = channel.stub(kinds_pb2, "Kinds").UnaryStream(Item(), timeout=PATIENCE_S)
            reading = asyncio.ensure_future(call.read())
            await until(compressor.began.is_set)
            call.cancel()
            compressor.go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await reading


async def test_request_is_sent_when_it_is_compressed_unless_its_call_is_over() -> None:
    with held("compress") as compressor:
        async with kinds(Echo(), channel={"compression": NAME}) as stub:
            call = stub.UnaryUnary(LARGE, timeout=0.2)
            stream = stub.UnaryStream(LARGE, timeout=PATIENCE_S)
            await until(compressor.began.is_set)
            assert (await failure(call)).code() is StatusCode.DEADLINE_EXCEEDED
            compressor.go_on.set()
            assert await stream.read() == LARGE
            stream.cancel()


async def test_closing_the_channel_ends_calls_that_are_being_compressed() -> None:
    with held("compress") as compressor:
        async with kinds_server(Echo()) as port:
            channel = channel_to(port, compression=NAME)
            calls = [unary(channel)(LARGE) for _ in range(6)]  # more than there are threads
            await until(compressor.began.is_set)
            closing = asyncio.ensure_future(channel.close())
            await until(calls[-1].done)
            compressor.go_on.set()
            await closing
            for call in calls:
                assert (await failure(call)).code() is StatusCode.CANCELLED


async def test_request_that_is_being_decompressed_may_be_given_up() -> None:
    """Its handler never runs, and its stream counts for as long as it is being worked on."""
    started: list[str] = []

    async def behaviour(request: Any, context: Any) -> Any:
        started.append("UnaryUnary")
        return request

    data = zlib.compress(LARGE.SerializeToString())
    with held("decompress") as compressor:
        servicer = SimpleNamespace(UnaryUnary=behaviour)
        async with kinds_server(servicer) as port, raw_client(port) as peer:
            fields = request_fields((b":path", PATH), (b"grpc-encoding", NAME.encode()))
            message = b"\x01" + len(data).to_bytes(4, "big") + data
            peer.writer.write(peer.headers(1, fields) + data_frame(1, message, end=True))
            await until(compressor.began.is_set)
            cancel = int(ErrorCode.CANCEL).to_bytes(4, "big")
            peer.writer.write(frames.frame(frames.RST_STREAM, 0, 1, cancel))
            small = frame_message(SMALL.SerializeToString())
            peer.writer.write(
                peer.headers(3, request_fields((b":path", PATH))) + data_frame(3, small, end=True)
            )
            async with asyncio.timeout(PATIENCE_S):
                while (found := await peer.next_frame()).stream_id != 3:
                    assert found.stream_id != 1
            compressor.go_on.set()
        assert started == ["UnaryUnary"]


async def test_reading_that_was_given_up_loses_no_message() -> None:
    got: list[Any] = []

    async def behaviour(requests: Any, context: Any) -> Any:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(context.read(), 0.05)
        compressor.go_on.set()
        got.append(await context.read())
        got.append(await context.read())
        return Item()

    with held("decompress") as compressor:
        async with kinds(SimpleNamespace(StreamUnary=behaviour), channel={"compression": NAME}) as stub:
            await stub.StreamUnary(iter([LARGE, SMALL]), timeout=PATIENCE_S)
        assert compressor.began.is_set()
        assert got == [LARGE, SMALL]


# Answers that are wrong


@pytest.mark.parametrize("item", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"])
async def test_response_above_the_limit_is_resource_exhausted(kind: str, item: Any) -> None:
    with held():
        async with (
            raw_server(held_answer(item)) as server,
            channel_to(server.port, max_response_bytes=250) as channel,
        ):
            method = getattr(channel.stub(kinds_pb2, "Kinds"), kind)
            call = method(iter([Item()]) if kind.startswith("Stream") else Item(), timeout=PATIENCE_S)
            with pytest.raises(lbkit.RpcError) as caught:
                await (call.read() if kind.endswith("Stream") else call)
            assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
            assert await call.code() is StatusCode.RESOURCE_EXHAUSTED


async def test_retried_request_is_compressed_once() -> None:
    config = {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.01s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
    calls: list[Any] = []

    async def behaviour(request: Any, context: Any) -> Any:
        calls.append(request)
        if len(calls) < 3:
            await context.abort(StatusCode.UNAVAILABLE)
        return Item()

    with held() as compressor:
        async with (
            serving(behaviour) as backend,
            channel_to(backend, compression=NAME, service_config=config) as channel,
        ):
            await unary(channel)(SMALL, timeout=PATIENCE_S)
        assert calls == [SMALL] * 3
        assert compressor.on_loop == 4
