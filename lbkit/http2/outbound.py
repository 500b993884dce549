"""The sending half of the native engine: frames out, and both levels of flow control (RFC 9113 5.2, 6.9)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from lbkit.http2 import frames
from lbkit.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    WINDOW_UPDATE,
    pack_header,
    pack_u32,
)
from lbkit.http2.hpack import Field, Prefix
from lbkit.http2.hpack_encoder import Encoder
from lbkit.http2.interface import EngineConfig, StreamSink
from lbkit.http2.stream import (
    CLOSED,
    HALF_CLOSED_REMOTE,
    RESET,
    SEND_END,
    TRANSITIONS,
    Stream,
)


class Outbound:
    """Everything the native engine sends, and the streams it sends on."""

    def __init__(self, *, client: bool, config: EngineConfig) -> None:
        self.client = client
        self.config = config
        self.streams: dict[int, Stream] = {}
        self.max_streams = frames.MAX_STREAM_ID  # until the peer says less
        self.queued_bytes = 0
        self._out: list[bytes] = []
        self._encoder = Encoder()
        self._next_id = 1 if client else 2
        self._send_window = frames.DEFAULT_WINDOW
        self._peer_stream_window = frames.DEFAULT_WINDOW
        self._peer_frame_size = frames.DEFAULT_FRAME_SIZE
        self._peer_last_id = 0  # the highest stream the peer opened
        self._served_up_to = frames.MAX_STREAM_ID  # our last GOAWAY: the peer may try again what is above it
        self._blocked: deque[Stream] = deque()  # streams with pending data, served in turn

    @property
    def queued_frames(self) -> int:
        """Pieces in the queue, two to a frame on the hot path: a cheap measure of how much work is waiting."""
        return len(self._out) >> 1

    def start(self) -> None:
        """Queue the preface (client) and our SETTINGS."""
        config = self.config
        settings = [
            (frames.Setting.INITIAL_WINDOW_SIZE, config.stream_window),
            (frames.Setting.MAX_HEADER_LIST_SIZE, config.max_header_list),
            (frames.Setting.MAX_FRAME_SIZE, config.max_frame_size),
            (frames.Setting.ENABLE_PUSH, 0)
            if self.client
            else (frames.Setting.MAX_CONCURRENT_STREAMS, config.max_concurrent_streams),
        ]
        payload = b"".join(frames.pack_setting(key, value) for key, value in settings)
        if self.client:
            self._queue(frames.PREFACE)
        self._queue(frames.frame(frames.SETTINGS, 0, 0, payload))
        if (more := config.connection_window - frames.DEFAULT_WINDOW) > 0:
            self._queue(frames.frame(WINDOW_UPDATE, 0, 0, pack_u32(more)))

    def take(self) -> bytes:
        """Return and forget everything queued."""
        data = b"".join(self._out)
        self._out.clear()
        self.queued_bytes = 0
        return data

    def open(self, sink: StreamSink) -> Stream:
        """Take the next stream id."""
        stream_id = self._next_id
        self._next_id = stream_id + 2
        stream = Stream(stream_id, self._peer_stream_window, self.config.stream_window, sink)
        self.streams[stream_id] = stream
        return stream

    def send_headers(self, stream: Stream, prefix: Prefix | None, fields: Iterable[Field], end: bool) -> None:
        """Queue a header block, cut into CONTINUATION frames if the peer's frames are short (RFC 9113 6.10)."""
        block = self._encoder.encode(prefix, fields)
        size = len(block)
        out = self._out
        if size <= self._peer_frame_size:
            flags = END_HEADERS | END_STREAM if end else END_HEADERS
            out.append(pack_header(size >> 8, size & 0xFF, HEADERS, flags, stream.id))
            out.append(block)
            self.queued_bytes += size + 9
        else:
            kind, flags = HEADERS, END_STREAM if end else 0
            while block:
                part, block = block[: self._peer_frame_size], block[self._peer_frame_size :]
                self._queue(frames.frame(kind, flags | (0 if block else END_HEADERS), stream.id, part))
                kind, flags = frames.CONTINUATION, 0
        if end:
            self._ended(stream)

    def send_data(self, stream: Stream, data: bytes, end: bool) -> bool:
        """Queue payload as far as the windows allow and keep the rest. True if all of it was queued."""
        size = len(data)
        if (
            stream.pending is None
            and size <= stream.send_window
            and size <= self._send_window
            and size <= self._peer_frame_size
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
            self._forget(stream)
            self._queue(frames.frame(RST_STREAM, 0, stream.id, pack_u32(code)))

    def consumed(self, stream: Stream, count: int) -> None:
        """Give ``count`` bytes of window back to the peer's stream, in steps of a quarter of the window."""
        unreturned = stream.unreturned = stream.unreturned + count
        if unreturned >= self.config.stream_window >> 2 and stream.state < HALF_CLOSED_REMOTE:
            stream.receive_window += unreturned
            stream.unreturned = 0
            self._queue(frames.frame(WINDOW_UPDATE, 0, stream.id, pack_u32(unreturned)))

    def ping(self, payload: bytes) -> None:
        """Queue a PING of eight bytes."""
        self._queue(frames.frame(frames.PING, 0, 0, payload))

    def goaway(self, last_stream_id: int | None, code: int, debug: bytes = b"") -> None:
        """Queue GOAWAY; None stands for the last stream that the peer opened. It never rises (RFC 9113 6.8)."""
        last = self._peer_last_id if last_stream_id is None else last_stream_id
        last = self._served_up_to = min(last, self._served_up_to)
        self._queue(frames.frame(frames.GOAWAY, 0, 0, pack_u32(last) + pack_u32(code) + debug))

    def _queue(self, data: bytes) -> None:
        self._out.append(data)
        self.queued_bytes += len(data)

    def _ended(self, stream: Stream) -> None:
        """Note that END_STREAM was queued."""
        state = stream.state = TRANSITIONS[stream.state * 3 + SEND_END]
        if state == CLOSED:
            self.streams.pop(stream.id, None)

    def _forget(self, stream: Stream) -> None:
        """Close a stream at once; its pending data is dropped when its turn comes."""
        stream.state = TRANSITIONS[stream.state * 3 + RESET]
        stream.pending = None
        stream.send_window = -frames.MAX_WINDOW  # so that the short way of ``send_data`` is shut for it
        self.streams.pop(stream.id, None)

    def _pump(self, *, tell: bool = True) -> None:
        """Send pending data, one frame to a stream in turn, as far as the windows go.

        Args:
            tell: call ``writable`` on the sinks of streams that got rid of all their data.
        """
        blocked = self._blocked
        stalled = 0  # streams in a row whose own window is shut
        while blocked and self._send_window > 0 and stalled < len(blocked):
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
            self._out.append(bytes(head[:size]))
            self.queued_bytes += size + 9
            if pending:
                blocked.append(stream)
                continue
            stream.pending = None
            if end:
                self._ended(stream)
            if tell:
                stream.sink.writable()
