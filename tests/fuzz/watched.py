"""One engine under watch: every promise of ``interface.py`` and of the limits is checked after every read."""

from __future__ import annotations

from collections.abc import Iterable

import hpack

from lbkit.http2 import frames
from lbkit.http2.engine import NativeEngine
from lbkit.http2.faults import ConnectionFault
from lbkit.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    ErrorCode,
)
from lbkit.http2.hpack import Field
from lbkit.http2.interface import EngineParts
from lbkit.http2.outbound import LONGEST_FRAME
from lbkit.http2.stream import CLOSED, HALF_CLOSED_LOCAL, NULL_SINK, STATE_NAMES, Stream
from lbkit.limits import Counters, Limits

# What the application does, one bit each.
GREEDY = 1  # gives the window back for what it gets
DIRECT = 2  # wants long messages straight into its own buffer
ANSWER = 4  # sends headers and a body on each stream, and ends it when the peer has
RESETS = 8  # cancels a stream at its first payload
LINGERS = 16  # its handlers outlive their streams
PARTING = 32  # cancels another stream whenever one is reset

SMALL = Limits(
    max_concurrent_streams=3,
    stream_window=200_000,
    connection_window=300_000,
    max_frame_size=100_000,
    send_buffer=1000,
    header_list_advertised=200,
    max_header_list=300,
    abusive_header_list=1000,
    continuation_frames=3,
    control_frames_pause=10,
    control_frames=20,
    resets_burst=5,
    resets_rate=1.0,
    glitches_burst=10,
    glitches_rate=1.0,
    empty_frames=3,
    priority_frames=3,
    settings_burst=5,
    settings_rate=1.0,
    settings_entries=8,
    pings_burst=5,
    pings_rate=1.0,
)

BODY = b"b" * 3000
MESSAGE = 150_000  # long enough to be received directly
REQUEST: tuple[Field, ...] = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/fuzz.Service/Method"),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
)
RESPONSE: tuple[Field, ...] = ((b":status", b"200"), (b"content-type", b"application/grpc"))
TRAILERS: tuple[Field, ...] = ((b"grpc-status", b"0"),)

_SCRATCH = memoryview(bytearray(64 * 1024))
_FOR_CALLS = (HEADERS, DATA, CONTINUATION)
_REMEMBERED = 1000
_GAPS = 100

Event = tuple[object, ...]


class WatchedSink:
    """A stream's sink; says so if it is called when it must not be."""

    stream: Stream

    def __init__(self, end: Watched) -> None:
        self.end = end
        self.over = False  # no more calls at all
        self.ended = False  # no more from the peer but a reset
        self.headed = end.engine.client  # our headers have gone: data may
        self.length = 0  # of what was received
        self.awaits: int | None = None  # bytes that ``data_buffer`` offered room for

    def headers(self, fields: tuple[Field, ...], end: bool) -> None:
        self._called("headers", payload=True)
        self.end.events.append(("headers", self.stream.id, fields, end))
        self._ended(end)

    def data(self, data: bytes, end: bool) -> None:
        self._called("data", payload=True)
        assert self.awaits is None, "data while a message is being filled"
        self._payload(len(data), end)

    def data_buffer(self, length: int) -> memoryview | None:
        self._called("data_buffer", payload=True)
        assert self.awaits is None, "data_buffer twice"
        if not self.end.manner & DIRECT:
            return None
        self.awaits = length
        return memoryview(bytearray(length))

    def filled(self, length: int, end: bool) -> None:
        self._called("filled", payload=True)
        assert self.awaits == length, f"filled {length} bytes of {self.awaits}"
        self.awaits = None
        self.end.filled += 1
        self._payload(length, end)

    def reset(self, code: int, reason: str) -> None:
        self._called("reset")
        self.over = True
        self.end.events.append(("reset", self.stream.id, code, reason))
        self.end.parted(self)

    def lost(self, reason: str) -> None:
        self._called("lost", alive=False)
        self.over = True
        self.end.events.append(("lost", self.stream.id))
        self.end.parted(self)

    def writable(self) -> None:
        self._called("writable")
        assert self.stream.pending is None, "writable with pending data"
        if self.ended:
            self.end.finish(self)

    def _called(self, what: str, *, payload: bool = False, alive: bool = True) -> None:
        assert not self.over, f"{what} on stream {self.stream.id} after reset or lost"
        assert not (payload and self.ended), f"{what} on stream {self.stream.id} after its end"
        assert not (alive and self.end.gone), f"{what} on stream {self.stream.id} of a lost connection"
        assert 0 <= self.stream.state < len(STATE_NAMES), f"{what} in state {self.stream.state}"

    def _payload(self, length: int, end: bool) -> None:
        watched, first = self.end, not self.length
        self.length += length
        watched.events.append(("payload", self.stream.id, length, end))
        if not self._ended(end):
            if watched.manner & RESETS and first:
                watched.cancel(self)
                return
            if watched.manner & DIRECT and first:
                watched.engine.expect(self.stream, MESSAGE)
            if watched.manner & GREEDY:
                watched.engine.consumed(self.stream, length)

    def _ended(self, end: bool) -> bool:
        if end:
            self.ended = True
            self.end.finish(self)
        return end


