"""The reference engine: h2's ``H2Connection`` behind our interface. It need not be fast; it shows what is right.

Frames are cut apart here, and h2 gets them one by one: limits are kept before h2 does any work, and what one frame
said is not lost when the next is bad. Some frames h2 never gets, where its answer is the end of the connection and
RFC 9113 wants less, or nothing. docs/design/h2-engine.md has the list.
"""

from __future__ import annotations

from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from lbkit.http2.faults import ConnectionFault, NotHttp2
from lbkit.http2.frames import (
    CONTINUATION,
    DATA,
    END_STREAM,
    HEADERS,
    PADDED,
    PREFACE,
    PUSH_PROMISE,
    STREAM_ID_MASK,
    ErrorCode,
    unpack_header,
)
from lbkit.http2.interface import EngineParts
from lbkit.http2.opening import HTTP1_ANSWER, check_first_frame, check_preface
from lbkit.http2.reference.control import H2Control
from lbkit.http2.reference.headers import LENGTH_TEXT, StreamFault
from lbkit.http2.stream import HALF_CLOSED_REMOTE, NO_LENGTH, Stream


class H2Engine(H2Control):
    """One end of one HTTP/2 connection, as h2 sees it. Implements ``Engine``."""

    def __init__(self, parts: EngineParts) -> None:
        super().__init__(parts)
        self.unfinished_since: float | None = None
        self._scratch = parts.scratch
        self._rest = b""  # an unfinished frame
        self._opened = False  # the preface (server) and the peer's first SETTINGS have come

    # Bytes in, frames apart

    def get_buffer(self, hint: int) -> memoryview:
        """Return the scratch buffer."""
        return self._scratch

    def buffer_updated(self, count: int) -> None:
        """Process what was received; a fault of the connection ends it with GOAWAY and ``sink.fault``."""
        if self._failed:
            return
        data = self._rest + bytes(self._scratch[:count])
        try:
            done = self._parse(data)
        except ConnectionFault as fault:
            self.fail(fault)
            return
        self._rest = data[done:]
        if len(self._rest) >= 9 and self._rest[3] == DATA:
            self.unfinished_since = None  # its call's deadline watches over it
        elif not self._rest and not self._block_open:
            self.unfinished_since = None
        elif self.unfinished_since is None or (done and not self._block_open):
            self.unfinished_since = self._now()

    def fail(self, fault: ConnectionFault) -> None:
        """End the connection: GOAWAY, or an answer that somebody who does not speak HTTP/2 can read."""
        if self._failed:
            return
        self._failed = True
        self._rest = b""
        self.counters.seen["connection_faults"] += 1
        if not isinstance(fault, NotHttp2) or self.client:
            self.goaway(None, fault.code, fault.text.encode())
        elif fault.http1:
            self._queue(HTTP1_ANSWER)
        self._sink.fault(fault)

    def lost(self, reason: str) -> None:
        """Tell every stream that the connection is gone."""
        self._failed = True
        streams = list(self.streams.values())
        for stream in streams:
            self._forget(stream)
        for stream in streams:
            stream.sink.lost(reason)

    def _parse(self, data: bytes) -> int:
        """Process whole frames and return how many bytes they were."""
        at = 0
        if not self._opened:
            at = self._check_opening(data)
            if at < 0:
                return 0
        while len(data) - at >= 9 and not self._failed:  # a sink may have ended it
            high, low, kind, flags, stream_id = unpack_header(data, at)
            length = high << 8 | low
            if length > self.limits.max_frame_size:  # known from nine bytes; h2 would wait for all the others
                text = f"a frame of {length} bytes, {self.limits.max_frame_size} allowed (RFC 9113 4.2)"
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, text)
            end = at + 9 + length
            if end > len(data):
                break
            self._on_frame(kind, flags, stream_id & STREAM_ID_MASK, data[at:end])
            at = end
        if self._unreturned >= self.limits.connection_window >> 2:
            self._return_window()
        return at

    def _check_opening(self, data: bytes) -> int:
        """Check how the connection begins (RFC 9113 3.4). Return where to go on, or -1 for "more"."""
        at = 0
        if not self.client:
            if not check_preface(data):
                return -1
            at = len(PREFACE)
            self._announce()
        if not check_first_frame(data[at:]):
            return -1
        self._feed(PREFACE[:at])
        self._opened = True
        return at

    def _on_frame(self, kind: int, flags: int, stream_id: int, frame: bytes) -> None:
        """Count one frame, then let h2 judge it, unless its judgement is known to be too harsh."""
        expected = self._block_open and stream_id == self._block_stream
        if (self._block_open or kind == CONTINUATION) and not (expected and kind == CONTINUATION):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block out of order (RFC 9113 6.10)")
        if kind == DATA:
            self._on_data(flags, stream_id, frame)
        elif kind in {HEADERS, PUSH_PROMISE}:
            self._on_block_start(flags, stream_id, frame)
        elif kind == CONTINUATION:
            self._on_continuation(flags, frame)
        else:
            self._on_control(kind, flags, stream_id, frame)

    def _feed(self, frame: bytes) -> None:
        """Have h2 judge one frame, and act on what it says."""
        try:
            events = self._h2.receive_data(frame)
        except ProtocolError as error:
            raise self._fault_of(error) from None
        self._collect()
        for event in events:
            self._on_event(event)

    def _fault_of(self, error: ProtocolError) -> ConnectionFault:
        """Return what h2 raised as a fault of ours, and drop the GOAWAY that it queued: ours says why."""
        self._h2.clear_outbound_data_buffer()
        return ConnectionFault(ErrorCode(int(error.error_code)), f"{type(error).__name__}: {error} (h2)")

    def _on_event(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._on_content(event)
        elif isinstance(event, RequestReceived):
            self._on_request()
        elif isinstance(event, ResponseReceived | TrailersReceived):
            self._on_response_or_trailers()
        elif isinstance(event, InformationalResponseReceived):  # skipped, RFC 9113 8.1
            self._guard.glitch("an informational response")
        elif isinstance(event, StreamReset):
            self._on_stream_reset(event)
        elif isinstance(event, WindowUpdated):
            self._pump()
        elif isinstance(event, RemoteSettingsChanged):
            self._on_settings()
        elif isinstance(event, SettingsAcknowledged):
            self._on_settings_ack()
        elif isinstance(event, PingAckReceived):
            self._on_pong(bytes(event.ping_data or b""))
        elif isinstance(event, ConnectionTerminated):
            self._on_goaway(event)

    # DATA, RFC 9113 6.1

    def _on_data(self, flags: int, stream_id: int, frame: bytes) -> None:
        stream = self.streams.get(stream_id)
        payload = frame[9:]
        padding = 1 + int.from_bytes(payload[:1], "big") if flags & PADDED else 0
        if padding > len(payload):
            self._feed(frame)  # h2 ends the connection for it
        elif stream is None and self._was_used(stream_id):  # h2 would answer every frame that was on its way
            self._discard(len(payload))
            self._on_late(stream_id, "DATA", len(payload))
        elif stream is None or stream.state >= HALF_CLOSED_REMOTE:
            self._feed(frame)  # nothing here that h2 would not see
        else:
            content, end = len(payload) - padding, flags & END_STREAM != 0
            try:
                self._check_data(stream, len(payload), content, end)
            except StreamFault as fault:
                self._discard(len(payload))
                self._stream_fault(stream, fault)
                return
            if not content and not end:
                before = (self._received, self._peer_last_id)
                self._guard.empty_frame(before, (self._received + len(payload), self._peer_last_id))
            self._feed(frame)

    def _check_data(self, stream: Stream, length: int, content: int, end: bool) -> None:
        """Look for what is a stream's fault, and the connection's end for h2.

        Raises:
            StreamFault: there is something.
        """
        if not stream.answered:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "DATA before HEADERS (RFC 9113 8.1)")
        if length > stream.receive_window:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the window (RFC 9113 6.9.1)")
        if stream.missing != NO_LENGTH and (content > stream.missing or (end and content != stream.missing)):
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, LENGTH_TEXT)

    def _on_content(self, event: DataReceived) -> None:
        stream = self.streams[event.stream_id]
        data, length, end = (
            event.data or b"",
            event.flow_controlled_length or 0,
            event.stream_ended is not None,
        )
        self._received += length
        self._unreturned += length
        stream.receive_window -= length
        if stream.missing != NO_LENGTH:
            stream.missing -= len(data)
        if length > len(data):  # padding
            self.consumed(stream, length - len(data))
        if end:
            self._peer_ended(stream)
        stream.sink.data(data, end)

    def _discard(self, length: int) -> None:
        """Drop a DATA frame; the connection's window it does use up, and gets it back."""
        try:
            self._h2.discard(length)
        except ProtocolError as error:
            raise self._fault_of(error) from None
        self._received += length
        self._unreturned += length
