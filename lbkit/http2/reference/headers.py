"""Header blocks in the reference engine: h2 puts them together, our checks judge them (RFC 9113 6.2, 6.10, 8)."""

from __future__ import annotations

from abc import abstractmethod

from lbkit.http2 import fields as check
from lbkit.http2 import frames
from lbkit.http2.closed import ENDED, PASSED_OVER, RESET_BY_PEER, RESET_BY_US
from lbkit.http2.faults import ConnectionFault
from lbkit.http2.fields import MalformedError
from lbkit.http2.frames import END_HEADERS, RST_STREAM, ErrorCode, pack_u32
from lbkit.http2.hpack import ENTRY_OVERHEAD, Field, HeaderListTooLarge
from lbkit.http2.interface import EngineParts
from lbkit.http2.reference.outbound import H2Outbound
from lbkit.http2.stream import (
    CLOSED,
    HALF_CLOSED_REMOTE,
    NO_LENGTH,
    NULL_SINK,
    RECEIVE_END,
    TRANSITIONS,
    Stream,
)

LENGTH_TEXT = "content-length does not match the content (RFC 9113 8.1.1)"

_INFORMATIONAL: list[Field] = [(b":status", b"100")]  # all that h2 has to know of such a block


class StreamFault(Exception):
    """What a frame did wrong is a matter of its stream (RFC 9113 5.4.2), and h2 would make more of it."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Late(Exception):
    """A header block is for a stream that is gone."""


class H2Headers(H2Outbound):
    """What the reference engine does about HEADERS and CONTINUATION, and how streams begin and end."""

    def __init__(self, parts: EngineParts) -> None:
        super().__init__(parts)
        # The header block that is being received, or was last:
        self._block_open = False  # CONTINUATION is awaited
        self._block_stream = 0
        self._block_end = False
        self._block_frames = 0
        self._block_size = 0
        self._block_fields: tuple[Field, ...] = ()
        self._block_too_large = ""  # why, if it is
        self._block_length = NO_LENGTH  # its content-length

    @abstractmethod
    def _feed(self, frame: bytes) -> None:
        """Have h2 judge one frame, and act on what it says."""

    def _on_block_start(self, flags: int, stream_id: int, frame: bytes) -> None:
        self._block_stream, self._block_end = stream_id, flags & frames.END_STREAM != 0
        self._block_frames = self._block_size = 0
        self._on_fragment(flags, frame)

    def _on_continuation(self, flags: int, frame: bytes) -> None:
        self.counters.seen["continuation_frames"] += 1
        self._block_frames += 1
        if self._block_frames > self.limits.continuation_frames:  # CVE-2024-28182
            text = f"{self._block_frames} CONTINUATION frames to one block"
            self._guard.exceed("continuation_frames", text)
        if len(frame) == 9 and not flags & END_HEADERS:
            at = (self._block_stream, self._block_frames)
            self._guard.empty_frame((at[0], at[1] - 1), at)
        self._on_fragment(flags, frame)

    def _on_fragment(self, flags: int, frame: bytes) -> None:
        """Give a piece of a header block to h2, which has ``_judge`` called when the block is complete."""
        self._block_open = not flags & END_HEADERS
        self._block_size += len(frame) - 9
        if self._block_size > self.limits.abusive_header_list:
            self._guard.exceed("abusive_header_list", "a header block without end")
        try:
            self._feed(frame)
        except Late:
            self._on_late(self._block_stream, "HEADERS")
        except StreamFault as fault:
            self._stream_fault(self.streams[self._block_stream], fault)

    def _judge(self, fields: tuple[Field, ...]) -> list[Field]:
        """Look at a header list before h2 does, which would end the connection for a fault of the stream.

        Raises:
            StreamFault, Late: keep the block from h2.
        """
        self._block_fields = fields
        self._block_too_large = self._measure(fields)
        stream = self.streams.get(self._block_stream)
        if stream is None:
            if self._was_used(self._block_stream):
                raise Late
            if self.client:  # h2 takes an even one for a request
                text = f"HEADERS on stream {self._block_stream} (RFC 9113 5.1.1)"
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, text)
            return []  # ``_on_request`` looks at the fields, when h2 has found nothing wrong with the stream
        if self._block_too_large:
            raise StreamFault(ErrorCode.ENHANCE_YOUR_CALM, self._block_too_large)
        if stream.state >= HALF_CLOSED_REMOTE:
            return []  # h2 resets the stream
        try:
            if stream.answered:
                self._check_trailers(stream, fields)
                return []
            return self._check_response(fields)
        except MalformedError as error:
            text = f"malformed {'trailers' if stream.answered else 'response'}: {error} (RFC 9113 8.1.1)"
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, text) from None

    def _measure(self, fields: tuple[Field, ...]) -> str:
        """Return why a list is too large, or nothing."""
        size = sum(len(name) + len(value) + ENTRY_OVERHEAD for name, value in fields)
        if size > self.limits.max_header_list:
            self.counters.exceeded["max_header_list"] += 1
            return str(HeaderListTooLarge(size, self.limits.max_header_list))
        if size > self.limits.header_list_advertised:
            self.counters.exceeded["header_list_advertised"] += 1
        return ""

    def _check_response(self, fields: tuple[Field, ...]) -> list[Field]:
        self._block_length = check.check_response(fields)
        if fields[0][1][:1] == b"1":
            if self._block_end:
                text = "an informational response ended the stream (RFC 9113 8.1)"
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, text)
            return _INFORMATIONAL
        if self._block_end and self._block_length > 0:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, LENGTH_TEXT)
        return []

    def _check_trailers(self, stream: Stream, fields: tuple[Field, ...]) -> None:
        if not self._block_end:
            text = "HEADERS in mid-stream without END_STREAM (RFC 9113 8.1)"
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, text)
        check.check_trailers(fields)
        if stream.missing > 0:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, LENGTH_TEXT)

    def _on_response_or_trailers(self) -> None:
        """Deliver a block that h2 has nothing against either."""
        stream = self.streams[self._block_stream]
        if not stream.answered:
            stream.answered = True
            stream.missing = self._block_length
        if self._block_end:
            self._peer_ended(stream)
        stream.sink.headers(self._block_fields, self._block_end)

    def _on_request(self) -> None:
        """Accept or refuse a stream that h2 has just opened."""
        stream_id, fields, end = self._block_stream, self._block_fields, self._block_end
        if stream_id > self._peer_last_id + 2:
            first = self._peer_last_id + 2 if self._peer_last_id else 1
            self._closed.pass_over(first, stream_id - 2)
            self._guard.glitch("stream ids passed over")
        self._peer_last_id = stream_id
        if stream_id > self._served_up_to:  # it crossed our GOAWAY (RFC 9113 6.8)
            self._refuse(stream_id, ErrorCode.REFUSED_STREAM, "", fault=False)
            return
        limit = self.limits.max_concurrent_streams
        if len(self.streams) + self.held >= limit:  # RFC 9113 5.1.2
            self.counters.exceeded["max_concurrent_streams"] += 1
            # Only who knows the limit can be blamed, and not for handlers that take their time to end.
            blame = self.settings_acked and len(self.streams) >= limit
            self._refuse(stream_id, ErrorCode.REFUSED_STREAM, "more streams than allowed", fault=blame)
            return
        length = NO_LENGTH
        if not self._block_too_large:
            try:
                length = check.check_request(fields)
            except MalformedError as error:
                text = f"malformed request: {error} (RFC 9113 8.1.1)"
                self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR, text)
                return
            if end and length > 0:
                self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR, LENGTH_TEXT)
                return
        window = self._h2.remote_settings.initial_window_size
        stream = Stream(stream_id, window, self._initial_window, NULL_SINK, answered=True)
        self.streams[stream_id] = stream
        stream.answered = True
        stream.missing = length
        if end:
            stream.state = HALF_CLOSED_REMOTE
        if self._block_too_large:
            self._sink.oversized(stream, self._block_too_large)
        else:
            self._sink.request(stream, fields, end)

    # What all frames share

    def _stream_fault(self, stream: Stream, fault: StreamFault) -> None:
        """Reset a stream for what its peer did; every other stream lives on (RFC 9113 5.4.2)."""
        self.counters.seen["stream_faults"] += 1
        self.reset(stream, fault.code)
        stream.sink.reset(fault.code, fault.text)
        self._guard.reset(self._over(), fault.text)

    def _refuse(self, stream_id: int, code: ErrorCode, text: str, *, fault: bool = True) -> None:
        """Reset a stream that there is no object for; if it is a ``fault`` of the peer, it counts as one."""
        self._closed.reset(stream_id, RESET_BY_US)
        self._late_data += self._initial_window
        if stream_id in self._h2.streams and not self._h2.streams[stream_id].closed:
            self._h2.reset_stream(stream_id, code)
            self._collect()
        else:
            self._queue(frames.frame(RST_STREAM, 0, stream_id, pack_u32(code)))
        if fault:
            self.counters.seen["stream_faults"] += 1
            self._guard.reset(self._over(), text)
        else:
            self._guard.refused()

    def _on_late(self, stream_id: int, what: str, length: int = 0) -> None:
        """Handle DATA or HEADERS on a stream that is gone (RFC 9113 5.1, "closed")."""
        fate = self._closed.fate(stream_id)
        if fate == ENDED:
            text = f"{what} on stream {stream_id}, which has ended (RFC 9113 5.1)"
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, text)
        if fate == PASSED_OVER:
            text = f"{what} on stream {stream_id}, which was passed over (RFC 9113 5.1.1)"
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, text)
        if fate == RESET_BY_PEER:
            self._refuse(stream_id, ErrorCode.STREAM_CLOSED, f"{what} after RST_STREAM (RFC 9113 5.1)")
        elif what == "HEADERS":
            self._guard.late(self.streams_opened(), "HEADERS on a stream that we have reset")
        elif length > self._late_data:  # more than the windows that the streams had left
            self._guard.glitch("DATA on a stream that we have reset")
        else:
            self._late_data -= length

    def _was_used(self, stream_id: int) -> bool:
        """Whether a stream id that has no stream now had one, or was passed over."""
        if bool(stream_id & 1) == self.client:
            return 0 < stream_id < self._next_id
        return 0 < stream_id <= self._peer_last_id

    def streams_opened(self) -> int:
        """Return how many streams the connection has had."""
        return (self._next_id - 1 >> 1) + (self._peer_last_id + 1 >> 1)

    def _over(self) -> int:
        """Return how many of them are over."""
        return self.streams_opened() - len(self.streams)

    def _peer_ended(self, stream: Stream) -> None:
        stream.state = TRANSITIONS[stream.state * 3 + RECEIVE_END]
        if stream.state == CLOSED:
            self._drop(stream)
