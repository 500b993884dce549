"""Engines without sockets: two joined ends, or one end and a peer whose every frame the test writes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import hpack

from lbkit.http2 import frames
from lbkit.http2.engine import NativeEngine
from lbkit.http2.faults import ConnectionFault
from lbkit.http2.frames import frame
from lbkit.http2.hpack import Field
from lbkit.http2.interface import EngineParts
from lbkit.http2.stream import Stream
from lbkit.limits import Counters, Limits

REQUEST: tuple[Field, ...] = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/test.Service/Method"),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
RESPONSE: tuple[Field, ...] = ((b":status", b"200"), (b"content-type", b"application/grpc"))
TRAILERS: tuple[Field, ...] = ((b"grpc-status", b"0"),)

SCRATCH_BYTES = 64 * 1024

Event = tuple[Any, ...]


class Frame(NamedTuple):
    """One frame as it stands on the wire."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def split_frames(data: bytes) -> list[Frame]:
    """Take apart what an engine sent, the client's preface left out."""
    data = data.removeprefix(frames.PREFACE)
    found = []
    while data:
        high, low, kind, flags, stream_id = struct.unpack(">HBBBL", data[:9])
        end = 9 + (high << 8 | low)
        found.append(Frame(kind, flags, stream_id, data[9:end]))
        data = data[end:]
    return found


def settings_frame(*pairs: tuple[int, int], ack: bool = False) -> bytes:
    """Write a SETTINGS frame."""
    payload = b"".join(struct.pack(">HL", key, value) for key, value in pairs)
    return frame(frames.SETTINGS, frames.ACK if ack else 0, 0, payload)


def window_update(stream_id: int, increment: int) -> bytes:
    """Write a WINDOW_UPDATE frame."""
    return frame(frames.WINDOW_UPDATE, 0, stream_id, struct.pack(">L", increment))


def reset_frame(stream_id: int, code: int) -> bytes:
    """Write a RST_STREAM frame."""
    return frame(frames.RST_STREAM, 0, stream_id, struct.pack(">L", code))


def goaway_frame(last: int, code: int = 0, debug: bytes = b"") -> bytes:
    """Write a GOAWAY frame."""
    return frame(frames.GOAWAY, 0, 0, struct.pack(">LL", last, code) + debug)


def data_frame(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
    """Write a DATA frame."""
    return frame(frames.DATA, frames.END_STREAM if end else 0, stream_id, payload)


class Recorder:
    """A stream sink that writes down what it is told, and keeps the payload together.

    Args:
        end: whose stream it is.
        stream_id: which.
        greedy: whether data is consumed at once; if not, the peer's window stays shut.
    """

    def __init__(self, end: End, stream_id: int, *, greedy: bool = True) -> None:
        self.end = end
        self.id = stream_id
        self.greedy = greedy
        self.body = bytearray()
        self.direct = False  # whether it offers room for what it was told to expect
        self.room = bytearray()
        self.writables = 0

    def headers(self, fields: tuple[Field, ...], end: bool) -> None:
        self.end.events.append(("headers", self.id, fields, end))

    def data(self, data: bytes, end: bool) -> None:
        self.body += data
        self.end.events.append(("data", self.id, data, end))
        if self.greedy and not end:
            self.end.engine.consumed(self.end.opened[self.id], len(data))

    def data_buffer(self, length: int) -> memoryview | None:
        if not self.direct:
            return None
        self.room = bytearray(length)
        return memoryview(self.room)

    def filled(self, length: int, end: bool) -> None:
        self.body += self.room
        self.end.events.append(("filled", self.id, length, end))
        if self.greedy and not end:
            self.end.engine.consumed(self.end.opened[self.id], length)

    def reset(self, code: int, reason: str) -> None:
        self.end.events.append(("reset", self.id, code, reason))

    def lost(self, reason: str) -> None:
        self.end.events.append(("lost", self.id, reason))

    def writable(self) -> None:
        self.writables += 1


class End:
    """One engine, and in ``events`` everything it said, in order."""

    def __init__(self, *, client: bool, limits: Limits | None = None, greedy: bool = True) -> None:
        self.greedy = greedy
        self.events: list[Event] = []
        self.sinks: dict[int, Recorder] = {}
        self.opened: dict[int, Stream] = {}  # every stream there ever was
        self.faults: list[ConnectionFault] = []
        self.counters = Counters()
        self.time = 0.0  # of the engine's clock, in seconds
        self.engine = NativeEngine(
            EngineParts(
                client=client,
                sink=self,
                limits=limits or Limits(),
                counters=self.counters,
                scratch=memoryview(bytearray(SCRATCH_BYTES)),
                now=lambda: self.time,
            )
        )
        self.engine.start()

    # ConnectionSink

    def request(self, stream: Stream, fields: tuple[Field, ...], end: bool) -> None:
        self._add(stream)
        self.events.append(("request", stream.id, fields, end))

    def oversized(self, stream: Stream, reason: str) -> None:
        self._add(stream)
        self.events.append(("oversized", stream.id, reason))

    def settings(self) -> None:
        self.events.append(("settings",))

    def exhausted(self) -> None:
        self.events.append(("exhausted",))

    def goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        self.events.append(("goaway", last_stream_id, code, debug))

    def pong(self, payload: bytes) -> None:
        self.events.append(("pong", payload))

    def fault(self, fault: ConnectionFault) -> None:
        self.faults.append(fault)
        self.events.append(("fault", fault.code, fault.text))

    # for tests

    def open(self, fields: Iterable[Field] = REQUEST, *, end: bool = False) -> Stream:
        """Open a stream with request headers."""
        sink = Recorder(self, 0, greedy=self.greedy)
        stream = self.engine.open(sink)
        sink.id = stream.id
        self.sinks[stream.id] = sink
        self.opened[stream.id] = stream
        self.engine.send_headers(stream, None, fields, end)
        return stream

    def receive(self, data: bytes) -> None:
        """Have the engine receive bytes, as many at once as its buffer takes."""
        while data:
            buffer = self.engine.get_buffer(-1)
            piece, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(piece)] = piece
            self.engine.buffer_updated(len(piece))

    def sent(self) -> list[Frame]:
        """Take what the engine queued, as frames."""
        return split_frames(self.engine.take())

    def sent_kinds(self, *kinds: int) -> list[Frame]:
        """Take what the engine queued; return the frames of these kinds."""
        return [each for each in self.sent() if each.kind in kinds]

    def names(self, stream_id: int) -> list[str]:
        """What was said about one stream, without the particulars."""
        return [event[0] for event in self.events if event[1:2] == (stream_id,)]

    def of(self, name: str) -> list[Event]:
        """All events of one name."""
        return [event for event in self.events if event[0] == name]

    def body(self, stream_id: int) -> bytes:
        """The payload that came on one stream."""
        return bytes(self.sinks[stream_id].body)

    def _add(self, stream: Stream) -> None:
        sink = self.sinks[stream.id] = Recorder(self, stream.id, greedy=self.greedy)
        self.opened[stream.id] = stream
        stream.sink = sink


