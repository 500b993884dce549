"""What one connection is allowed to do to us, in one place, and what has been counted against it.

The defaults are ten to a hundred times lower than those of servers in C: a frame costs Python more.
docs/design/http2.md says of each where it comes from.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

_KIB = 1024
_MIB = 1024 * 1024

_MOST = 2**31 - 1  # of windows and stream numbers, RFC 9113 5.1.1 and 6.9.1
# Where 0 would mean that nothing ever moves, or where the RFC has the last word (6.5.2).
_RANGES = {
    "max_concurrent_streams": (0, _MOST),
    "stream_window": (1, _MOST),
    "connection_window": (1, _MOST),
    "max_window": (1, _MOST),
    "send_buffer": (1, _MOST),
    "max_frame_size": (16 * _KIB, 2**24 - 1),
}


# Without what dataclasses would write and compile for equality and text: it is half of the time to import this.
@dataclass(frozen=True, eq=False, repr=False)
class Limits:
    """The limits of ``Channel(limits=...)`` and ``Server(limits=...)``. Sizes are in bytes, times in seconds.

    A pair of ``burst`` and ``rate`` is a bucket: so many at once, and so many more for each second.

    Attributes:
        max_concurrent_streams: streams that a peer may have open; a stream counts until its handler has ended. More
            are refused with REFUSED_STREAM (RFC 9113 5.1.2).
        max_connections: connections of a server; more are closed as soon as they are accepted.
        max_connections_per_peer: the same for each IP address; 0 is no limit.
        max_message: the largest message that is received.
        stream_window: what a peer may send on a stream ahead of what was read (RFC 9113 6.9.2).
        connection_window: the same for all streams together; it returns on receipt.
        max_window: how far a stream's window grows on a path that needs it; the connection's grows by as much.
        send_buffer: frames that wait for the socket; writers wait above it.
        max_frame_size: the longest frame accepted (RFC 9113 4.2).
        header_list_advertised: SETTINGS_MAX_HEADER_LIST_SIZE; longer lists are counted.
        max_header_list: longer lists are refused, stream by stream, with RESOURCE_EXHAUSTED.
        abusive_header_list: longer lists, or blocks, end the connection.
        continuation_frames: CONTINUATION frames to one header block.
        control_frames_pause: our answers (ACKs, resets) that wait for a peer that does not read, at which we stop
            reading too.
        control_frames: the same, at which the connection ends.
        resets_burst: streams reset by the peer, or by us for what it did. One that ends well, or that was
            cancelled while its handler ran, allows for one more.
        resets_rate: more of them for each second.
        glitches_burst: oddities that the RFC has us tolerate: frames on closed streams, of unknown types, PRIORITY.
        glitches_rate: more of them for each second.
        empty_frames: frames in a row that carry and end nothing.
        priority_frames: PRIORITY frames for each stream opened, and as many again.
        settings_burst: SETTINGS frames.
        settings_rate: more of them for each second.
        settings_entries: parameters in one SETTINGS frame.
        settings_timeout_s: how long the peer may take to acknowledge our SETTINGS (RFC 9113 6.5.3).
        pings_burst: PINGs while we send nothing else.
        pings_rate: more of them for each second.
        ping_interval_s: a client's PINGs come no faster, unless we send it HEADERS or DATA in between (gRFC A8).
        idle_ping_interval_s: the same while it has no stream open.
        ping_strikes: how many may come too early before GOAWAY ``too_many_pings``.
        handshake_timeout_s: from accepting a connection to the peer's SETTINGS.
        header_timeout_s: from the first byte of a header block, or of any frame but DATA, to its last.
        write_timeout_s: how long the kernel may take no byte of what we send (gRFC A18).

    Raises:
        ValueError: a limit is negative, or outside of what HTTP/2 allows; says which and what.
    """

    max_concurrent_streams: int = 100
    max_connections: int = 10_000
    max_connections_per_peer: int = 0
    max_message: int = 4 * _MIB
    stream_window: int = 256 * _KIB
    connection_window: int = 1 * _MIB
    max_window: int = 16 * _MIB
    send_buffer: int = 256 * _KIB
    max_frame_size: int = 16 * _KIB
    header_list_advertised: int = 8 * _KIB
    max_header_list: int = 16 * _KIB
    abusive_header_list: int = 64 * _KIB
    continuation_frames: int = 8
    control_frames_pause: int = 100
    control_frames: int = 1000
    resets_burst: int = 200
    resets_rate: float = 20.0
    glitches_burst: int = 500
    glitches_rate: float = 50.0
    empty_frames: int = 10
    priority_frames: int = 100
    settings_burst: int = 100
    settings_rate: float = 10.0
    settings_entries: int = 32
    settings_timeout_s: float = 60.0
    pings_burst: int = 100
    pings_rate: float = 10.0
    ping_interval_s: float = 300.0
    idle_ping_interval_s: float = 7200.0
    ping_strikes: int = 2
    handshake_timeout_s: float = 10.0
    header_timeout_s: float = 10.0
    write_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least, most = _RANGES.get(name, (0, None))
            if value < least or (most is not None and value > most):
                allowed = f"at least {least}" if most is None else f"from {least} to {most}"
                raise ValueError(f"Limits({name}={value!r}): it must be {allowed}")

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if isinstance(other, Limits) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        changed = [
            f"{name}={value!r}" for name, value in vars(self).items() if value != getattr(Limits, name)
        ]
        return f"Limits({', '.join(changed)})"


class Counters:
    """What all connections of a channel or server have counted. Read it at any time; it only grows.

    Attributes:
        seen: events that limits are about, by name: ``resets``, ``glitches``, ``pings``, ``settings``,
            ``empty_frames``, ``priority_frames``, ``window_updates``, ``continuation_frames``, ``keepalive_pings``,
            ``requests_without_te``, ...
        exceeded: how often a limit acted, by the name of its field in ``Limits`` (the burst of a bucket without
            ``_burst``), or of the channel's option: ``max_concurrent_streams``, ``resets``, ``keepalive_timeout``, ...
    """

    __slots__ = ("exceeded", "seen")

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.exceeded: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"Counters(seen={dict(self.seen)}, exceeded={dict(self.exceeded)})"
