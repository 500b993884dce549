"""Header blocks: put together, decoded, checked, and given to the stream they are for (RFC 9113 6.2, 6.10, 8)."""

from __future__ import annotations

from lbkit.http2 import fields as check
from lbkit.http2.closed import ENDED, PASSED_OVER, RESET_BY_PEER
from lbkit.http2.control import Control
from lbkit.http2.faults import ConnectionFault
from lbkit.http2.fields import MalformedError
from lbkit.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PRIORITY_FLAG,
    STREAM_ID_MASK,
    ErrorCode,
    unpack_u32,
)
from lbkit.http2.hpack import CompressionError, Field, HeaderListAbusive, HeaderListTooLarge, list_size
from lbkit.http2.hpack_decoder import Decoder
from lbkit.http2.interface import EngineParts
from lbkit.http2.stream import (
    CLOSED,
    HALF_CLOSED_REMOTE,
    NO_LENGTH,
    NULL_SINK,
    RECEIVE_END,
    TRANSITIONS,
    Stream,
)

_LONG_BLOCK = 2048  # bytes below which no list is worth being measured
_PRIORITY_TEXT = "the stream depends on itself (RFC 9113 5.3.2)"
_LENGTH_TEXT = "content-length does not match the content (RFC 9113 8.1.1)"


