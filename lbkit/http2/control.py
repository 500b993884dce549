"""The frames that carry no call: SETTINGS, PING, GOAWAY, WINDOW_UPDATE, RST_STREAM, PRIORITY (RFC 9113 6.3 to 6.9)."""

from __future__ import annotations

from lbkit.http2 import frames
from lbkit.http2.closed import RESET_BY_PEER, RESET_BY_US
from lbkit.http2.faults import ConnectionFault
from lbkit.http2.frames import (
    ACK,
    GOAWAY,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_ID_MASK,
    WINDOW_UPDATE,
    ErrorCode,
    Setting,
    pack_u32,
    unpack_u32,
)
from lbkit.http2.outbound import LONGEST_FRAME, Outbound
from lbkit.http2.stream import CLOSED, Stream
from lbkit.http2.tuner import PING_PAYLOAD


class Control(Outbound):
    """What the native engine does about control frames."""

    __slots__ = ()

    def _on_control(self, kind: int, flags: int, stream_id: int, data: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._on_window_update(stream_id, data)
        elif kind == RST_STREAM:
            self._on_reset(stream_id, data)
        elif kind == PRIORITY:
            self._on_priority(stream_id, data)
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, though push is off (RFC 9113 8.4)")
        elif kind in (SETTINGS, PING, GOAWAY):
            if stream_id:  # and 6.7, 6.8
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, f"frame type {kind} on stream {stream_id} (RFC 9113 6.5)"
                )
            if kind == SETTINGS:
                self._on_settings(flags, data)
            elif kind == PING:
                self._on_ping(flags, data)
            else:
                self._on_goaway(data)
        else:
            self._guard.glitch(f"frame type {kind}")  # ignored: RFC 9113 5.5

    # WINDOW_UPDATE, RFC 9113 6.9

    def _on_window_update(self, stream_id: int, data: bytes) -> None:
        if len(data) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes (RFC 9113 6.9)")
        self._guard.window_update(self.streams_opened(), self._sent())
        increment = unpack_u32(data)[0] & frames.MAX_WINDOW
        if stream_id == 0:
            self._send_window += increment
            if not increment or self._send_window > frames.MAX_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
                raise ConnectionFault(code, f"WINDOW_UPDATE of {increment} (RFC 9113 6.9)")
        else:
            stream = self.streams.get(stream_id)
            if stream is None:
                self._require_used(stream_id, "WINDOW_UPDATE")
                return  # crossed the end of the stream: RFC 9113 5.1
            stream.send_window += increment
            if not increment or stream.send_window > frames.MAX_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
                self._stream_fault(stream, code, f"WINDOW_UPDATE of {increment} (RFC 9113 6.9)")
                return
        if self._blocked:
            self._pump()

    # RST_STREAM, RFC 9113 6.4

    def _on_reset(self, stream_id: int, data: bytes) -> None:
        if len(data) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes (RFC 9113 6.4)")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._require_used(stream_id, "RST_STREAM")
            self._guard.late(self.streams_opened(), "RST_STREAM on a closed stream")  # crossed ours: 5.1
            if self._closed.fate(stream_id) == RESET_BY_US:  # nothing comes behind it
                self._closed.reset(stream_id, RESET_BY_PEER)
            return
        code = unpack_u32(data)[0]
        self._closed.reset(stream_id, RESET_BY_PEER)
        self._forget(stream)
        held = self.held
        stream.sink.reset(code, f"the peer reset the stream with {frames.error_name(code)}")
        if self.held > held:
            self._guard.cancelled()
        else:
            self._guard.reset(self._over(), f"RST_STREAM {frames.error_name(code)}")

    # PRIORITY, RFC 9113 5.3.2 and 6.3

    def _on_priority(self, stream_id: int, data: bytes) -> None:
        """Ignore it, unless it is wrong even for who wants to ignore it."""
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0 (RFC 9113 6.3)")
        if len(data) != 5:
            # A stream error by the letter, and 5.4.2 lets us take it for worse: it may be on no stream at all.
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes (RFC 9113 6.3)")
        self._guard.priority(self.streams_opened())
        self._guard.glitch("PRIORITY")
        if unpack_u32(data)[0] & STREAM_ID_MASK == stream_id:
            # As RFC 7540 5.3.1 has it; RFC 9113 is silent about it.
            text = f"stream {stream_id} depends on itself (RFC 9113 5.3.2)"
            stream = self.streams.get(stream_id)
            if stream is None:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, text)
            self._stream_fault(stream, ErrorCode.PROTOCOL_ERROR, text)

    # SETTINGS, RFC 9113 6.5

    def _on_settings(self, flags: int, data: bytes) -> None:
        if len(data) % 6 or (flags & ACK and data):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong length (RFC 9113 6.5)")
        if flags & ACK:
            self._on_settings_ack()
            return
        self._guard.settings(len(data) // 6)
        for at in range(0, len(data), 6):
            self._apply_setting(*frames.unpack_setting(data, at))
        self._queue(frames.frame(SETTINGS, ACK, 0, b""))
        if self._blocked:
            self._pump()
        self._sink.settings()

    def _on_settings_ack(self) -> None:
        """From here on the peer obeys our SETTINGS (RFC 9113 6.5.3)."""
        if not self._settings_unacked:
            self._guard.glitch("SETTINGS ACK for no SETTINGS")
            return
        self._settings_unacked -= 1
        if self.settings_acked:
            return
        self.settings_acked = True
        change = min(0, self.limits.stream_window - frames.DEFAULT_WINDOW)
        if change:  # it was below the RFC's default
            self._initial_window += change
            for stream in self.streams.values():
                stream.receive_window += change
                stream.ends_at += change

    def _apply_setting(self, key: int, value: int) -> None:
        """Obey one parameter of the peer (RFC 9113 6.5.2)."""
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ConnectionFault(
                    ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value} (RFC 9113 6.5.2)"
                )
            change = value - self._peer_stream_window  # RFC 9113 6.9.2: open streams change too
            self._peer_stream_window = value
            for stream in self.streams.values():
                stream.send_window += change
                if stream.send_window > frames.MAX_WINDOW:
                    raise ConnectionFault(
                        ErrorCode.FLOW_CONTROL_ERROR,
                        f"INITIAL_WINDOW_SIZE {value} overflows {stream} (RFC 9113 6.9.2)",
                    )
        elif key == Setting.MAX_CONCURRENT_STREAMS:
            self.max_streams = value
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_SIZE <= value <= frames.MAX_FRAME_SIZE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value} (RFC 9113 6.5.2)")
            self._peer_frame_size = min(value, LONGEST_FRAME)
        elif key == Setting.MAX_HEADER_LIST_SIZE:
            self.max_header_list = value
        elif key == Setting.HEADER_TABLE_SIZE:
            self._encoder.resize(value)
        elif key == Setting.ENABLE_PUSH and value > (0 if self.client else 1):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH {value} (RFC 9113 6.5.2)")

    # PING, RFC 9113 6.7

    def _on_ping(self, flags: int, data: bytes) -> None:
        if len(data) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes (RFC 9113 6.7)")
        if not flags & ACK:
            self._guard.ping(self._sent(), len(self.streams))
            self._queue(frames.frame(PING, ACK, 0, data))
            return
        if not self._unanswered:
            self._guard.glitch("PING ACK for no PING")
            return
        self._unanswered -= 1
        if data == PING_PAYLOAD:
            growth = self._tuner.end(self._received + self._unreturned, self._now())
            if growth:
                self._grow(growth)
        else:
            self._sink.pong(data)

    # GOAWAY, RFC 9113 6.8

    def _on_goaway(self, data: bytes) -> None:
        if len(data) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is under 8 bytes (RFC 9113 6.8)")
        last = unpack_u32(data)[0] & STREAM_ID_MASK
        if last > self._last_goaway:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"GOAWAY rose from {self._last_goaway} to {last} (RFC 9113 6.8)"
            )
        if self.client and last and not last & 1:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"GOAWAY {last}: no stream of ours (RFC 9113 6.8)"
            )
        self._last_goaway = last
        code, debug = unpack_u32(data, 4)[0], data[8:]
        self._guard.glitch("GOAWAY")  # two are usual
        # The connection first: a refused stream is tried again at once, and must not be so here.
        self._sink.goaway(last, code, debug)
        reason = f"the peer said GOAWAY {frames.error_name(code)} {debug.decode('utf-8', 'replace')}".rstrip()
        for stream in [stream for stream in self.streams.values() if stream.id > last]:
            # Ours, and the peer will do nothing for it; unless another's sink has reset it meanwhile.
            if bool(stream.id & 1) == self.client and stream.state != CLOSED:
                # A server that began with it nevertheless is no offender.
                self._closed.reset(stream.id, RESET_BY_US)
                self._forget(stream)
                stream.sink.reset(ErrorCode.REFUSED_STREAM, reason)

    # What all frames share

    def _stream_fault(self, stream: Stream, code: ErrorCode, text: str) -> None:
        """Reset a stream for what its peer did; every other stream lives on (RFC 9113 5.4.2)."""
        self.counters.seen["stream_faults"] += 1
        self.reset(stream, code)
        stream.sink.reset(code, text)
        self._guard.reset(self._over(), text)

    def _refuse(self, stream_id: int, code: ErrorCode, text: str, *, fault: bool = True) -> None:
        """Reset a stream that there is no object for; if it is a ``fault`` of the peer, it counts as one."""
        self._closed.reset(stream_id, RESET_BY_US)
        self._late_data += self._initial_window
        self._queue(frames.frame(RST_STREAM, 0, stream_id, pack_u32(code)))
        if fault:
            self.counters.seen["stream_faults"] += 1
            self._guard.reset(self._over(), text)
        else:
            self._guard.refused()

    def _was_used(self, stream_id: int) -> bool:
        """Whether a stream id that has no stream now had one, or was passed over (RFC 9113 5.1: idle or closed)."""
        if bool(stream_id & 1) == self.client:
            return 0 < stream_id < self._next_id
        return 0 < stream_id <= self._peer_last_id

    def _require_used(self, stream_id: int, what: str) -> None:
        if not self._was_used(stream_id):
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"{what} on idle stream {stream_id} (RFC 9113 5.1)"
            )

    def streams_opened(self) -> int:
        """Return how many streams the connection has had."""
        return (self._next_id - 1 >> 1) + (self._peer_last_id + 1 >> 1) - self._passed_over

    def _over(self) -> int:
        """Return how many of them are over."""
        return self.streams_opened() - len(self.streams)
