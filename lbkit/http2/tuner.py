"""How large a receive window the path needs: as much as comes in while a PING goes there and back.

The bandwidth-delay product is estimated as grpc-go and C-core do it, but a sample begins only when a quarter of the
connection's window has come in: small messages cause a PING once in thousands.
"""

from __future__ import annotations

PING_PAYLOAD = b"\x02\x04\x10\x10\x09\x0e\x07\x07"  # as grpc-go's, so that traces look familiar

_NEARLY_FULL = 2 / 3  # a sample of this part of the estimate says that the window was the bottleneck
_LONGEST_PAUSE = 63  # occasions left out after samples that found the window large enough
_NEW_RTT = 0.1  # weight of the newest round trip in the average


class Tuner:
    """The estimate for one connection.

    Args:
        window: where to start, in bytes.
        most: where to end.

    Attributes:
        window: what a stream's window should be.
    """

    __slots__ = ("_bandwidth", "_began", "_idle", "_most", "_pause", "_received", "_rtt", "window")

    def __init__(self, window: int, most: int) -> None:
        self.window = window
        self._most = most
        self._began: float | None = None  # when the PING was sent
        self._received = 0  # bytes there had been then
        self._rtt = 0.0
        self._bandwidth = 0.0
        self._pause = 0  # how many occasions were left out after the last sample
        self._idle = 0  # and how many still are

    def begin(self, received: int, now: float) -> bool:
        """Begin a sample unless one is running or the window is as large as it gets. True: send the PING.

        Args:
            received: bytes that have come so far.
            now: the time, in seconds.
        """
        if self._began is not None or self.window >= self._most:
            return False
        if self._idle:
            self._idle -= 1
            return False
        self._began = now
        self._received = received
        return True

    def end(self, received: int, now: float) -> int:
        """End the sample with the answer to the PING; return by how much the window grew."""
        if self._began is None:
            return 0
        took = max(now - self._began, 1e-6)
        self._began = None
        self._rtt = took if not self._rtt else self._rtt + (took - self._rtt) * _NEW_RTT
        sample = received - self._received
        bandwidth = sample / (self._rtt * 1.5)  # the PING waited for about half a round trip's data
        if bandwidth <= self._bandwidth or sample < self.window * _NEARLY_FULL:
            self._bandwidth = max(self._bandwidth, bandwidth)
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause + 1)
            self._idle = self._pause
            return 0
        self._bandwidth = bandwidth
        self._pause = 0
        before, self.window = self.window, min(self._most, 2 * sample)
        return max(0, self.window - before)
