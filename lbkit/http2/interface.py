"""The narrow interface between an HTTP/2 engine and the layer that owns the socket.

An engine does no I/O and knows no clock. Bytes go in through ``get_buffer`` and ``buffer_updated`` (the names and
the order of ``asyncio.BufferedProtocol``); what they mean comes out through two sinks, called from inside
``buffer_updated``; what the send calls produce is fetched with ``take``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from lbkit.http2.faults import ConnectionFault
from lbkit.http2.hpack import Field, Prefix
from lbkit.http2.stream import Stream


class EngineConfig(NamedTuple):
    """What one side announces and enforces; sizes in bytes.

    Attributes:
        max_concurrent_streams: streams the peer may have open at once; more are refused with REFUSED_STREAM.
        stream_window: how much a peer may send on a stream ahead of what was consumed.
        connection_window: the same for all streams together; returned on receipt.
        max_frame_size: the longest frame accepted.
        max_header_list: decoded header lists above this are refused, stream by stream.
    """

    max_concurrent_streams: int = 100
    stream_window: int = 256 * 1024
    connection_window: int = 1024 * 1024
    max_frame_size: int = 16384
    max_header_list: int = 16384


class StreamSink(Protocol):
    """Takes what arrives on one stream. Nothing is called after ``reset`` or ``lost``, or after an ``end``."""

    def headers(self, fields: tuple[Field, ...], end: bool, /) -> None:
        """Take a header block that passed the checks of RFC 9113 8. Informational responses are left out."""
        ...

    def data(self, data: bytes, end: bool, /) -> None:
        """Take payload; call ``Engine.consumed`` when it is no longer in the way, or the window stays shut."""
        ...

    def reset(self, code: int, reason: str, /) -> None:
        """Take note that the stream is over without an end: the peer reset it, or we did for a fault of it.

        REFUSED_STREAM means that the peer has done nothing for it (also after GOAWAY): it is safe to retry.
        """
        ...

    def lost(self, reason: str, /) -> None:
        """Take note that the connection is gone; what the peer did for this stream is unknown."""
        ...

    def writable(self) -> None:
        """Take note that all data given to ``send_data`` has been queued for the wire."""
        ...


class ConnectionSink(Protocol):
    """Takes what concerns the whole connection."""

    def request(self, stream: Stream, fields: tuple[Field, ...], end: bool, /) -> None:
        """Server: a new stream with its request headers. Set ``stream.sink`` before returning."""
        ...

    def settings(self) -> None:
        """Take note that the peer's SETTINGS came; the first time, the HTTP/2 handshake is complete."""
        ...

    def goaway(self, last_stream_id: int, code: int, debug: bytes, /) -> None:
        """Take note that the peer takes no new streams; those above the id are reset as refused next."""
        ...

    def pong(self, payload: bytes, /) -> None:
        """Take the answer to one of our PINGs."""
        ...

    def fault(self, fault: ConnectionFault, /) -> None:
        """Take note that the connection cannot go on. GOAWAY is queued: flush it, then close."""
        ...


class Engine(Protocol):
    """One end of one HTTP/2 connection."""

    @property
    def streams(self) -> Mapping[int, Stream]:
        """The streams that are not closed, by id."""
        ...

    @property
    def max_streams(self) -> int:
        """How many streams the peer lets us have open at once."""
        ...

    @property
    def queued_bytes(self) -> int:
        """Bytes that ``take`` would return."""
        ...

    @property
    def queued_frames(self) -> int:
        """About how many frames ``take`` would return."""
        ...

    def start(self) -> None:
        """Queue the preface (client) and our SETTINGS. Call once, first."""
        ...

    def get_buffer(self, hint: int, /) -> memoryview:
        """Return where to receive into; at least one byte long."""
        ...

    def buffer_updated(self, count: int, /) -> None:
        """Process ``count`` bytes received into the buffer; calls the sinks. Never raises for bad input."""
        ...

    def lost(self, reason: str, /) -> None:
        """Tell every stream that the connection is gone."""
        ...

    def open(self, sink: StreamSink, /) -> Stream:
        """Client: take the next stream id."""
        ...

    def send_headers(
        self, stream: Stream, prefix: Prefix | None, fields: Iterable[Field], end: bool, /
    ) -> None:
        """Queue a header block: the constant prefix, then what changes from call to call."""
        ...

    def send_data(self, stream: Stream, data: bytes, end: bool, /) -> bool:
        """Queue payload as far as the windows allow and keep the rest. True if all of it was queued."""
        ...

    def reset(self, stream: Stream, code: int, /) -> None:
        """Queue RST_STREAM and forget the stream; harmless if it is closed."""
        ...

    def consumed(self, stream: Stream, count: int, /) -> None:
        """Give ``count`` bytes of window back to the peer's stream."""
        ...

    def ping(self, payload: bytes, /) -> None:
        """Queue a PING of eight bytes."""
        ...

    def goaway(self, last_stream_id: int | None, code: int, debug: bytes = b"", /) -> None:
        """Queue GOAWAY; None stands for the last stream that the peer opened."""
        ...

    def take(self) -> bytes:
        """Return and forget everything queued."""
        ...