class Watched:
    """One end of a connection whose peer is the fuzzer.

    Args:
        client: which end.
        limits: what the engine keeps to.
        manner: what its application does.
    """

    def __init__(self, *, client: bool, limits: Limits, manner: int) -> None:
        self.manner = manner
        self.limits = limits
        self.events: list[Event] = []
        self.sinks: list[WatchedSink] = []
        self.faults = 0
        self.filled = 0  # frames that were received directly
        self.gone = False
        self.goaways = 0  # that the application asked for
        self.asked = 0  # control frames that it asked for
        self.time = 0.0
        self.engine = NativeEngine(
            EngineParts(
                client=client,
                sink=self,
                limits=limits,
                counters=Counters(),
                scratch=_SCRATCH,
                now=lambda: self.time,
            )
        )
        self.output = OutputWatch(client=client)
        self.engine.start()

    # ConnectionSink

    def request(self, stream: Stream, fields: tuple[Field, ...], end: bool) -> None:
        self._alive("request")
        self.events.append(("request", stream.id, fields, end))
        sink = self._add(stream)
        if self.manner & ANSWER:
            self.answer(sink)
        sink._ended(end)

    def oversized(self, stream: Stream, reason: str) -> None:
        self._alive("oversized")
        self.events.append(("oversized", stream.id, reason))
        sink = self._add(stream)
        self.engine.send_headers(stream, None, TRAILERS, True)
        self.cancel(sink)

    def settings(self) -> None:
        self._alive("settings")
        self.events.append(("settings",))

    def exhausted(self) -> None:
        self._alive("exhausted")

    def goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        self._alive("goaway")
        self.events.append(("goaway", last_stream_id, code, debug))

    def pong(self, payload: bytes) -> None:
        self._alive("pong")
        self.events.append(("pong", payload))

    def fault(self, fault: ConnectionFault) -> None:
        self._alive("fault")
        self.faults += 1
        self.events.append(("fault", fault.code, fault.text))
        if fault.code == frames.ErrorCode.ENHANCE_YOUR_CALM:
            assert self.engine.counters.exceeded, f"no limit was counted for {fault}"
        self.lose()

    # what the application does

    def open(self, *, end: bool, body: bytes = b"") -> None:
        sink = WatchedSink(self)
        self.sinks.append(sink)
        sink.stream = self.engine.open(sink)
        self.engine.send_headers(sink.stream, None, REQUEST, end and not body)
        if body:
            self.send(sink, body, end)

    def answer(self, sink: WatchedSink) -> None:
        self.engine.send_headers(sink.stream, None, RESPONSE, False)
        sink.headed = True
        self.send(sink, BODY, False)

    def send(self, sink: WatchedSink, body: bytes, end: bool) -> None:
        if self.can_send(sink):
            self.engine.send_data(sink.stream, body, end)

    def finish(self, sink: WatchedSink) -> None:
        """End our side, as a handler does that has read its request."""
        if self.manner & ANSWER and self.can_send(sink) and sink.stream.pending is None:
            self.engine.send_headers(sink.stream, None, TRAILERS, True)

    def can_send(self, sink: WatchedSink) -> bool:
        stream = sink.stream
        return not sink.over and stream.state not in (CLOSED, HALF_CLOSED_LOCAL) and not stream.pending_end

    def cancel(self, sink: WatchedSink) -> None:
        if not sink.over:
            self.engine.reset(sink.stream, frames.ErrorCode.CANCEL)
            self.asked += 1
            sink.over = True
            sink.stream.sink = NULL_SINK  # as everybody does who is done with a stream

    def parted(self, sink: WatchedSink) -> None:
        """Take note that the peer, or a fault, took a stream from its handler."""
        if self.manner & LINGERS and not self.engine.client and not self.gone:
            self.engine.held += 1
        if self.manner & PARTING:
            for other in self.sinks:
                if not other.over and other.stream.state != CLOSED:
                    self.cancel(other)
                    break

    def release(self) -> None:
        """Let a handler end that outlived its stream."""
        if self.engine.held:
            self.engine.held -= 1

    def say_goaway(self) -> None:
        self.goaways += 1
        self.asked += 1
        self.engine.goaway(None, frames.ErrorCode.NO_ERROR)

    def ping(self) -> None:
        self.asked += 1
        self.engine.ping(b"pingpong")

    # what the connection does

    def receive(self, data: bytes, step: int = 65536) -> None:
        """Have the engine receive bytes, ``step`` at once at most, and look at it after each."""
        at = 0
        while at < len(data):
            buffer = self.engine.get_buffer(-1)
            assert len(buffer) > 0, "no room to receive into"
            size = min(len(buffer), len(data) - at, step)
            buffer[:size] = data[at : at + size]
            at += size
            said = len(self.events)
            was_gone = self.gone
            self.engine.buffer_updated(size)
            assert not was_gone or len(self.events) == said, "the end of the connection was not the end"
            self.check()

    def take(self) -> None:
        """Read what was queued, as the socket does, and check that it is HTTP/2."""
        engine = self.engine
        while engine.queued_bytes:
            queued, control = engine.queued_bytes, engine.queued_control
            data = engine.take()
            assert len(data) == queued, f"{len(data)} bytes taken, {queued} were said to be queued"
            self.output.feed(data, control)
        assert self.output.goaways <= self.faults + self.goaways, "more GOAWAYs than faults"

    def lose(self) -> None:
        """End the connection; every stream that is left hears of it once."""
        if not self.gone:
            left = [sink for sink in self.sinks if sink.stream.id in self.engine.streams and not sink.over]
            self.gone = True
            self.engine.lost("the end")
            assert not self.engine.streams, "streams of a lost connection"
            assert all(sink.over for sink in left), "a stream did not hear that its connection is lost"

    def close(self) -> None:
        """Look a last time."""
        self.take()
        self.lose()
        self.take()

    def check(self) -> None:
        """Check the bounds of everything that a peer can make grow."""
        engine, limits = self.engine, self.limits
        longest = limits.max_frame_size
        assert len(engine._rest) < longest + 9, f"{len(engine._rest)} bytes kept of one frame"
        block = sum(map(len, engine._block or ()))
        assert block <= limits.abusive_header_list + longest, f"{block} bytes kept of one block"
        assert len(engine._block or ()) <= limits.continuation_frames + 2
        if not engine.client:
            busy = len(engine.streams) + engine.held
            most = limits.max_concurrent_streams
            assert busy <= most, f"{busy} streams are open or held, {most} allowed"
        assert len(engine._closed._resets or ()) <= _REMEMBERED
        assert len(engine._closed._gaps) <= _GAPS
        assert engine._send_window >= 0, "the peer's connection window was passed"
        assert engine._receive_window <= frames.MAX_WINDOW
        for stream_id, stream in engine.streams.items():
            assert stream.id == stream_id
            assert stream.state in range(CLOSED), f"{stream_id} is in state {stream.state}"
            assert stream.receive_window <= frames.MAX_WINDOW
            assert stream.send_window <= frames.MAX_WINDOW
        waiting = [stream for stream in engine._blocked if stream.pending is not None]
        assert len(set(map(id, waiting))) == len(waiting), "a stream waits twice"
        updates = sum(1 for piece in engine._out if len(piece) == 13 and piece[3] == frames.WINDOW_UPDATE)
        answers = engine.queued_control - updates
        # Above the limit: the answer that was too much, our SETTINGS, GOAWAY, and resets, which have their own limit.
        assert answers <= limits.control_frames + limits.resets_burst + 3 + self.asked, f"{answers} answers"

    def _add(self, stream: Stream) -> WatchedSink:
        sink = WatchedSink(self)
        sink.stream, stream.sink = stream, sink
        self.sinks.append(sink)
        return sink

    def _alive(self, what: str) -> None:
        assert not self.gone, f"{what} after the end of the connection"


