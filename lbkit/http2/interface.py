"""The narrow interface between an HTTP/2 engine and the layer that owns the socket.

An engine does no I/O. Bytes go in through ``get_buffer`` and ``buffer_updated`` (the names and the order of
``asyncio.BufferedProtocol``); what they mean comes out through two sinks, called from inside ``buffer_updated``; what
the send calls produce is fetched with ``take``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from lbkit.http2.faults import ConnectionFault
from lbkit.http2.hpack import Field, Prefix
from lbkit.http2.stream import Stream
from lbkit.limits import Counters, Limits


class StreamSink(Protocol):
    """Takes what arrives on one stream. Nothing is called after ``reset`` or ``lost``, or after an ``end``."""

    def headers(self, fields: tuple[Field, ...], end: bool, /) -> None:
        """Take a header block that passed the checks of RFC 9113 8. Informational responses are left out."""
        ...

    def data(self, data: bytes, end: bool, /) -> None:
        """Take payload; call ``Engine.consumed`` when it is no longer in the way, or the window stays shut."""
        ...

    def data_buffer(self, length: int, /) -> memoryview | None:
        """Offer where the next ``length`` bytes of payload are received into, without a copy of them in between.

        Asked only for bytes that ``Engine.expect`` announced. None: give them to ``data`` instead.
        """
        ...

    def filled(self, length: int, end: bool, /) -> None:
        """Take note that the bytes that ``data_buffer`` offered room for are there."""
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

    def oversized(self, stream: Stream, reason: str, /) -> None:
        """Server: a new stream whose header list is above ``max_header_list``. Answer it, with the reason."""
        ...

    def settings(self) -> None:
        """Take note that the peer's SETTINGS came; the first time, the HTTP/2 handshake is complete."""
        ...

    def goaway(self, last_stream_id: int, code: int, debug: bytes, /) -> None:
        """Take note that the peer takes no new streams; those above the id are reset as refused next."""
        ...

    def exhausted(self) -> None:
        """Client: take note that stream ids run out: open no more streams here (RFC 9113 5.1.1)."""
        ...

    def pong(self, payload: bytes, /) -> None:
        """Take the answer to one of our PINGs."""
        ...

    def fault(self, fault: ConnectionFault, /) -> None:
        """Take note that the connection cannot go on. GOAWAY is queued: flush it, then close."""
        ...


class EngineParts(NamedTuple):
    """What an engine is made with.

    Attributes:
        client: which end it is.
        sink: takes what concerns the connection.
        limits: what is announced and enforced.
        counters: where what the limits are about is counted.
        scratch: where to receive into. Engines whose reads never interleave (all of one event loop) may share
            it; what is left of an unfinished frame is copied out before ``buffer_updated`` returns.
        now: returns the time in seconds; asked only when something out of the ordinary is counted.
    """

    client: bool
    sink: ConnectionSink
    limits: Limits
    counters: Counters
    scratch: memoryview
    now: Callable[[], float]


class Engine(Protocol):
    """One end of one HTTP/2 connection."""

    held: int
    """Server: streams that are closed, but whose handlers still run; they count as open for the peer's limit.

    The sink raises it in ``reset`` if its handler has begun, and has it lowered when that has ended. The engine then
    does not hold the reset against the peer: who cancels calls that run is bounded by the number of streams.
    """

    @property
    def streams(self) -> Mapping[int, Stream]:
        """The streams that are not closed, by id."""
        ...

    @property
    def max_streams(self) -> int:
        """How many streams the peer lets us have open at once."""
        ...

    @property
    def max_header_list(self) -> int:
        """The largest header list that the peer takes, in bytes as RFC 9113 6.5.2 counts them."""
        ...

    @property
    def settings_acked(self) -> bool:
        """Whether the peer has acknowledged our first SETTINGS: from then on it knows our limits."""
        ...

    @property
    def unfinished_since(self) -> float | None:
        """Since when a header block, or a frame other than DATA, has been incomplete; None if none is."""
        ...

    @property
    def queued_bytes(self) -> int:
        """Bytes that ``take`` would return."""
        ...

    @property
    def queued_frames(self) -> int:
        """About how many frames ``take`` would return."""
        ...

    @property
    def queued_control(self) -> int:
        """How many of them are not HEADERS or DATA."""
        ...

    def streams_opened(self) -> int:
        """Return how many streams the connection has had."""
        ...

    def start(self) -> None:
        """Client: queue the preface and our SETTINGS. Server: be ready to, when the client's preface has come."""
        ...

    def get_buffer(self, hint: int, /) -> memoryview:
        """Return where to receive into; at least one byte long."""
        ...

    def buffer_updated(self, count: int, /) -> None:
        """Process ``count`` bytes received into the buffer; calls the sinks. Never raises for bad input."""
        ...

    def lost(self, reason: str) -> None:
        """Tell every stream that the connection is gone."""
        ...

    def fail(self, fault: ConnectionFault, /) -> None:
        """End the connection for what the layer above found out (a time-out): GOAWAY, then ``sink.fault``."""
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
        """Queue payload as far as windows and ``send_buffer`` allow, keep the rest. True if all of it was queued."""
        ...

    def reset(self, stream: Stream, code: int, /) -> None:
        """Queue RST_STREAM and forget the stream; harmless if it is closed."""
        ...

    def consumed(self, stream: Stream, count: int, /) -> None:
        """Give ``count`` bytes of window back to the peer's stream."""
        ...

    def expect(self, stream: Stream, count: int, /) -> None:
        """Announce that the sink waits for ``count`` more bytes of one message, and has room for them.

        The peer gets the window for all of them at once; long frames go through ``StreamSink.data_buffer``.
        """
        ...

    def ping(self, payload: bytes, /) -> None:
        """Queue a PING of eight bytes."""
        ...

    def goaway(self, last_stream_id: int | None, code: int, debug: bytes = b"", /) -> None:
        """Queue GOAWAY; None stands for the last stream that the peer opened."""
        ...

    def take(self) -> bytes:
        """Return and forget everything queued; data that waited for room is queued next."""
        ...
