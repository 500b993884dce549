"""A server that does, on cue, what the test says: calls arrive and wait until the test answers them."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import lbkit
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.subchannel import Subchannel
from lbkit.transport.client import ClientConnection
from lbkit.wire.messages import frame_message
from tests.support.servers import (
    PATIENCE_S,
    Item,
    RawPeer,
    RawServer,
    channel_to,
    failure,
    raw_server,
    unary,
    until,
)
from tests.support.wire import RESPONSE, TRAILERS, Frame, data_frame, settings_frame

GOOD = Item(text="good")
GOOD_MESSAGE = frame_message(GOOD.SerializeToString())


def good(peer: RawPeer, stream_id: int) -> bytes:
    """What a good server answers."""
    return (
        peer.headers(stream_id, RESPONSE)
        + data_frame(stream_id, GOOD_MESSAGE)
        + peer.headers(stream_id, TRAILERS, end=True)
    )


def in_frames(
    stream_id: int, block: bytes, *, end: bool = False, size: int = frames.DEFAULT_FRAME_SIZE
) -> bytes:
    """Cut a header block into HEADERS and CONTINUATION (RFC 9113 6.10)."""
    pieces = [block[at : at + size] for at in range(0, len(block), size)] or [b""]
    said = b""
    for number, piece in enumerate(pieces):
        flags = frames.END_HEADERS if number == len(pieces) - 1 else 0
        if number == 0:
            said += frame(frames.HEADERS, flags | (frames.END_STREAM if end else 0), stream_id, piece)
        else:
            said += frame(frames.CONTINUATION, flags, stream_id, piece)
    return said


def u32(payload: bytes, at: int = 0) -> int:
    """One number of a payload: an error code, a stream id, a window."""
    return int(struct.unpack_from(">L", payload, at)[0])


def of_kind(peer: RawPeer, kind: int) -> list[Frame]:
    """The frames of one kind that came so far."""
    return [each for each in peer.received if each.kind == kind]


def resets(peer: RawPeer) -> list[tuple[int, int]]:
    """The streams that the client reset so far, with the codes."""
    return [(each.stream_id, u32(each.payload)) for each in of_kind(peer, frames.RST_STREAM)]


def goaways(peer: RawPeer) -> list[int]:
    """The codes of the GOAWAYs that the client said so far."""
    return [u32(each.payload, 4) for each in of_kind(peer, frames.GOAWAY)]


async def heard(peer: RawPeer) -> None:
    """Wait until the client has processed all that was written, and has sent what it says to it."""
    payload = struct.pack(">Q", len(peer.received))
    peer.writer.write(frame(frames.PING, 0, 0, payload))
    await until(
        lambda: any(
            each.flags & frames.ACK and each.payload == payload for each in of_kind(peer, frames.PING)
        )
    )


async def write_until_closed(peer: RawPeer, piece: bytes, most: int = 64 * 1024 * 1024) -> int:
    """Write a piece over and over, as fast as the client reads, until it hangs up. Return how many bytes went out."""
    written = 0
    try:
        while written < most and not peer.writer.is_closing():
            peer.writer.write(piece)
            written += len(piece)
            await peer.writer.drain()
            await asyncio.sleep(0)  # the client's turn, also while the kernel takes everything
    except ConnectionError:
        pass
    return written


class Sender:
    """Sends DATA as a good server does: never more than the windows of the client allow (RFC 9113 6.9).

    Attributes:
        sent: bytes by stream; those of all together are at 0.
    """

    def __init__(self, peer: RawPeer) -> None:
        self._peer = peer
        self._looked = 0  # at so many frames of the client
        self._initial = frames.DEFAULT_WINDOW
        self._given: Counter[int] = Counter({0: frames.DEFAULT_WINDOW})
        self.sent: Counter[int] = Counter()

    def window(self, stream_id: int) -> int:
        """How much may be sent on a stream, the connection's window left out; that is at 0."""
        for each in self._peer.received[self._looked :]:
            if each.kind == frames.WINDOW_UPDATE:
                self._given[each.stream_id] += u32(each.payload)
            elif each.kind == frames.SETTINGS and not each.flags:
                for at in range(0, len(each.payload), 6):
                    key, value = frames.unpack_setting(each.payload, at)
                    if key == frames.Setting.INITIAL_WINDOW_SIZE:
                        self._initial = value
        self._looked = len(self._peer.received)
        return (self._initial if stream_id else 0) + self._given[stream_id] - self.sent[stream_id]

    def room(self, stream_id: int) -> int:
        """How much may be sent on a stream now."""
        return min(self.window(stream_id), self.window(0))

    def write(self, stream_id: int, data: bytes) -> None:
        """Write one frame of it, whatever the windows say."""
        self.sent.update({0: len(data), stream_id: len(data)})
        self._peer.writer.write(data_frame(stream_id, data))

    async def send(self, stream_id: int, data: bytes, size: int = frames.DEFAULT_FRAME_SIZE) -> None:
        """Write it all, in frames of a size, as the windows open."""
        while data:
            await until(lambda: self.room(stream_id) > 0)
            piece = data[: min(size, self.room(stream_id))]
            self.write(stream_id, piece)
            data = data[len(piece) :]
            await self._peer.writer.drain()


