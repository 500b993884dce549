"""The native engine: the receiving half, on top of ``outbound``. Complete for unary gRPC; see docs/design/http2.md."""

from __future__ import annotations

from lbkit.http2 import fields as check
from lbkit.http2 import frames
from lbkit.http2.faults import ConnectionFault, NotHttp2
from lbkit.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_ID_MASK,
    WINDOW_UPDATE,
    ErrorCode,
    pack_u32,
    unpack_header,
    unpack_u32,
)
from lbkit.http2.hpack import CompressionError, Field, HeaderListAbusive, HeaderListTooLarge
from lbkit.http2.hpack_decoder import Decoder
from lbkit.http2.interface import ConnectionSink, EngineConfig
from lbkit.http2.outbound import Outbound
from lbkit.http2.stream import CLOSED, HALF_CLOSED_REMOTE, NULL_SINK, RECEIVE_END, TRANSITIONS, Stream

_MAX_BLOCK = 64 * 1024  # bytes of one header block over all its frames
_SHOWN = 60  # bytes of a stranger's first words that go into a message


class NativeEngine(Outbound):
    """One end of one HTTP/2 connection (RFC 9113), made for gRPC's traffic. Implements ``Engine``.

    Args:
        client: which end.
        sink: takes what concerns the connection.
        config: what is announced and enforced.
        scratch: where to receive into. Engines whose reads never interleave (all of one event loop) may share
            it; what is left of an unfinished frame is copied out before ``buffer_updated`` returns.
    """

    def __init__(
        self, *, client: bool, sink: ConnectionSink, config: EngineConfig, scratch: memoryview
    ) -> None:
        super().__init__(client=client, config=config)
        self._sink = sink
        self._scratch = scratch
        self._decoder = Decoder(soft_limit=config.max_header_list)
        self._rest = b""  # an unfinished frame
        self._opened = False  # the preface (server) and the peer's first SETTINGS have come
        self._preface_seen = client
        self._failed = False
        self._receive_window = max(config.connection_window, frames.DEFAULT_WINDOW)
        self._unreturned = 0
        self._block: list[bytes] | None = None  # header block fragments, while CONTINUATION is awaited
        self._block_stream = 0
        self._block_end = False
        # The last blocks that passed their checks: the decoder gives the same tuple for the same bytes.
        self._good_response: tuple[Field, ...] | None = None
        self._good_trailers: tuple[Field, ...] | None = None

    def get_buffer(self, hint: int) -> memoryview:
        """Return the scratch buffer."""
        return self._scratch

    def buffer_updated(self, count: int) -> None:
        """Process what was received; a fault of the connection ends it with GOAWAY and ``sink.fault``."""
        if self._failed:
            return
        data = bytes(self._scratch[:count])
        if self._rest:
            data = self._rest + data
        try:
            done = self._parse(data)
        except ConnectionFault as fault:
            self._failed = True
            self._rest = b""
            self.goaway(None, fault.code, fault.text.encode())
            self._sink.fault(fault)
            return
        self._rest = data[done:] if done < len(data) else b""

    def lost(self, reason: str) -> None:
        """Tell every stream that the connection is gone."""
        self._failed = True
        for stream in list(self.streams.values()):
            self._forget(stream)
            stream.sink.lost(reason)

    def _parse(self, data: bytes) -> int:
        """Process whole frames and return how many bytes they were."""
        size = len(data)
        at = 0
        if not self._opened:
            at = self._check_opening(data)
            if at < 0:
                return 0
        streams = self.streams
        max_frame = self.config.max_frame_size
        while size - at >= 9:
            high, low, kind, flags, stream_id = unpack_header(data, at)
            length = high << 8 | low
            if length > max_frame:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR,
                    f"a frame of {length} bytes, {max_frame} allowed (RFC 9113 4.2)",
                )
            end = at + 9 + length
            if end > size:
                break
            at += 9
            if self._block is not None and kind != CONTINUATION:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, "a header block was interrupted (RFC 9113 6.10)"
                )
            if kind == DATA:
                self._receive_window -= length
                self._unreturned += length
                stream = streams.get(stream_id & STREAM_ID_MASK)
                if stream is None or stream.state >= HALF_CLOSED_REMOTE or flags & PADDED or length == 0:
                    self._unusual_data(stream, stream_id & STREAM_ID_MASK, flags, data[at:end])
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
            else:
                self._on_control(kind, flags, stream_id & STREAM_ID_MASK, data[at:end])
            at = end
        if self._unreturned >= self.config.connection_window >> 2:
            # The connection's window returns on receipt, so that a stream nobody reads does not stop the others.
            self._receive_window += self._unreturned
            self._queue(frames.frame(WINDOW_UPDATE, 0, 0, pack_u32(self._unreturned)))
            self._unreturned = 0
        return at

    def _check_opening(self, data: bytes) -> int:
        """Check the preface and the first frame's type (RFC 9113 3.4). Return where to go on, or -1 for "more"."""
        at = 0
        if not self._preface_seen:
            at = len(PREFACE)
            if data[:at] != PREFACE[: len(data)]:
                raise NotHttp2(f"the peer does not speak HTTP/2; it began with {data[:_SHOWN]!r}")
        if len(data) - at >= 9:
            high, low, kind, flags, stream_id = unpack_header(data, at)
            if kind != SETTINGS or flags & ACK or stream_id or high << 8 | low > frames.DEFAULT_FRAME_SIZE:
                raise NotHttp2(f"the peer does not speak HTTP/2; it began with {data[at:][:_SHOWN]!r}")
            self._opened = self._preface_seen = True
            return at
        if not self._preface_seen:
            return -1
        if data and not (b"\x00\x00").startswith(data[:2]):
            raise NotHttp2(f"the peer does not speak HTTP/2; it began with {data[:_SHOWN]!r}")
        return -1

    # DATA, RFC 9113 6.1

    def _unusual_data(self, stream: Stream | None, stream_id: int, flags: int, data: bytes) -> None:
        """Handle DATA that is padded or empty, or for a stream that takes none."""
        length = len(data)
        if self._receive_window < 0:
            self._window_exceeded(None)
        if flags & PADDED:
            if not data or data[0] >= length:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding as long as its frame (RFC 9113 6.1)")
            data = data[1 : length - data[0]]
        if stream is None:
            if not self._was_opened(stream_id):
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, f"DATA on idle stream {stream_id} (RFC 9113 5.1)"
                )
            return  # closed: its last frames may still be on their way
        if stream.state >= HALF_CLOSED_REMOTE:
            self._stream_fault(stream, ErrorCode.STREAM_CLOSED, "DATA after END_STREAM (RFC 9113 5.1)")
            return
        stream.receive_window -= length
        if stream.receive_window < 0:
            self._window_exceeded(stream)
            return
        end = flags & END_STREAM != 0
        if end:
            self._peer_ended(stream)
        elif length > len(data):
            self.consumed(stream, length - len(data))
        stream.sink.data(data, end)

    def _window_exceeded(self, stream: Stream | None) -> None:
        if stream is None or self._receive_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the window (RFC 9113 6.9.1)")
        self._stream_fault(stream, ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the window (RFC 9113 6.9.1)")

    # HEADERS and CONTINUATION, RFC 9113 6.2 and 6.10

    def _on_fragment(self, stream_id: int, flags: int, data: bytes) -> None:
        """Strip padding and priority; wait for CONTINUATION if the block is not complete."""
        if flags & PADDED:
            if not data or data[0] >= len(data):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding as long as its frame (RFC 9113 6.2)")
            data = data[1 : len(data) - data[0]]
        if flags & PRIORITY_FLAG:
            if len(data) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            data = data[5:]
        if flags & END_HEADERS:
            self._on_block(stream_id, data, flags & END_STREAM != 0)
        else:
            self._block, self._block_stream, self._block_end = [data], stream_id, flags & END_STREAM != 0

    def _on_continuation(self, stream_id: int, flags: int, data: bytes) -> None:
        block = self._block
        if block is None or stream_id != self._block_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION out of place (RFC 9113 6.10)")
        block.append(data)
        if len(block) > 8 or sum(map(len, block)) > _MAX_BLOCK:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end (RFC 9113 10.5.1)")
        if flags & END_HEADERS:
            self._block = None
            self._on_block(stream_id, b"".join(block), self._block_end)

    def _on_block(self, stream_id: int, block: bytes, end: bool) -> None:
        """Decode a whole header block and hand it on. Decoding always happens: it keeps the tables in step."""
        too_large = None
        fields: tuple[Field, ...] = ()
        try:
            fields = self._decoder.decode(block)
        except HeaderListTooLarge as error:
            too_large = str(error)
        except CompressionError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"{error} (RFC 9113 4.3)") from None
        except HeaderListAbusive as error:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from None
        stream = self.streams.get(stream_id)
        if stream is None:
            self._on_new_stream(stream_id, fields, end, too_large)
        elif too_large:
            self._stream_fault(stream, ErrorCode.ENHANCE_YOUR_CALM, too_large)
        elif stream.state >= HALF_CLOSED_REMOTE:
            self._stream_fault(stream, ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM (RFC 9113 5.1)")
        elif self.client and not stream.answered:
            self._on_response(stream, fields, end)
        elif not end:
            self._stream_fault(stream, ErrorCode.PROTOCOL_ERROR, "HEADERS in mid-stream without END_STREAM")
        elif fields is not self._good_trailers and (reason := check.check_trailers(fields)):
            self._stream_fault(
                stream, ErrorCode.PROTOCOL_ERROR, f"malformed trailers: {reason} (RFC 9113 8.1)"
            )
        else:
            self._good_trailers = fields
            self._peer_ended(stream)
            stream.sink.headers(fields, True)

    def _on_response(self, stream: Stream, fields: tuple[Field, ...], end: bool) -> None:
        if fields is not self._good_response and (reason := check.check_response(fields)):
            self._stream_fault(
                stream, ErrorCode.PROTOCOL_ERROR, f"malformed response: {reason} (RFC 9113 8.3.2)"
            )
        elif fields[0][1][:1] == b"1":  # informational: skip, RFC 9113 8.1
            if end:
                self._stream_fault(
                    stream, ErrorCode.PROTOCOL_ERROR, "an informational response ended the stream"
                )
        else:
            self._good_response = fields
            stream.answered = True
            if end:
                self._peer_ended(stream)
            stream.sink.headers(fields, end)

    def _on_new_stream(
        self, stream_id: int, fields: tuple[Field, ...], end: bool, too_large: str | None
    ) -> None:
        if self._was_opened(stream_id):
            return  # closed: its last frames may still be on their way
        if self.client or not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id} (RFC 9113 5.1.1)")
        self._peer_last_id = stream_id
        # One that crossed our GOAWAY is tried elsewhere, so it must not run here (RFC 9113 6.8); too many: 5.1.2.
        if stream_id > self._served_up_to or len(self.streams) >= self.config.max_concurrent_streams:
            self._queue_reset(stream_id, ErrorCode.REFUSED_STREAM)
        elif too_large:
            self._queue_reset(stream_id, ErrorCode.ENHANCE_YOUR_CALM)
        elif check.check_request(fields):
            self._queue_reset(stream_id, ErrorCode.PROTOCOL_ERROR)
        else:
            stream = Stream(stream_id, self._peer_stream_window, self.config.stream_window, NULL_SINK)
            self.streams[stream_id] = stream
            if end:
                stream.state = HALF_CLOSED_REMOTE
            self._sink.request(stream, fields, end)

    def _was_opened(self, stream_id: int) -> bool:
        """Whether a stream id that has no stream now had one (RFC 9113 5.1: idle or closed)."""
        if stream_id == 0:
            return False
        if bool(stream_id & 1) == self.client:
            return stream_id < self._next_id
        return stream_id <= self._peer_last_id

    def _peer_ended(self, stream: Stream) -> None:
        state = stream.state = TRANSITIONS[stream.state * 3 + RECEIVE_END]
        if state == CLOSED:
            del self.streams[stream.id]

    def _stream_fault(self, stream: Stream, code: ErrorCode, text: str) -> None:
        """Reset a stream for what its peer did; every other stream lives on (RFC 9113 5.4.2)."""
        self.reset(stream, code)
        stream.sink.reset(code, text)

    def _queue_reset(self, stream_id: int, code: ErrorCode) -> None:
        self._queue(frames.frame(RST_STREAM, 0, stream_id, pack_u32(code)))

    # The other frames, RFC 9113 6.3 to 6.9

    def _on_control(self, kind: int, flags: int, stream_id: int, data: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._on_window_update(stream_id, data)
        elif kind == RST_STREAM:
            self._on_reset(stream_id, data)
        elif kind == CONTINUATION:
            self._on_continuation(stream_id, flags, data)
        elif kind == PRIORITY:
            if len(data) != 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes (RFC 9113 6.3)")
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, though push is off (RFC 9113 8.4)")
        elif kind in (SETTINGS, PING, GOAWAY):
            if stream_id:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"frame type {kind} on stream {stream_id}")
            if kind == SETTINGS:
                self._on_settings(flags, data)
            elif kind == PING:
                self._on_ping(flags, data)
            else:
                self._on_goaway(data)
        # Unknown types are ignored: RFC 9113 5.5.

    def _on_window_update(self, stream_id: int, data: bytes) -> None:
        if len(data) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes (RFC 9113 6.9)")
        increment = unpack_u32(data)[0] & frames.MAX_WINDOW
        if stream_id == 0:
            self._send_window += increment
            if not increment or self._send_window > frames.MAX_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
                raise ConnectionFault(code, f"WINDOW_UPDATE of {increment} (RFC 9113 6.9)")
        else:
            stream = self.streams.get(stream_id)
            if stream is None:
                if not self._was_opened(stream_id):
                    raise ConnectionFault(
                        ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE on idle stream {stream_id} (RFC 9113 5.1)"
                    )
                return
            stream.send_window += increment
            if not increment or stream.send_window > frames.MAX_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
                self._stream_fault(stream, code, f"WINDOW_UPDATE of {increment} (RFC 9113 6.9)")
                return
        if self._blocked:
            self._pump()

    def _on_reset(self, stream_id: int, data: bytes) -> None:
        if len(data) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes (RFC 9113 6.4)")
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._forget(stream)
            code = unpack_u32(data)[0]
            stream.sink.reset(code, f"the peer reset the stream with {frames.error_name(code)}")
        elif not self._was_opened(stream_id):
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on idle stream {stream_id} (RFC 9113 5.1)"
            )

    def _on_settings(self, flags: int, data: bytes) -> None:
        if len(data) % 6 or (flags & ACK and data):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong length (RFC 9113 6.5)")
        if flags & ACK:
            return
        for at in range(0, len(data), 6):
            self._apply_setting(*frames.unpack_setting(data, at))
        self._queue(frames.frame(SETTINGS, ACK, 0, b""))
        if self._blocked:
            self._pump()
        self._sink.settings()

    def _apply_setting(self, key: int, value: int) -> None:
        """Obey one parameter of the peer (RFC 9113 6.5.2)."""
        if key == frames.Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}")
            change = value - self._peer_stream_window  # RFC 9113 6.9.2: open streams change too
            self._peer_stream_window = value
            for stream in self.streams.values():
                stream.send_window += change
                if stream.send_window > frames.MAX_WINDOW:
                    raise ConnectionFault(
                        ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value} overflows {stream}"
                    )
        elif key == frames.Setting.MAX_CONCURRENT_STREAMS:
            self.max_streams = value
        elif key == frames.Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_SIZE <= value <= frames.MAX_FRAME_SIZE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
            self._peer_frame_size = min(value, self.config.max_frame_size)
        elif key == frames.Setting.HEADER_TABLE_SIZE:
            self._encoder.resize(value)
        elif key == frames.Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")

    def _on_ping(self, flags: int, data: bytes) -> None:
        if len(data) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes (RFC 9113 6.7)")
        if flags & ACK:
            self._sink.pong(data)
        else:
            self._queue(frames.frame(PING, ACK, 0, data))

    def _on_goaway(self, data: bytes) -> None:
        if len(data) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is under 8 bytes (RFC 9113 6.8)")
        last = unpack_u32(data)[0] & STREAM_ID_MASK
        # The connection first: a refused stream is tried again at once, and must not be so here.
        self._sink.goaway(last, unpack_u32(data, 4)[0], data[8:])
        for stream in [stream for stream in self.streams.values() if stream.id > last]:
            if bool(stream.id & 1) == self.client:  # ours, and the peer will do nothing for it
                self._forget(stream)
                stream.sink.reset(ErrorCode.REFUSED_STREAM, "the peer is going away")
