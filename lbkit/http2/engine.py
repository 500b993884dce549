"""The native engine: bytes in, frames apart, DATA. HEADERS are in ``headers``, control frames in ``control``."""

from __future__ import annotations

from lbkit.http2 import frames
from lbkit.http2.faults import ConnectionFault, NotHttp2
from lbkit.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PREFACE,
    PRIORITY_FLAG,
    STREAM_ID_MASK,
    WINDOW_UPDATE,
    ErrorCode,
    pack_u32,
    unpack_header,
)
from lbkit.http2.headers import Headers
from lbkit.http2.interface import EngineParts
from lbkit.http2.null import NULL_CONNECTION
from lbkit.http2.opening import HTTP1_ANSWER, check_first_frame, check_preface
from lbkit.http2.stream import CLOSED, HALF_CLOSED_REMOTE, NO_LENGTH, Stream

_DIRECT = 32 * 1024  # bytes still to come of a frame, for which a read of their own is worth its while
_WINDOW_TEXT = "more DATA than the window (RFC 9113 6.9.1)"


class NativeEngine(Headers):
    """One end of one HTTP/2 connection (RFC 9113), made for gRPC's traffic. Implements ``Engine``."""

    __slots__ = (
        "_failed",
        "_opened",
        "_rest",
        "_room",
        "_room_end",
        "_room_size",
        "_room_stream",
        "_scratch",
        "unfinished_since",
    )

    def __init__(self, parts: EngineParts) -> None:
        super().__init__(parts)
        self.unfinished_since: float | None = None
        self._scratch = parts.scratch
        self._rest = b""  # an unfinished frame
        self._opened = False  # the preface (server) and the peer's first SETTINGS have come
        self._failed = False
        # A DATA frame that is received straight into its message's buffer:
        self._room: memoryview | None = None  # what of it is still to come
        self._room_stream: Stream | None = None
        self._room_size = 0  # the whole of it
        self._room_end = False

    def get_buffer(self, hint: int) -> memoryview:
        """Return the scratch buffer, or a part of the message that is being received."""
        return self._scratch if self._room is None else self._room

    def buffer_updated(self, count: int) -> None:
        """Process what was received; a fault of the connection ends it with GOAWAY and ``sink.fault``."""
        if self._failed:
            return
        if self._room is not None:
            self._fill(count)
            return
        data = bytes(self._scratch[:count])
        if self._rest:
            data = self._rest + data
        try:
            done = self._parse(data)
        except ConnectionFault as fault:
            self.fail(fault)
            return
        if done == len(data):
            self._rest = b""
            if self._block is None:
                self.unfinished_since = None
            elif self.unfinished_since is None:
                self.unfinished_since = self._now()
        else:
            self._keep(data, done)

    def fail(self, fault: ConnectionFault) -> None:
        """End the connection: GOAWAY, or an answer that somebody who does not speak HTTP/2 can read."""
        if self._failed:
            return
        self._stop()
        self.counters.seen["connection_faults"] += 1
        if not isinstance(fault, NotHttp2) or self.client:
            self.goaway(None, fault.code, fault.text.encode())
        elif fault.http1:
            self._queue(HTTP1_ANSWER)
        self._sink.fault(fault)

    def lost(self, reason: str) -> None:
        """Tell every stream that the connection is gone."""
        self._stop()
        for stream in list(self.streams.values()):
            if stream.state != CLOSED:  # one that another's sink has reset meanwhile
                self._forget(stream)
                stream.sink.lost(reason)
        self._sink = NULL_CONNECTION

    def _stop(self) -> None:
        """Take no more input, also not the rest of what is being parsed if a sink's callback brought this about."""
        self._failed = True
        self._rest = b""
        self._room = self._room_stream = None
        # To the parse loop this is a header block that nothing may follow: it saves the loop a test for each frame.
        self._block, self._block_stream = [], -1

    def _parse(self, data: bytes) -> int:
        """Process whole frames and return how many bytes they were."""
        size = len(data)
        at = 0
        if not self._opened:
            at = self._check_opening(data)
            if at < 0:
                return 0
        streams = self.streams
        max_frame = self.limits.max_frame_size
        while size - at >= 9:
            high, low, kind, flags, stream_id = unpack_header(data, at)
            length = high << 8 | low
            if length > max_frame:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR,
                    f"a frame of {length} bytes, {max_frame} allowed (RFC 9113 4.2)",
                )
            if self._block is not None and kind != CONTINUATION:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, "a header block was interrupted (RFC 9113 6.10)"
                )
            end = at + 9 + length
            if end > size:
                break
            at += 9
            if kind == DATA:
                self._receive_window -= length
                self._unreturned += length
                stream = streams.get(stream_id & STREAM_ID_MASK)
                if stream is None or not stream.plain or flags & PADDED or length == 0:
                    self._unusual_data(stream, stream_id & STREAM_ID_MASK, flags, data, at, end)
                else:
                    stream.receive_window -= length
                    if stream.receive_window < 0 or self._receive_window < 0:
                        self._window_exceeded(stream)
                    elif flags & END_STREAM:
                        self._peer_ended(stream)
                        stream.sink.data(data[at:end], True)
                    else:
                        stream.sink.data(data[at:end], False)
            elif kind == HEADERS:
                if flags & END_HEADERS and not flags & (PADDED | PRIORITY_FLAG):
                    self._on_block(stream_id & STREAM_ID_MASK, data[at:end], flags & END_STREAM != 0)
                else:
                    self._on_fragment(stream_id & STREAM_ID_MASK, flags, data[at:end])
            elif kind == CONTINUATION:
                self._on_continuation(stream_id & STREAM_ID_MASK, flags, data[at:end])
            else:
                self._on_control(kind, flags, stream_id & STREAM_ID_MASK, data[at:end])
            at = end
        if self._unreturned >= self._connection_target >> 2:
            self._return_window()
        return at

    def _keep(self, data: bytes, done: int) -> None:
        """Keep an unfinished frame, and note since when there is one that has to be finished in time."""
        if len(data) - done >= 9 and data[done + 3] == DATA:
            self.unfinished_since = None  # its call's deadline watches over it
            if self._take_room(data, done):
                self._rest = b""
                return
        elif self.unfinished_since is None or (done and self._block is None):
            self.unfinished_since = self._now()
        self._rest = data[done:]

    def _check_opening(self, data: bytes) -> int:
        """Check how the connection begins (RFC 9113 3.4). Return where to go on, or -1 for "more"."""
        at = 0
        if not self.client:
            if not check_preface(data):
                return -1
            at = len(PREFACE)
            if not self._announced:
                self._announce()
        if not check_first_frame(data[at:]):
            return -1
        self._opened = True
        return at

    # DATA, RFC 9113 6.1

    def _unusual_data(
        self, stream: Stream | None, stream_id: int, flags: int, data: bytes, at: int, end: int
    ) -> None:
        """Handle DATA that is padded, empty, expected or counted, or for a stream that takes none."""
        length = end - at
        if self._receive_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, _WINDOW_TEXT)
        if flags & PADDED:
            if not length:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, "DATA too short for what it must hold (RFC 9113 4.2)"
                )
            if data[at] >= length:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding as long as its frame (RFC 9113 6.1)")
            at, end = at + 1, end - data[at]
        last = flags & END_STREAM != 0
        if end == at and not last:
            mark = self._received + self._unreturned
            self._guard.empty_frame((mark - length, self._peer_last_id), (mark, self._peer_last_id))
        if stream is None:
            self._require_used(stream_id, "DATA")
            self._on_late(stream_id, "DATA", length)
            return
        if not self._account(stream, length, end - at, flags):
            return
        if length > end - at and not last:  # padding is read as soon as it is here
            stream.receive_window += length - (end - at)
            self._queue(frames.frame(WINDOW_UPDATE, 0, stream_id, pack_u32(length - (end - at))))
        if last:
            self._peer_ended(stream)
        stream.sink.data(data[at:end], last)

    def _account(self, stream: Stream, length: int, content: int, flags: int) -> bool:
        """Charge a DATA frame to its stream; False if the stream must not have it, and was reset.

        Args:
            stream: which.
            length: of the frame; padding counts (RFC 9113 6.1).
            content: of it without padding.
            flags: the frame's.
        """
        if stream.state >= HALF_CLOSED_REMOTE:
            self._stream_fault(stream, ErrorCode.STREAM_CLOSED, "DATA after END_STREAM (RFC 9113 5.1)")
        elif not stream.answered:
            self._stream_fault(stream, ErrorCode.PROTOCOL_ERROR, "DATA before HEADERS (RFC 9113 8.1)")
        elif stream.receive_window < length:
            self._stream_fault(stream, ErrorCode.FLOW_CONTROL_ERROR, _WINDOW_TEXT)
        else:
            stream.receive_window -= length
            if stream.missing == NO_LENGTH:
                return True
            stream.missing -= content
            if stream.missing >= 0 and not (flags & END_STREAM and stream.missing):
                return True
            self._length_fault(stream)
        return False

    def _window_exceeded(self, stream: Stream) -> None:
        if self._receive_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, _WINDOW_TEXT)
        self._stream_fault(stream, ErrorCode.FLOW_CONTROL_ERROR, _WINDOW_TEXT)

    # DATA that goes straight into a message's buffer

    def _take_room(self, data: bytes, at: int) -> bool:
        """Have the rest of an unfinished DATA frame received where its message is put together, if that is known."""
        high, low, _, flags, stream_id = unpack_header(data, at)
        length = high << 8 | low
        stream = self.streams.get(stream_id & STREAM_ID_MASK)
        have = len(data) - at - 9
        if (
            stream is None
            or not stream.plain
            or flags & PADDED
            or length - have < _DIRECT
            or length
            > min(stream.receive_window - stream.ends_at, stream.receive_window, self._receive_window)
        ):
            return False  # what is wrong with it, if anything, is said when it is complete
        room = stream.sink.data_buffer(length)
        if room is None:
            return False
        self._receive_window -= length
        self._unreturned += length
        stream.receive_window -= length
        room[:have] = memoryview(data)[at + 9 :]
        self._room, self._room_size, self._room_end = room[have:], length, flags & END_STREAM != 0
        self._room_stream = stream
        return True

    def _fill(self, count: int) -> None:
        """Take note of bytes received straight into a message; the last one completes a frame."""
        assert self._room is not None, "no message is being received"
        assert self._room_stream is not None, "no stream for the message that is being received"
        if count < len(self._room):
            self._room = self._room[count:]
            return
        stream, end = self._room_stream, self._room_end
        self._room = self._room_stream = None
        if self._unreturned >= self._connection_target >> 2:
            self._return_window()
        if stream.state != CLOSED:
            if end:
                self._peer_ended(stream)
            stream.sink.filled(self._room_size, end)
