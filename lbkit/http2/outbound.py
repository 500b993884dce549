"""The sending half of the native engine: frames out, and both levels of flow control (RFC 9113 5.2, 6.9)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from lbkit.http2 import frames
from lbkit.http2.closed import RESET_BY_US, ClosedStreams
from lbkit.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    WINDOW_UPDATE,
    Setting,
    pack_header,
    pack_u32,
)
from lbkit.http2.guard import Guard
from lbkit.http2.hpack import Field, Prefix
from lbkit.http2.hpack_encoder import Encoder
from lbkit.http2.interface import EngineParts, StreamSink
from lbkit.http2.stream import (
    CLOSED,
    HALF_CLOSED_REMOTE,
    RESET,
    SEND_END,
    TRANSITIONS,
    Stream,
)
from lbkit.http2.tuner import PING_PAYLOAD, Tuner

# A client leaves a connection for a new one when so many ids are used up: long before the last (RFC 9113 5.1.1).
_LAST_ID = frames.MAX_STREAM_ID // 4 * 3

LONGEST_FRAME = 256 * 1024  # that we send, though the peer takes longer ones: other streams wait meanwhile


class Outbound:
    """Everything the native engine sends, and the streams it sends on."""

    # Slots: it has more attributes than CPython keeps without a dict of its own for each engine.
    __slots__ = (
        "_announced",
        "_blocked",
        "_closed",
        "_connection_target",
        "_control",
        "_encoder",
        "_guard",
        "_initial_window",
        "_last_goaway",
        "_late_data",
        "_most_queued",
        "_next_id",
        "_now",
        "_out",
        "_passed_over",
        "_peer_frame_size",
        "_peer_last_id",
        "_peer_stream_window",
        "_pieces_taken",
        "_receive_window",
        "_received",
        "_send_window",
        "_served_up_to",
        "_settings_unacked",
        "_sink",
        "_stream_target",
        "_tuner",
        "_unanswered",
        "_unreturned",
        "_withheld",
        "client",
        "counters",
        "held",
        "limits",
        "max_header_list",
        "max_streams",
        "queued_bytes",
        "queued_control",
        "settings_acked",
        "streams",
    )

    def __init__(self, parts: EngineParts) -> None:
        client, sink, limits, counters, _, now = parts
        self.client = client
        self.limits = limits
        self.counters = counters
        self.streams: dict[int, Stream] = {}
        self.held = 0
        self.max_streams = frames.MAX_STREAM_ID  # until the peer says less
        self.max_header_list = frames.MAX_STREAM_ID  # see above
        self.settings_acked = False  # the first: from then on the peer knows our limits
        self.queued_bytes = 0
        self.queued_control = 0
        self._sink = sink
        self._now = now
        self._guard = Guard(limits, counters, now, client=client)
        self._tuner = Tuner(limits.stream_window, limits.max_window)
        self._closed = ClosedStreams()
        self._out: list[bytes | memoryview] = []
        self._most_queued = limits.send_buffer
        self._pieces_taken = 0  # out of ``_out``, in the life of the connection
        self._control = 0  # control frames queued in that life
        self._encoder = Encoder()
        self._next_id = 1 if client else 2
        self._send_window = frames.DEFAULT_WINDOW
        self._receive_window = max(limits.connection_window, frames.DEFAULT_WINDOW)
        self._connection_target = self._receive_window  # what the connection's window is filled up to
        self._received = 0  # bytes of DATA frames whose connection window was given back
        self._unreturned = 0  # and was not
        self._announced = False  # our SETTINGS, the first thing that we say (RFC 9113 3.4)
        self._settings_unacked = 0  # SETTINGS frames of ours
        self._stream_target = limits.stream_window  # what a stream's window is filled up to
        # Until the peer has acknowledged our SETTINGS it may send as much as the RFC's default (RFC 9113 6.9.2).
        self._initial_window = max(limits.stream_window, frames.DEFAULT_WINDOW)
        self._peer_stream_window = frames.DEFAULT_WINDOW
        self._peer_frame_size = frames.DEFAULT_FRAME_SIZE
        self._peer_last_id = 0  # the highest stream the peer opened
        self._passed_over = 0  # stream ids that it left out
        self._last_goaway = frames.MAX_STREAM_ID  # the id in its last GOAWAY
        self._served_up_to = frames.MAX_STREAM_ID  # our last GOAWAY: the peer may try again what is above it
        self._unanswered = 0  # PINGs
        self._late_data = 0  # bytes that may still come on streams that we have reset
        self._withheld = False  # the connection's window is, until streams are read
        self._blocked: deque[Stream] = deque()  # streams with pending data, served in turn

    @property
    def queued_frames(self) -> int:
        """Pieces in the queue, two to a frame on the hot path: a cheap measure of how much work is waiting."""
        return len(self._out) >> 1

    def start(self) -> None:
        """Queue the preface and our SETTINGS; a server's wait for the client's preface (RFC 9113 3.4)."""
        if self.client:
            self._out.append(frames.PREFACE)
            self.queued_bytes += len(frames.PREFACE)
            self._announce()

    def take(self) -> bytes:
        """Return and forget everything queued; data that waited for room is queued next."""
        out = self._out
        data = b"".join(out)
        self._pieces_taken += len(out)
        out.clear()
        self.queued_bytes = self.queued_control = 0
        if self._blocked:
            self._pump()
        return data

    def open(self, sink: StreamSink) -> Stream:
        """Take the next stream id."""
        stream_id = self._next_id
        self._next_id = stream_id + 2
        stream = Stream(stream_id, self._peer_stream_window, self._initial_window, sink, answered=False)
        self.streams[stream_id] = stream
        if stream_id >= _LAST_ID:
            self._sink.exhausted()
        return stream

    def send_headers(self, stream: Stream, prefix: Prefix | None, fields: Iterable[Field], end: bool) -> None:
        """Queue a header block, cut into CONTINUATION frames if the peer's frames are short (RFC 9113 6.10)."""
        block = self._encoder.encode(prefix, fields)
        size = len(block)
        flags = END_HEADERS | END_STREAM if end else END_HEADERS
        if size <= self._peer_frame_size:
            out = self._out
            out.append(pack_header(size >> 8, size & 0xFF, HEADERS, flags, stream.id))
            out.append(block)
            self.queued_bytes += size + 9
        else:
            self._queue_in_pieces(stream, block, flags)
        if end:
            self._ended(stream)

    def send_data(self, stream: Stream, data: bytes, end: bool) -> bool:
        """Queue payload as far as there is room, and keep the rest. True if all of it was queued."""
        size = len(data)
        if (
            stream.pending is None
            and size <= stream.send_window
            and size <= self._send_window
            and size <= self._peer_frame_size
            and self.queued_bytes < self._most_queued
        ):
            stream.send_window -= size
            self._send_window -= size
            out = self._out
            out.append(pack_header(size >> 8, size & 0xFF, DATA, END_STREAM if end else 0, stream.id))
            out.append(data)
            self.queued_bytes += size + 9
            if end:
                self._ended(stream)
            return True
        if stream.state == CLOSED:
            return True  # reset meanwhile: there is nobody to send it to
        if stream.pending is None:
            stream.pending = deque()
            self._blocked.append(stream)
        stream.pending.append(memoryview(data))
        stream.pending_end = end
        self._pump(tell=False)
        return stream.pending is None

    def reset(self, stream: Stream, code: int) -> None:
        """Queue RST_STREAM and forget the stream; harmless if it is closed."""
        if stream.state != CLOSED:
            if stream.state < HALF_CLOSED_REMOTE:
                self._closed.reset(stream.id, RESET_BY_US)
                self._late_data += max(0, stream.receive_window)
            self._forget(stream)
            self._queue(frames.frame(RST_STREAM, 0, stream.id, pack_u32(code)))

    def consumed(self, stream: Stream, count: int) -> None:
        """Give ``count`` bytes of window back to the peer's stream, in steps of a quarter of the window."""
        unreturned = stream.unreturned = stream.unreturned + count
        if (
            0 < unreturned >= self._stream_target >> 2
            and stream.state < HALF_CLOSED_REMOTE
            and not 0 <= stream.ends_at < stream.receive_window  # the message can end without more
        ):
            stream.unreturned = 0
            self._give(stream, unreturned)
        if self._withheld:
            self._return_window()

    def expect(self, stream: Stream, count: int) -> None:
        """Give the peer window for the rest of a message at once, and be ready to receive it in place."""
        if stream.state >= HALF_CLOSED_REMOTE:
            return
        stream.ends_at = stream.receive_window - count
        ahead = min(count, frames.MAX_WINDOW) - stream.receive_window
        if ahead > 0:
            stream.unreturned -= ahead  # below 0: given already
            self._give(stream, ahead)

    def ping(self, payload: bytes) -> None:
        """Queue a PING of eight bytes."""
        if not self._announced:
            self._announce()
        self._unanswered += 1
        self._queue(frames.frame(frames.PING, 0, 0, payload))

    def goaway(self, last_stream_id: int | None, code: int, debug: bytes = b"") -> None:
        """Queue GOAWAY; None stands for the last stream that the peer opened. It never rises (RFC 9113 6.8)."""
        last = self._peer_last_id if last_stream_id is None else last_stream_id
        last = self._served_up_to = min(last, self._served_up_to)
        if not self._announced:  # a server that goes away before the client has said anything
            self._announce()
        self._queue(frames.frame(frames.GOAWAY, 0, 0, pack_u32(last) + pack_u32(code) + debug))

    def _announce(self) -> None:
        """Queue our SETTINGS, and the connection's window above the RFC's default."""
        self._announced = True
        limits = self.limits
        settings = [
            (Setting.INITIAL_WINDOW_SIZE, limits.stream_window),
            (Setting.MAX_HEADER_LIST_SIZE, limits.header_list_advertised),
            (Setting.MAX_FRAME_SIZE, limits.max_frame_size),
            (Setting.ENABLE_PUSH, 0)
            if self.client
            else (Setting.MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams),
        ]
        payload = b"".join(frames.pack_setting(key, value) for key, value in settings)
        self._queue(frames.frame(frames.SETTINGS, 0, 0, payload))
        self._settings_unacked += 1
        if (more := limits.connection_window - frames.DEFAULT_WINDOW) > 0:
            self._queue(frames.frame(WINDOW_UPDATE, 0, 0, pack_u32(more)))

    def _queue_in_pieces(self, stream: Stream, block: bytes, flags: int) -> None:
        kind, flags = HEADERS, flags & END_STREAM
        while block:
            piece, block = block[: self._peer_frame_size], block[self._peer_frame_size :]
            size = len(piece)
            flags |= 0 if block else END_HEADERS
            self._out.append(pack_header(size >> 8, size & 0xFF, kind, flags, stream.id))
            self._out.append(piece)
            self.queued_bytes += size + 9
            kind, flags = frames.CONTINUATION, 0

    def _queue(self, data: bytes) -> None:
        """Queue a control frame."""
        self._out.append(data)
        self.queued_bytes += len(data)
        self.queued_control += 1
        self._control += 1

    def _grow(self, growth: int) -> None:
        """Raise all windows: the path has room for more (see ``tuner``)."""
        self._stream_target += growth
        self._initial_window += growth
        for stream in self.streams.values():
            stream.receive_window += growth
            stream.ends_at += growth
        self._queue(
            frames.frame(
                frames.SETTINGS, 0, 0, frames.pack_setting(Setting.INITIAL_WINDOW_SIZE, self._stream_target)
            )
        )
        self._settings_unacked += 1
        self._connection_target += growth
        self._receive_window += growth
        self._queue(frames.frame(WINDOW_UPDATE, 0, 0, pack_u32(growth)))

    def _return_window(self) -> None:
        """Give the connection's window back on receipt, so that a stream nobody reads does not stop the others.

        Within limits: not while more than ``max_window`` bytes wait to be read.
        """
        unread = sum([stream.unread(self._initial_window) for stream in self.streams.values()])
        self._withheld = unread > self.limits.max_window
        if self._withheld or not self._unreturned:
            return
        self._receive_window += self._unreturned
        self._received += self._unreturned
        self._queue(frames.frame(WINDOW_UPDATE, 0, 0, pack_u32(self._unreturned)))
        self._unreturned = 0
        # Behind the window, so that the sample holds what comes for it.
        if self._tuner.begin(self._received, self._now()):
            self.ping(PING_PAYLOAD)

    def _give(self, stream: Stream, count: int) -> None:
        stream.receive_window += count
        stream.ends_at += count
        self._queue(frames.frame(WINDOW_UPDATE, 0, stream.id, pack_u32(count)))

    def _sent(self) -> int:
        """About twice the number of HEADERS and DATA frames queued in the life of the connection."""
        return self._pieces_taken + len(self._out) - self._control

    def _ended(self, stream: Stream) -> None:
        """Note that END_STREAM was queued."""
        state = stream.state = TRANSITIONS[stream.state * 3 + SEND_END]
        if state == CLOSED:
            self.streams.pop(stream.id, None)
            if self._withheld:
                self._return_window()

    def _forget(self, stream: Stream) -> None:
        """Close a stream at once; its pending data is dropped when its turn comes."""
        stream.state = TRANSITIONS[stream.state * 3 + RESET]
        stream.pending = None
        stream.send_window = -frames.MAX_WINDOW  # so that the short way of ``send_data`` is shut for it
        self.streams.pop(stream.id, None)
        if self._withheld:
            self._return_window()

    def _pump(self, *, tell: bool = True) -> None:
        """Send pending data, one frame to a stream in turn, as far as windows and ``send_buffer`` go.

        Args:
            tell: call ``writable`` on the sinks of streams that got rid of all their data.
        """
        blocked = self._blocked
        most_queued = self._most_queued
        stalled = 0  # streams in a row whose own window is shut
        while blocked and stalled < len(blocked) and self.queued_bytes < most_queued:
            stream = blocked.popleft()
            pending = stream.pending
            if pending is None:  # reset meanwhile
                continue
            head = pending[0]
            size = min(len(head), stream.send_window, self._send_window, self._peer_frame_size)
            if size <= 0:
                if head:
                    blocked.append(stream)
                    stalled += 1
                    continue
                size = 0  # an empty frame passes any window, also one that SETTINGS made negative
            stalled = 0
            if size == len(head):
                pending.popleft()
            else:
                pending[0] = head[size:]
            end = stream.pending_end and not pending
            stream.send_window -= size
            self._send_window -= size
            self._out.append(pack_header(size >> 8, size & 0xFF, DATA, END_STREAM if end else 0, stream.id))
            self._out.append(head[:size])
            self.queued_bytes += size + 9
            if pending:
                blocked.append(stream)
                continue
            stream.pending = None
            if end:
                self._ended(stream)
            if tell:
                stream.sink.writable()