class Headers(Control):
    """What the native engine does about HEADERS and CONTINUATION."""

    __slots__ = (
        "_block",
        "_block_end",
        "_block_stream",
        "_decoder",
        "_depends_on_itself",
        "_good_response",
        "_good_trailers",
    )

    def __init__(self, parts: EngineParts) -> None:
        super().__init__(parts)
        self._decoder = Decoder(
            soft_limit=parts.limits.max_header_list, hard_limit=parts.limits.abusive_header_list
        )
        self._block: list[bytes] | None = None  # header block fragments, while CONTINUATION is awaited
        self._block_stream = 0
        self._block_end = False
        self._depends_on_itself = False  # what the HEADERS at hand say of their stream
        # The last blocks that passed their checks: the decoder gives the same tuple for the same bytes.
        self._good_response: tuple[Field, ...] | None = None
        self._good_trailers: tuple[Field, ...] | None = None

    def _on_fragment(self, stream_id: int, flags: int, data: bytes) -> None:
        """Strip padding and priority; wait for CONTINUATION if the block is not complete."""
        room = len(data) - (1 if flags & PADDED else 0) - (5 if flags & PRIORITY_FLAG else 0)
        if room < 0:
            raise ConnectionFault(
                ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for what it must hold (RFC 9113 4.2)"
            )
        if flags & PADDED:
            if data[0] > room:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding as long as its frame (RFC 9113 6.2)")
            data = data[1 : len(data) - data[0]]
        if flags & PRIORITY_FLAG:
            # Such a stream was an error in RFC 7540 5.3.1; RFC 9113 is silent about it. Priority itself is ignored.
            self._depends_on_itself = unpack_u32(data)[0] & STREAM_ID_MASK == stream_id
            data = data[5:]
        if flags & END_HEADERS:
            self._on_block(stream_id, data, flags & END_STREAM != 0)
            self._depends_on_itself = False
        else:
            if not stream_id:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0 (RFC 9113 6.2)")
            self._block, self._block_stream, self._block_end = [data], stream_id, flags & END_STREAM != 0

    def _on_continuation(self, stream_id: int, flags: int, data: bytes) -> None:
        block = self._block
        if block is None or stream_id != self._block_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION out of place (RFC 9113 6.10)")
        self.counters.seen["continuation_frames"] += 1
        block.append(data)
        limits = self.limits
        if len(block) - 1 > limits.continuation_frames:  # CVE-2024-28182
            self._guard.exceed("continuation_frames", f"{len(block) - 1} CONTINUATION frames to one block")
        if sum(map(len, block)) > limits.abusive_header_list:
            self._guard.exceed("abusive_header_list", "a header block without end")
        if flags & END_HEADERS:
            self._block = None
            self._on_block(stream_id, b"".join(block), self._block_end)
            self._depends_on_itself = False
        elif not data:
            self._guard.empty_frame((stream_id, len(block) - 1), (stream_id, len(block)))

    def _on_block(self, stream_id: int, block: bytes, end: bool) -> None:
        """Decode a whole header block and hand it on. Decoding always happens: it keeps the tables in step."""
        too_large = ""
        fields: tuple[Field, ...] = ()
        try:
            fields = self._decoder.decode(block)
            if len(block) > _LONG_BLOCK:
                self._measure(fields)
        except HeaderListTooLarge as error:
            too_large = str(error)
            self.counters.exceeded["max_header_list"] += 1
        except CompressionError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"{error} (RFC 9113 4.3)") from None
        except HeaderListAbusive as error:
            self._guard.exceed("abusive_header_list", f"too many headers: {error}")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._on_new_stream(stream_id, fields, end, too_large)
        elif too_large:
            self._stream_fault(stream, ErrorCode.ENHANCE_YOUR_CALM, too_large)
        elif self._depends_on_itself:
            self._stream_fault(stream, ErrorCode.PROTOCOL_ERROR, _PRIORITY_TEXT)
        elif stream.state >= HALF_CLOSED_REMOTE:
            self._stream_fault(stream, ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM (RFC 9113 5.1)")
        elif not stream.answered:
            self._on_response(stream, fields, end)
        elif not end:
            self._stream_fault(
                stream, ErrorCode.PROTOCOL_ERROR, "HEADERS in mid-stream without END_STREAM (RFC 9113 8.1)"
            )
        else:
            self._on_trailers(stream, fields)

    def _measure(self, fields: tuple[Field, ...]) -> None:
        """Count a list that is longer than what we announced, and yet taken."""
        if list_size(fields) > self.limits.header_list_advertised:
            self.counters.exceeded["header_list_advertised"] += 1

    def _on_trailers(self, stream: Stream, fields: tuple[Field, ...]) -> None:
        if fields is not self._good_trailers:
            try:
                check.check_trailers(fields)
            except MalformedError as error:
                text = f"malformed trailers: {error} (RFC 9113 8.1)"
                self._stream_fault(stream, ErrorCode.PROTOCOL_ERROR, text)
                return
            self._good_trailers = fields
        if stream.missing > 0:
            self._length_fault(stream)
            return
        self._peer_ended(stream)
        stream.sink.headers(fields, True)

    def _on_response(self, stream: Stream, fields: tuple[Field, ...], end: bool) -> None:
        if fields is not self._good_response:
            try:
                length = check.check_response(fields)
            except MalformedError as error:
                text = f"malformed response: {error} (RFC 9113 8.3.2)"
                self._stream_fault(stream, ErrorCode.PROTOCOL_ERROR, text)
                return
            if fields[0][1][:1] == b"1":  # informational: skip, RFC 9113 8.1
                self._guard.glitch("an informational response")
                if end:
                    text = "an informational response ended the stream (RFC 9113 8.1)"
                    self._stream_fault(stream, ErrorCode.PROTOCOL_ERROR, text)
                return
            if length == NO_LENGTH:
                self._good_response = fields
            stream.missing = length
            if end and length > 0:
                self._length_fault(stream)
                return
        stream.answered = True
        if end:
            self._peer_ended(stream)
        else:
            stream.plain = stream.missing == NO_LENGTH
        stream.sink.headers(fields, end)

    def _on_new_stream(self, stream_id: int, fields: tuple[Field, ...], end: bool, too_large: str) -> None:
        if self._was_used(stream_id):
            self._on_late(stream_id, "HEADERS")
            return
        if self.client or not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id} (RFC 9113 5.1.1)")
        if stream_id > self._peer_last_id + 2:
            first = self._peer_last_id + 2 if self._peer_last_id else 1
            self._closed.pass_over(first, stream_id - 2)
            self._passed_over += (stream_id - first) >> 1
            self._guard.glitch("stream ids passed over")
        self._peer_last_id = stream_id
        # One that crossed our GOAWAY is tried elsewhere, so it must not run here (RFC 9113 6.8).
        if stream_id > self._served_up_to:
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
        if not too_large:
            try:
                length = check.check_request(fields)
            except MalformedError as error:
                text = f"malformed request: {error} (RFC 9113 8.1.1)"
                self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR, text)
                return
            if self._depends_on_itself:
                self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR, _PRIORITY_TEXT)
                return
            if end and length > 0:
                self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR, _LENGTH_TEXT)
                return
        stream = Stream(stream_id, self._peer_stream_window, self._initial_window, NULL_SINK, answered=True)
        self.streams[stream_id] = stream
        if end:
            stream.state = HALF_CLOSED_REMOTE
            stream.plain = False
        elif length != NO_LENGTH:
            stream.missing = length
            stream.plain = False
        if too_large:
            self._sink.oversized(stream, too_large)
        else:
            self._sink.request(stream, fields, end)

    def _on_late(self, stream_id: int, what: str, length: int = 0) -> None:
        """Handle DATA or HEADERS on a stream that is gone (RFC 9113 5.1, "closed")."""
        fate = self._closed.fate(stream_id)
        if fate == ENDED:
            raise ConnectionFault(
                ErrorCode.STREAM_CLOSED, f"{what} on stream {stream_id}, which has ended (RFC 9113 5.1)"
            )
        if fate == PASSED_OVER:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR,
                f"{what} on stream {stream_id}, which was passed over (RFC 9113 5.1.1)",
            )
        if fate == RESET_BY_PEER:
            self._refuse(stream_id, ErrorCode.STREAM_CLOSED, f"{what} after RST_STREAM (RFC 9113 5.1)")
        elif what == "HEADERS":
            self._guard.late(self.streams_opened(), "HEADERS on a stream that we have reset")
        elif length > self._late_data:  # more than the windows that the streams had left
            self._guard.glitch("DATA on a stream that we have reset")
        else:
            self._late_data -= length

    def _length_fault(self, stream: Stream) -> None:
        self._stream_fault(stream, ErrorCode.PROTOCOL_ERROR, _LENGTH_TEXT)

    def _peer_ended(self, stream: Stream) -> None:
        stream.plain = False
        state = stream.state = TRANSITIONS[stream.state * 3 + RECEIVE_END]
        if state == CLOSED:
            del self.streams[stream.id]
