"""The frames that carry no call, in the reference engine (RFC 9113 6.3 to 6.9)."""

from __future__ import annotations

from h2.events import ConnectionTerminated, StreamReset
from h2.settings import SettingCodes

from lbkit.http2 import frames
from lbkit.http2.closed import RESET_BY_PEER, RESET_BY_US
from lbkit.http2.faults import ConnectionFault
from lbkit.http2.frames import (
    ACK,
    CONTINUATION,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    STREAM_ID_MASK,
    WINDOW_UPDATE,
    ErrorCode,
    error_name,
    pack_u32,
    unpack_u32,
)
from lbkit.http2.hpack import DEFAULT_TABLE_SIZE
from lbkit.http2.reference.headers import H2Headers, StreamFault
from lbkit.http2.stream import CLOSED


class H2Control(H2Headers):
    """What the reference engine does about control frames."""

    _last_goaway = frames.MAX_STREAM_ID  # the id in the peer's last GOAWAY

    def _on_control(self, kind: int, flags: int, stream_id: int, frame: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._on_window_update(stream_id, frame)
        elif kind == RST_STREAM:
            self._on_reset(stream_id, frame)
        elif kind > CONTINUATION:  # RFC 9113 5.5 has us ignore it, and h2 does not ignore ALTSVC
            self._guard.glitch(f"frame type {kind}")
        else:
            if kind == SETTINGS and not flags & ACK:
                self._guard.settings((len(frame) - 9) // 6)
                for gone in self._h2.streams.keys() - self.streams.keys():
                    del self._h2.streams[
                        gone
                    ]  # its window may overflow, which is nobody's fault (RFC 9113 6.9.2)
            elif kind == PING and not flags & ACK:
                self._guard.ping(2 * self._sent_frames, len(self.streams))
            self._feed(frame)
            if kind == PRIORITY:
                self._guard.priority(self.streams_opened())
                self._guard.glitch("PRIORITY")

    def _on_window_update(self, stream_id: int, frame: bytes) -> None:
        self._guard.window_update(self.streams_opened(), 2 * self._sent_frames)
        if len(frame) == 9 + 4:
            increment = unpack_u32(frame, 9)[0] & frames.MAX_WINDOW
            frame = frame[:9] + pack_u32(increment)  # h2 takes the reserved bit for a part of the number
            stream = self.streams.get(stream_id)
            if stream is None and self._was_used(stream_id):
                return  # crossed the end of the stream; after GOAWAY h2 may still have one
            if stream is not None and not increment:  # a fault of the stream, RFC 9113 6.9
                fault = StreamFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0 (RFC 9113 6.9)")
                self._stream_fault(stream, fault)
                return
        self._feed(frame)

    def _on_reset(self, stream_id: int, frame: bytes) -> None:
        if stream_id and stream_id not in self.streams and len(frame) == 9 + 4:
            if not self._was_used(stream_id):  # h2 ignores it
                text = f"RST_STREAM on idle stream {stream_id} (RFC 9113 5.1)"
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, text)
            self._guard.late(self.streams_opened(), "RST_STREAM on a closed stream")  # crossed ours: 5.1
            if self._closed.fate(stream_id) == RESET_BY_US:  # nothing comes behind it
                self._closed.reset(stream_id, RESET_BY_PEER)
            return
        self._feed(frame)

    def _on_stream_reset(self, event: StreamReset) -> None:
        """Forget a stream that the peer has reset, or h2 for what the peer did."""
        stream = self.streams[event.stream_id]
        code = int(event.error_code or 0)
        if event.remote_reset:
            text = f"the peer reset the stream with {error_name(code)}"
            self._closed.reset(stream.id, RESET_BY_PEER)
            self._forget(stream)
        else:
            text = f"{error_name(code)} (h2)"
            self.counters.seen["stream_faults"] += 1
            self._forget_reset(stream)
        held = self.held
        stream.sink.reset(code, text)
        if event.remote_reset and self.held > held:
            self._guard.cancelled()
        else:
            self._guard.reset(self._over(), text)

    def _on_settings(self) -> None:
        # The layer above keeps to it; h2 would raise on a stream too many, also if the limit fell meanwhile.
        self.max_streams = self._h2.remote_settings.pop(SettingCodes.MAX_CONCURRENT_STREAMS, self.max_streams)
        # The peer may offer any size for a table that is paid for here. Setting the size that it has already would have
        # hpack forget to announce the change (RFC 7541 4.2).
        encoder = self._h2.encoder
        if encoder.header_table_size > DEFAULT_TABLE_SIZE:  # noqa: PLR1730 -- see above
            encoder.header_table_size = DEFAULT_TABLE_SIZE
        self._pump()
        self._sink.settings()

    def _on_settings_ack(self) -> None:
        """From here on the peer obeys our SETTINGS (RFC 9113 6.5.3)."""
        if self.settings_acked:
            self._guard.glitch("SETTINGS ACK for no SETTINGS")
            return
        self.settings_acked = True
        change = self.limits.stream_window - self._initial_window
        self._initial_window += change
        for stream in self.streams.values():
            stream.receive_window += change

    def _on_pong(self, payload: bytes) -> None:
        if not self._unanswered:
            self._guard.glitch("PING ACK for no PING")
            return
        self._unanswered -= 1
        self._sink.pong(payload)

    def _on_goaway(self, event: ConnectionTerminated) -> None:
        last = (event.last_stream_id or 0) & STREAM_ID_MASK
        if last > self._last_goaway:
            text = f"GOAWAY rose from {self._last_goaway} to {last} (RFC 9113 6.8)"
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, text)
        if self.client and last and not last & 1:
            text = f"GOAWAY {last}: no stream of ours (RFC 9113 6.8)"
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, text)
        self._last_goaway = last
        self._guard.glitch("GOAWAY")  # two are usual
        code, debug = int(event.error_code or 0), event.additional_data or b""
        # The connection first: a refused stream is tried again at once, and must not be so here.
        self._sink.goaway(last, code, debug)
        reason = f"the peer said GOAWAY {error_name(code)} {debug.decode('utf-8', 'replace')}".rstrip()
        for stream in [stream for stream in self.streams.values() if stream.id > last]:
            # Ours, and the peer will do nothing for it; unless another's sink has reset it meanwhile.
            if bool(stream.id & 1) == self.client and stream.state != CLOSED:
                # A server that began with it nevertheless is no offender.
                self._closed.reset(stream.id, RESET_BY_US)
                self._forget(stream)
                stream.sink.reset(ErrorCode.REFUSED_STREAM, reason)
