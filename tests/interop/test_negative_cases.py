"""The negative interop cases: lbkit's client with a server that misbehaves, or only just not, at a known moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.wire.messages import frame_message
from tests.interop.messages import LARGE_REQUEST, output_request, payload, size_of
from tests.support.protos import grpc_testing_pb2 as pb
from tests.support.protos import grpc_testing_pb2_grpc
from tests.support.servers import PATIENCE_S, RawPeer, channel_to, failure, listening, raw_server, until
from tests.support.wire import (
    RESPONSE,
    TRAILERS,
    Frame,
    data_frame,
    goaway_frame,
    reset_frame,
    settings_frame,
    window_update,
)

pytestmark = pytest.mark.interop

AT_ONCE = 10
SIZE = 200_000  # of the answer, which needs no more than the window that lbkit opens
REQUEST = pb.SimpleRequest(response_size=SIZE, payload=payload(LARGE_REQUEST))
MESSAGE = frame_message(pb.SimpleResponse(payload=payload(SIZE)).SerializeToString())
FRAME_SIZE = 16_384
PADDED_SIZE = 20_000
PIECE_SIZE = 100
# Windows for whole requests.
ROOM = settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 1 << 20)) + window_update(0, 1 << 30)


def stub(channel: lbkit.Channel) -> Any:
    """The generated stub of the test service."""
    return grpc_testing_pb2_grpc.TestServiceStub(channel)


def call_large(channel: lbkit.Channel) -> Any:
    """What every negative case begins with."""
    return stub(channel).UnaryCall(REQUEST, timeout=PATIENCE_S)


def data(stream_id: int, message: bytes = MESSAGE) -> bytes:
    """A message in DATA frames of the usual size."""
    return b"".join(
        data_frame(stream_id, message[start : start + FRAME_SIZE])
        for start in range(0, len(message), FRAME_SIZE)
    )


def good(peer: RawPeer, stream_id: int) -> bytes:
    """A good answer."""
    return peer.headers(stream_id, RESPONSE) + data(stream_id) + peer.headers(stream_id, TRAILERS, end=True)


async def answered(call: Any) -> None:
    """The call is answered in full."""
    assert size_of(await call) == SIZE


async def test_goaway_after_the_first_call_costs_the_second_nothing() -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes:
        return good(peer, stream_id) + (goaway_frame(stream_id) if peer is server.peers[0] else b"")

    async with raw_server(answer, ROOM) as server, channel_to(server.port) as channel:
        await answered(call_large(channel))
        await answered(call_large(channel))
        # The second is not on the connection that is going away, whose server saw one request.
        assert [len(heads(peer)) for peer in server.peers] == [1, 1]


def heads(peer: RawPeer) -> list[int]:
    """The streams that were opened on a connection."""
    return [found.stream_id for found in peer.received if found.kind == frames.HEADERS]


def reset_after_headers(peer: RawPeer, stream_id: int) -> bytes:
    return peer.headers(stream_id, RESPONSE) + reset_frame(stream_id, ErrorCode.NO_ERROR)


def reset_during_data(peer: RawPeer, stream_id: int) -> bytes:
    half = MESSAGE[: len(MESSAGE) // 2]
    return peer.headers(stream_id, RESPONSE) + data(stream_id, half) + reset_frame(stream_id, 0)


def reset_after_data(peer: RawPeer, stream_id: int) -> bytes:
    return peer.headers(stream_id, RESPONSE) + data(stream_id) + reset_frame(stream_id, 0)


RESETS = pytest.mark.parametrize("answer", [reset_after_headers, reset_during_data, reset_after_data])


@RESETS
async def test_unary_call_that_is_reset_does_not_succeed(answer: Any) -> None:
    async with raw_server(answer, ROOM) as server, channel_to(server.port) as channel:
        error = await failure(call_large(channel))
        assert error.code() is StatusCode.INTERNAL
        assert len(server.heads) == 1  # and is not repeated: its answer had begun


@RESETS
async def test_stream_that_is_reset_does_not_succeed(answer: Any) -> None:
    async with raw_server(answer, ROOM) as server, channel_to(server.port) as channel:
        call = stub(channel).StreamingOutputCall(output_request(SIZE), timeout=PATIENCE_S)
        # A message that came whole is the application's, whatever comes after it.
        if answer is reset_after_data:
            assert size_of(await call.read()) == SIZE
        with pytest.raises(lbkit.RpcError):
            await call.read()
        assert await call.code() is StatusCode.INTERNAL


async def test_every_ping_is_acknowledged_whatever_it_comes_between() -> None:
    sent: list[bytes] = []

    def ping() -> bytes:
        sent.append(b"%08d" % len(sent))
        return frame(frames.PING, 0, 0, sent[-1])

    def answer(peer: RawPeer, stream_id: int) -> bytes:
        said = ping() + peer.headers(stream_id, RESPONSE) + ping()
        for start in range(0, len(MESSAGE), FRAME_SIZE):
            said += data_frame(stream_id, MESSAGE[start : start + FRAME_SIZE]) + ping()
        return said + peer.headers(stream_id, TRAILERS, end=True) + ping()

    async with raw_server(answer, ROOM) as server, channel_to(server.port) as channel:
        await answered(call_large(channel))
        (peer,) = server.peers
        await until(lambda: len(acknowledged(peer)) >= len(sent))
        assert acknowledged(peer) == sent


@pytest.mark.parametrize("padding", [0, 5, 255])
async def test_padding_of_data_frames_is_no_part_of_messages_and_is_given_back(padding: int) -> None:
    message = frame_message(pb.SimpleResponse(payload=payload(PADDED_SIZE)).SerializeToString())
    sent = 0

    def answer(peer: RawPeer, stream_id: int) -> bytes:
        nonlocal sent
        pieces = [message[start : start + PIECE_SIZE] for start in range(0, len(message), PIECE_SIZE)]
        padded = [bytes((padding,)) + piece + bytes(padding) for piece in pieces]
        sent += sum(map(len, padded))
        said = b"".join(frame(frames.DATA, frames.PADDED, stream_id, each) for each in padded)
        return peer.headers(stream_id, RESPONSE) + said + peer.headers(stream_id, TRAILERS, end=True)

    async with raw_server(answer, ROOM) as server, channel_to(server.port) as channel:
        while sent < 4 * lbkit.Limits().connection_window:
            assert size_of(await call_large(channel)) == PADDED_SIZE
        (peer,) = server.peers
        # Padding takes from the windows as well (RFC 9113 6.1).
        await until(lambda: frames.DEFAULT_WINDOW + given_back(peer) >= sent)


def given_back(peer: RawPeer) -> int:
    """What the client has added to the connection's window."""
    updates = [found for found in peer.received if found.kind == frames.WINDOW_UPDATE and not found.stream_id]
    return sum(int.from_bytes(found.payload) for found in updates)