class Pair:
    """A client and a server end, joined by ``pump``."""

    def __init__(
        self,
        client: Limits | None = None,
        server: Limits | None = None,
        *,
        greedy: bool = True,
        shake: bool = True,
    ) -> None:
        self.client = End(client=True, limits=client, greedy=greedy)
        self.server = End(client=False, limits=server, greedy=greedy)
        if shake:
            self.pump()

    def pump(self, most: int = 10_000) -> int:
        """Carry bytes both ways until neither end has more; return how often it went round."""
        rounds = 0
        while rounds < most:
            to_server, to_client = self.client.engine.take(), self.server.engine.take()
            if not to_server and not to_client:
                return rounds
            self.server.receive(to_server)
            self.client.receive(to_client)
            rounds += 1
        raise AssertionError(f"still talking after {most} rounds")

    def answer(self, stream_id: int, body: bytes = b"", trailers: Sequence[Field] = TRAILERS) -> None:
        """Have the server send headers, a body and trailers."""
        stream = self.server.opened[stream_id]
        engine = self.server.engine
        engine.send_headers(stream, None, RESPONSE, False)
        if body:
            engine.send_data(stream, body, False)
        engine.send_headers(stream, None, trailers, True)


class Scripted(End):
    """One end that has shaken hands with a peer that the test plays: ``block`` makes that peer's header blocks."""

    def __init__(
        self, *, client: bool, limits: Limits | None = None, settings: Sequence[tuple[int, int]] = ()
    ) -> None:
        super().__init__(client=client, limits=limits)
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        opening = settings_frame(*settings)
        self.receive(opening if client else frames.PREFACE + opening)
        self.engine.take()
        self.events.clear()

    def block(self, fields: Iterable[Field]) -> bytes:
        """Compress a header list as the peer."""
        return self._encoder.encode(list(fields))

    def headers(
        self,
        stream_id: int,
        fields: Iterable[Field] = REQUEST,
        *,
        end: bool = False,
        flags: int = frames.END_HEADERS,
    ) -> bytes:
        """Write a HEADERS frame as the peer."""
        flags |= frames.END_STREAM if end else 0
        return frame(frames.HEADERS, flags, stream_id, self.block(fields))

    def decode(self, block: bytes) -> list[Field]:
        """Decompress, as the peer, a block that the engine sent."""
        return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
