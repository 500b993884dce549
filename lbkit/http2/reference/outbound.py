"""The sending half of the reference engine: h2 makes the frames, this gives it what its windows let through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable

from h2.settings import SettingCodes, Settings
from hpack import NeverIndexedHeaderTuple

from lbkit.http2 import frames
from lbkit.http2.closed import RESET_BY_US, ClosedStreams
from lbkit.http2.frames import CONTINUATION, DATA, HEADERS, PREFACE, unpack_header
from lbkit.http2.guard import Guard
from lbkit.http2.hpack import SENSITIVE_NAMES, Field, Prefix
from lbkit.http2.interface import EngineParts, StreamSink
from lbkit.http2.outbound import _LAST_ID, LONGEST_FRAME
from lbkit.http2.reference.private import JudgingDecoder, ReferenceConnection
from lbkit.http2.stream import CLOSED, HALF_CLOSED_REMOTE, RESET, SEND_END, TRANSITIONS, Stream

_FRAMES_OF_CALLS = frozenset((DATA, HEADERS, CONTINUATION))


class H2Outbound(ABC):
    """Everything the reference engine sends.

    Of a ``Stream`` it keeps ``state``, ``receive_window`` and what waits to be sent; ``send_window`` is h2's business.
    """

    def __init__(self, parts: EngineParts) -> None:
        client, sink, limits, counters, _, now = parts
        self.client = client
        self.limits = limits
        self.counters = counters
        self.streams: dict[int, Stream] = {}
        self.held = 0
        self.max_streams = frames.MAX_STREAM_ID  # until the peer says less
        self.settings_acked = False
        self.queued_bytes = 0
        self.queued_frames = 0
        self.queued_control = 0
        self._sink = sink
        self._now = now
        self._guard = Guard(limits, counters, now, client=client)
        self._closed = ClosedStreams()
        decoder = JudgingDecoder(limits.abusive_header_list, self._too_much, self._judge)
        self._h2 = ReferenceConnection(decoder, client=client, max_frame_size=limits.max_frame_size)
        self._announced = False
        self._failed = False
        self._out: list[bytes] = []
        self._sent_frames = 0  # HEADERS and DATA queued in the life of the connection
        self._next_id = 1 if client else 2
        self._peer_last_id = 0  # the highest stream the peer opened
        self._served_up_to = frames.MAX_STREAM_ID  # our last GOAWAY
        self._unanswered = 0  # PINGs
        # Until the peer has acknowledged our SETTINGS it may send as much as the RFC's default (RFC 9113 6.9.2).
        self._initial_window = max(limits.stream_window, frames.DEFAULT_WINDOW)
        self._late_data = 0  # bytes that may still come on streams that we have reset
        self._received = 0  # bytes of DATA frames
        self._unreturned = 0  # those of them whose connection window was not given back yet
        self._withheld = False  # nor is, until streams are read
        self._blocked: deque[Stream] = deque()  # streams with pending data, served in turn

    @abstractmethod
    def _judge(self, fields: tuple[Field, ...]) -> list[Field]:
        """Look at a header list; return what h2 has to know of it."""

    @property
    def max_header_list(self) -> int:
        """The largest header list that the peer takes, in bytes."""
        size = self._h2.remote_settings.max_header_list_size
        return frames.MAX_STREAM_ID if size is None else size

    def start(self) -> None:
        """Queue the preface and our SETTINGS; a server's wait for the client's preface (RFC 9113 3.4)."""
        if self.client:
            self._announce()

    def take(self) -> bytes:
        """Return and forget everything queued; data that waited for room is queued next."""
        data = b"".join(self._out)
        self._out.clear()
        self.queued_bytes = self.queued_frames = self.queued_control = 0
        self._pump()
        return data

    def open(self, sink: StreamSink) -> Stream:
        """Take the next stream id."""
        stream_id = self._next_id
        self._next_id = stream_id + 2
        window = self._h2.remote_settings.initial_window_size
        stream = Stream(stream_id, window, self._initial_window, sink, answered=False)
        self.streams[stream_id] = stream
        if stream_id >= _LAST_ID:
            self._sink.exhausted()
        return stream

    def send_headers(self, stream: Stream, prefix: Prefix | None, fields: Iterable[Field], end: bool) -> None:
        """Queue a header block."""
        if stream.state == CLOSED or self._failed:
            return  # reset meanwhile: there is nobody to send it to
        constant = () if prefix is None else prefix.fields
        self._h2.send_headers(stream.id, [_guarded(field) for field in (*constant, *fields)], end_stream=end)
        self._collect()
        if end:
            self._ended(stream)

    def send_data(self, stream: Stream, data: bytes, end: bool) -> bool:
        """Queue payload as far as there is room, and keep the rest. True if all of it was queued."""
        if stream.state == CLOSED:
            return True  # reset meanwhile
        if stream.pending is None:
            stream.pending = deque()
            self._blocked.append(stream)
        stream.pending.append(memoryview(data))
        stream.pending_end = end
        self._pump(tell=False)
        return stream.pending is None

    def reset(self, stream: Stream, code: int) -> None:
        """Queue RST_STREAM and forget the stream; harmless if it is closed."""
        if stream.state == CLOSED:
            return
        self._forget_reset(stream)
        if stream.id in self._h2.streams and not self._failed:  # it has got as far as its HEADERS
            self._h2.reset_stream(stream.id, code)
            self._collect()

    def consumed(self, stream: Stream, count: int) -> None:
        """Give ``count`` bytes of window back to the peer's stream, in steps of a quarter of the window."""
        stream.unreturned += count
        if stream.unreturned >= self.limits.stream_window >> 2 and stream.state < HALF_CLOSED_REMOTE:
            self._give(stream, stream.unreturned)
            stream.unreturned = 0
        if self._withheld:
            self._return_window()

    def expect(self, stream: Stream, count: int) -> None:
        """Give the peer window for the rest of a message at once."""
        ahead = min(count, frames.MAX_WINDOW) - stream.receive_window
        if ahead > 0:
            stream.unreturned -= ahead  # below 0: given already
            self._give(stream, ahead)

    def ping(self, payload: bytes) -> None:
        """Queue a PING of eight bytes."""
        self._announce()  # nothing may go out before it (RFC 9113 3.4)
        self._unanswered += 1
        self._h2.ping(payload)
        self._collect()

    def goaway(self, last_stream_id: int | None, code: int, debug: bytes = b"") -> None:
        """Queue GOAWAY; None stands for the last stream that the peer opened. It never rises (RFC 9113 6.8)."""
        self._announce()  # see ``ping``
        last = self._peer_last_id if last_stream_id is None else last_stream_id
        self._served_up_to = min(last, self._served_up_to)
        self._h2.close_connection(code, debug, self._served_up_to)
        self._collect()

    def _too_much(self, text: str) -> None:
        self._guard.exceed("abusive_header_list", text)

    def _announce(self) -> None:
        """Queue our SETTINGS, unless they were, and the connection's window above the RFC's default."""
        if self._announced:
            return
        self._announced = True
        limits = self.limits
        announced = {
            SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_list_advertised,
            SettingCodes.MAX_FRAME_SIZE: limits.max_frame_size,
            SettingCodes.ENABLE_PUSH: 0,
        }
        if not self.client:
            announced[SettingCodes.MAX_CONCURRENT_STREAMS] = limits.max_concurrent_streams
        self._h2.local_settings = Settings(client=self.client, initial_values=announced)
        self._h2.initiate_connection()
        # What h2 holds the peer to is not quite the same. A stream above the limit would be the connection's end, so
        # the engine refuses it; and the window is the RFC's until the peer acknowledges ours.
        held_to = {
            **announced,
            SettingCodes.MAX_CONCURRENT_STREAMS: frames.MAX_STREAM_ID,
            SettingCodes.INITIAL_WINDOW_SIZE: self._initial_window,
        }
        self._h2.local_settings = Settings(client=self.client, initial_values=held_to)
        self._h2.local_settings.initial_window_size = limits.stream_window  # on the ACK
        if (more := limits.connection_window - frames.DEFAULT_WINDOW) > 0:
            self._h2.increment_flow_control_window(more)
        self._collect()

    def _collect(self) -> None:
        """Take over the frames that h2 has made, and count them."""
        data = self._h2.data_to_send()
        at = len(PREFACE) if data.startswith(PREFACE) else 0
        while at < len(data):
            high, low, kind, _, _ = unpack_header(data, at)
            at += 9 + (high << 8 | low)
            self.queued_frames += 1
            if kind in _FRAMES_OF_CALLS:
                self._sent_frames += 1
            else:
                self.queued_control += 1
        self._out.append(data)
        self.queued_bytes += len(data)

    def _queue(self, frame: bytes) -> None:
        """Queue a control frame that h2 has no part in."""
        self._out.append(frame)
        self.queued_bytes += len(frame)
        self.queued_frames += 1
        self.queued_control += 1

    def _return_window(self) -> None:
        """Give the connection's window back on receipt, so that a stream nobody reads does not stop the others.

        Within limits: not while more than ``max_window`` bytes wait to be read.
        """
        unread = sum(stream.unread(self._initial_window) for stream in self.streams.values())
        self._withheld = unread > self.limits.max_window
        if self._unreturned and not self._withheld and not self._failed:
            self._h2.increment_flow_control_window(self._unreturned)
            self._unreturned = 0
            self._collect()

    def _give(self, stream: Stream, count: int) -> None:
        """Give window to a stream, if its peer can still use it."""
        if count and stream.state < HALF_CLOSED_REMOTE and stream.id in self._h2.streams and not self._failed:
            stream.receive_window += count
            self._h2.increment_flow_control_window(count, stream.id)
            self._collect()

    def _ended(self, stream: Stream) -> None:
        """Note that END_STREAM was queued."""
        stream.state = TRANSITIONS[stream.state * 3 + SEND_END]
        if stream.state == CLOSED:
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        """Take a stream that is closed out of the table; nobody will read what came on it."""
        self.streams.pop(stream.id, None)
        if self._withheld:
            self._return_window()

    def _forget_reset(self, stream: Stream) -> None:
        """Close a stream that is reset from this side; the peer may have sent more to it before it knows."""
        if stream.state < HALF_CLOSED_REMOTE:
            self._closed.reset(stream.id, RESET_BY_US)
            self._late_data += max(0, stream.receive_window)
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        """Close a stream at once; its pending data is dropped when its turn comes."""
        stream.state = TRANSITIONS[stream.state * 3 + RESET]
        stream.pending = None
        self._drop(stream)

    def _pump(self, *, tell: bool = True) -> None:
        """Send pending data, one frame to a stream in turn, as far as windows and ``send_buffer`` go.

        Args:
            tell: call ``writable`` on the sinks of streams that got rid of all their data.
        """
        h2, blocked = self._h2, self._blocked
        stalled = 0  # streams in a row whose window is shut
        while stalled < len(blocked) and self.queued_bytes < self.limits.send_buffer:
            stream = blocked.popleft()
            if stream.pending is None or self._failed:  # reset meanwhile
                continue
            head = stream.pending.popleft()
            room = min(h2.local_flow_control_window(stream.id), h2.max_outbound_frame_size, LONGEST_FRAME)
            if head and room <= 0:  # an empty frame passes any window
                stream.pending.appendleft(head)
                blocked.append(stream)
                stalled += 1
                continue
            stalled = 0
            if len(head) > room and head:
                stream.pending.appendleft(head[room:])
                head = head[:room]
            end = stream.pending_end and not stream.pending
            h2.send_data(stream.id, head, end_stream=end)
            self._collect()
            if stream.pending:
                blocked.append(stream)
                continue
            stream.pending = None
            if end:
                self._ended(stream)
            if tell:
                stream.sink.writable()


def _guarded(field: Field) -> Field | NeverIndexedHeaderTuple:
    """Keep secrets out of the tables of intermediaries too (RFC 7541 7.1.3)."""
    return NeverIndexedHeaderTuple(*field) if field[0] in SENSITIVE_NAMES else field