def acknowledged(peer: RawPeer) -> list[bytes]:
    """What came back of the pings that were sent."""
    return [
        found.payload for found in peer.received if found.kind == frames.PING and found.flags & frames.ACK
    ]


async def test_limit_of_one_stream_fails_none_of_ten_calls() -> None:
    limit = settings_frame((frames.Setting.MAX_CONCURRENT_STREAMS, 1))
    open_at_once: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        try:
            await reader.readexactly(len(frames.PREFACE))
            writer.write(ROOM)
            for answers in range(AT_ONCE + 1):
                await frame_where(peer, lambda found: found.kind == frames.DATA and bool(found.flags))
                # The limit is there from the first answer on, as with a server that comes under load. What the client
                # has to send, it sends before it acknowledges.
                writer.write((b"" if answers else limit) + frame(frames.PING, 0, 0, bytes(8)))
                await frame_where(peer, lambda found: found.kind == frames.PING)
                open_at_once.append(len(heads(peer)) - answers)
                writer.write(good(peer, heads(peer)[answers]))
            await reader.read()
        finally:
            await peer.close()

    async with listening(serve) as port, channel_to(port) as channel:
        await answered(call_large(channel))
        await asyncio.gather(*(answered(call_large(channel)) for _ in range(AT_ONCE)))
    assert open_at_once == [1] * (AT_ONCE + 1)


async def frame_where(peer: RawPeer, wanted: Callable[[Frame], bool]) -> None:
    """Read up to such a frame."""
    while not wanted(await peer.next_frame()):
        pass