def hang_up_rudely(peer: RawPeer) -> None:
    """Close with a TCP RST."""
    connected: socket.socket = peer.writer.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.writer.transport.abort()


class Scene:
    """A channel to one server, whose first connection answers nothing by itself; later connections answer well.

    Args:
        channel: the channel, connected.
        server: the server.
    """

    def __init__(self, channel: lbkit.Channel, server: RawServer) -> None:
        self.channel = channel
        self.server = server

    @property
    def peer(self) -> RawPeer:
        """The server's end of the first connection."""
        return self.server.peers[0]

    @property
    def connection(self) -> ClientConnection:
        """The client's end of the connection that is used for new calls."""
        (subchannel,) = self.channel.subchannels()
        assert isinstance(subchannel, Subchannel)
        assert subchannel.connection is not None, "not connected"
        return subchannel.connection

    def call(self, **options: Any) -> Any:
        """Start a call."""
        return unary(self.channel)(Item(), **{"timeout": PATIENCE_S, "wait_for_ready": True, **options})

    async def calls(self, count: int, **options: Any) -> list[Any]:
        """Start calls, and wait until they have all come to the server: on streams 1, 3, 5..."""
        before = len(self.server.heads)
        running = [self.call(**options) for _ in range(count)]
        await self.arrived(before + count)
        return running

    async def arrived(self, count: int) -> None:
        """Wait until so many calls have come, on all connections together."""
        await until(lambda: len(self.server.heads) >= count)

    def say(self, *words: bytes) -> None:
        """Write on the first connection, all at once."""
        self.peer.writer.write(b"".join(words))

    async def assert_connection_error(self, code: ErrorCode, text: str, *calls: Any) -> None:
        """The client said GOAWAY with this code, the calls are UNAVAILABLE, and the next one finds a connection."""
        for call in calls:
            error = await failure(call)
            assert error.code() is lbkit.StatusCode.UNAVAILABLE
            assert text in error.details()
            assert len(error.attempts) == 1
        await until(self.peer.reader.at_eof)
        assert goaways(self.peer) == [code]
        await self.assert_reconnects()

    async def assert_reconnects(self) -> None:
        """The next call is answered, on a second connection."""
        assert await self.call() == GOOD
        assert len(self.server.peers) == 2


@asynccontextmanager
async def scene(*settings: tuple[int, int], **options: Any) -> AsyncGenerator[Scene, None]:
    """Run the server, and connect a channel to it.

    Args:
        settings: what the server announces.
        options: of the channel.
    """

    def answer(peer: RawPeer, stream_id: int) -> bytes:
        return b"" if peer is server.peers[0] else good(peer, stream_id)

    async with (
        raw_server(answer, settings_frame(*settings)) as server,
        channel_to(server.port, **options) as channel,
    ):
        await channel.ready(PATIENCE_S)
        yield Scene(channel, server)


def socket_of(connection: ClientConnection) -> socket.socket:
    """The client's socket."""
    transport = connection._transport
    assert transport is not None, "closed"
    connected: socket.socket = transport.get_extra_info("socket")
    return connected


def unread(connection: ClientConnection) -> int:
    """How many bytes have come to the client's socket that it has not read yet."""
    count = fcntl.ioctl(socket_of(connection).fileno(), termios.FIONREAD, bytes(4))
    return int(struct.unpack("i", count)[0])