class OutputWatch:
    """Reads what an engine sends as a strict peer would."""

    def __init__(self, *, client: bool) -> None:
        self.goaways = 0
        self._preface = client
        self._first = True
        self._ended: set[int] = set()
        self._reset: set[int] = set()
        self._closed: set[int] = set()  # streams that were reset with STREAM_CLOSED
        self._block: list[bytes] | None = None
        self._decoder = hpack.Decoder()

    def feed(self, data: bytes, control: int) -> None:
        """Check whole frames, of which ``control`` are neither HEADERS nor DATA."""
        if self._preface:
            assert data.startswith(frames.PREFACE), "no preface"
            data = data[len(frames.PREFACE) :]
            self._preface = False
        if data.startswith(b"HTTP/1.1 400 "):  # all that there is to say to who speaks no HTTP/2
            return
        counted = 0
        for kind, flags, stream_id, payload in split(data):
            if self._first:
                assert kind == frames.SETTINGS, f"the first frame is of type {kind} (RFC 9113 3.4)"
                self._first = False
            assert (kind == CONTINUATION) == (self._block is not None), "a block was interrupted"
            counted += kind not in _FOR_CALLS
            self._frame(kind, flags, stream_id, payload)
        assert counted == control, f"{counted} control frames, {control} were said to be queued"

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == GOAWAY:
            self.goaways += 1
        elif kind == frames.WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            assert 0 < increment <= frames.MAX_WINDOW, f"WINDOW_UPDATE of {increment}"
        if not stream_id:
            return
        if kind == RST_STREAM and int.from_bytes(payload, "big") == ErrorCode.STREAM_CLOSED:
            # Once more after ours is right: the peer reset it too, and sent more behind that (RFC 9113 5.1).
            assert stream_id not in self._closed, f"STREAM_CLOSED twice on stream {stream_id}"
            self._closed.add(stream_id)
            return
        assert stream_id not in self._reset, f"frame type {kind} on stream {stream_id} after our RST_STREAM"
        if kind == RST_STREAM:
            self._reset.add(stream_id)
        elif kind in {HEADERS, DATA}:
            assert stream_id not in self._ended, f"frame type {kind} on stream {stream_id} after END_STREAM"
            if flags & END_STREAM:
                self._ended.add(stream_id)
        if kind in {HEADERS, CONTINUATION}:
            self._block = [*(self._block or ()), payload]
            if flags & END_HEADERS:
                self._decoder.decode(b"".join(self._block), raw=True)
                self._block = None


def split(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    """Take whole frames apart; (type, flags, stream id, payload)."""
    at = 0
    while at < len(data):
        assert len(data) - at >= 9, "a frame header is cut"
        high, low, kind, flags, stream_id = frames.unpack_header(data, at)
        length = high << 8 | low
        assert length <= LONGEST_FRAME, f"a frame of {length} bytes"
        assert len(data) - at - 9 >= length, "a frame is cut"
        yield kind, flags, stream_id, data[at + 9 : at + 9 + length]
        at += 9 + length
