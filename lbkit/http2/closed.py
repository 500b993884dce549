"""What a late frame means: how streams that are gone came to their end (RFC 9113 5.1, "closed")."""

from __future__ import annotations

# What is known of a stream id that was used, or passed over, and has no stream now.
ENDED = 0  # the peer sent END_STREAM: anything more is a fault of the connection, STREAM_CLOSED
RESET_BY_US = 1  # what it had on its way may still come, and is dropped
RESET_BY_PEER = 2  # more is a fault of the stream, STREAM_CLOSED
PASSED_OVER = 3  # a lower id than one that was used is closed for good (RFC 9113 5.1.1)
FORGOTTEN = 4  # too long ago to know: dropped

_REMEMBERED = 1000  # ten times the streams that are open at once
_GAPS = 100


class ClosedStreams:
    """Remembers resets and gaps, as many as can matter. A stream that ended well costs nothing."""

    __slots__ = ("_forgotten", "_gaps", "_resets")

    def __init__(self) -> None:
        # By id, oldest first; made when needed, as most never are.
        self._resets: dict[int, int] | None = None
        self._gaps: tuple[range, ...] = ()
        self._forgotten = 0  # the highest id that was dropped from either

    def reset(self, stream_id: int, who: int) -> None:
        """Note that a stream was reset, by us or by the peer."""
        if self._resets is None:
            self._resets = {}
        self._resets[stream_id] = who
        if len(self._resets) > _REMEMBERED:
            oldest = next(iter(self._resets))
            del self._resets[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def pass_over(self, first: int, last: int) -> None:
        """Note that the peer left out ids."""
        self._gaps += (range(first, last + 1, 2),)
        if len(self._gaps) > _GAPS:
            self._forgotten = max(self._forgotten, self._gaps[0][-1])
            self._gaps = self._gaps[1:]

    def fate(self, stream_id: int) -> int:
        """Return what became of a stream."""
        if self._resets is not None and (who := self._resets.get(stream_id)) is not None:
            return who
        if any(stream_id in gap for gap in self._gaps):
            return PASSED_OVER
        return FORGOTTEN if stream_id <= self._forgotten else ENDED
