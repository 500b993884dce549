"""A stream that the server refused unseen is sent somewhere else, with all that was written (gRFC A6, transparent)."""

from __future__ import annotations

import asyncio

import pytest

from lbkit import EOF, StatusCode
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, Setting
from lbkit.wire.messages import frame_message
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S, Item, RawPeer, channel_to, failure, listening, until
from tests.support.wire import data_frame, reset_frame, settings_frame, window_update


class Refusing:
    """Refuses the first streams once they have sent so many messages, then counts what comes on the next one."""

    def __init__(self, refusals: int, after: int, *, head: bool = False, window: int = 0) -> None:
        self.window = window
        self.refusals = refusals
        self.after = after
        self.head = head
        self.got: dict[int, bytes] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        refused: set[int] = set()
        try:
            await reader.readexactly(len(frames.PREFACE))
            writer.write(
                settings_frame((Setting.INITIAL_WINDOW_SIZE, self.window))
                if self.window
                else settings_frame()
            )
            if self.window:
                writer.write(window_update(0, self.window))
            while True:
                found = await peer.next_frame()
                stream = found.stream_id
                if found.kind == frames.HEADERS:
                    peer.decode(found.payload)
                    self.got[stream] = b""
                if found.kind not in {frames.HEADERS, frames.DATA} or stream in refused:
                    continue
                if found.kind == frames.DATA:
                    self.got[stream] += found.payload
                ended = bool(found.flags & frames.END_STREAM)
                if len(refused) < self.refusals and (len(self.got[stream]) >= self.after or ended):
                    refused.add(stream)
                    if self.head:
                        writer.write(peer.headers(stream, HEAD))
                    writer.write(reset_frame(stream, ErrorCode.REFUSED_STREAM))
                elif ended:
                    writer.write(peer.headers(stream, HEAD) + data_frame(stream, self.got[stream]))
                    writer.write(peer.headers(stream, [(b"grpc-status", b"0")], end=True))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            await peer.close()


HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]


def framed(*numbers: int) -> bytes:
    return b"".join(frame_message(Item(number=number).SerializeToString()) for number in numbers)


async def test_what_was_written_is_sent_again_in_order() -> None:
    server = Refusing(1, len(framed(1, 2)))
    async with listening(server.serve) as port, channel_to(port) as channel:
        call = channel.stub(kinds_pb2, "Kinds").StreamStream(timeout=PATIENCE_S)
        await call.write(Item(number=1))
        await call.write(Item(number=2))
        await until(lambda: len(server.got) == 2)  # the second attempt has come
        await call.write(Item(number=3))
        await call.done_writing()
        assert [(await call.read()).number for _ in range(3)] == [1, 2, 3]
        assert await call.read() is EOF
    assert server.got == {1: framed(1, 2), 3: framed(1, 2, 3)}


async def test_who_reads_when_the_stream_is_refused_goes_on_reading() -> None:
    server = Refusing(1, len(framed(1)))
    async with listening(server.serve) as port, channel_to(port) as channel:
        call = channel.stub(kinds_pb2, "Kinds").StreamStream(timeout=PATIENCE_S)
        reading = asyncio.create_task(call.read())
        await call.write(Item(number=1))
        await call.done_writing()
        assert (await reading).number == 1


@pytest.mark.parametrize("kind", ["UnaryStream", "StreamUnary"])
async def test_request_of_any_sort_is_sent_again(kind: str) -> None:
    server = Refusing(1, 1)
    async with listening(server.serve) as port, channel_to(port) as channel:
        stub = channel.stub(kinds_pb2, "Kinds")
        if kind == "UnaryStream":
            call = stub.UnaryStream(Item(number=7), timeout=PATIENCE_S)
            assert [each.number async for each in call] == [7]
        else:
            assert (await stub.StreamUnary(iter([Item(number=7)]), timeout=PATIENCE_S)).number == 7
    assert server.got == {1: framed(7), 3: framed(7)}


async def test_second_refusal_ends_the_call() -> None:
    server = Refusing(2, 1)
    async with listening(server.serve) as port, channel_to(port) as channel:
        call = channel.stub(kinds_pb2, "Kinds").StreamUnary([Item(number=7)], timeout=PATIENCE_S)
        error = await failure(call)
        assert error.code() is StatusCode.UNAVAILABLE
        assert len(error.attempts) == 2


async def test_stream_that_was_answered_is_not_sent_again() -> None:
    server = Refusing(1, 1, head=True)
    async with listening(server.serve) as port, channel_to(port) as channel:
        call = channel.stub(kinds_pb2, "Kinds").StreamStream([Item(number=7)], timeout=PATIENCE_S)
        error = await failure(call.read())
        assert error.code() is StatusCode.UNAVAILABLE
    assert len(server.got) == 1


async def test_stream_that_has_written_too_much_to_be_kept_is_not_sent_again() -> None:
    """The limit is 256 KiB; the peer's window is opened so far that they fit."""
    server = Refusing(1, 300_000, window=1_000_000)
    async with listening(server.serve) as port, channel_to(port) as channel:
        requests = [Item(body=bytes(30_000)) for _ in range(20)]
        call = channel.stub(kinds_pb2, "Kinds").StreamUnary(requests, timeout=PATIENCE_S)
        error = await failure(call)
        assert error.code() is StatusCode.UNAVAILABLE
        assert "REFUSED_STREAM" in error.details()
    assert len(server.got) == 1
