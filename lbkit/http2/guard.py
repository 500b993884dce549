"""What a peer may do only so often. Everything here is off the hot path: ordinary calls never come by."""

from __future__ import annotations

from collections.abc import Callable

from lbkit.http2.faults import ConnectionFault
from lbkit.http2.frames import ErrorCode
from lbkit.limits import Counters, Limits

# A peer may send so many WINDOW_UPDATEs, and more for each stream and each frame that it got (as Envoy counts).
_WINDOW_UPDATES = 5
_WINDOW_UPDATES_PER_STREAM = 2
_WINDOW_UPDATES_PER_PIECE = 10
_LATE_PER_STREAM = 2  # RST_STREAM and trailers
_PINGS_SAVED = 64  # a megabyte of DATA


class Bucket:
    """So many at once, and so many more for each second: the usual token bucket."""

    __slots__ = ("_burst", "_filled_at", "_rate", "level")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst = burst
        self._rate = rate
        self._filled_at = now
        self.level = float(burst)

    def take(self, now: float, earned: int = 0) -> bool:
        """Take one out; False if there was none. ``earned`` more are put in before."""
        level = min(self._burst, self.level + (now - self._filled_at) * self._rate + earned)
        self._filled_at = now
        self.level = level - 1 if level >= 1 else level
        return level >= 1


_NO_BUCKETS: dict[str, Bucket] = {}  # never filled


class Guard:
    """Counts what one peer does, and ends the connection with ENHANCE_YOUR_CALM when it is too much.

    Args:
        limits: how much is too much.
        counters: where everything is counted, for all connections together.
        now: returns the time in seconds, from any beginning.
        client: whether we are the client: a server's PINGs are not held to gRFC A8, and its resets to no limit.
    """

    __slots__ = (
        "_buckets",
        "_client",
        "_counters",
        "_empty_at",
        "_empty_frames",
        "_ended_badly",
        "_ended_well",
        "_late",
        "_limits",
        "_now",
        "_ping_at",
        "_ping_sent",
        "_priority_frames",
        "_settings_begun",
        "_strikes",
        "_window_updates",
    )

    def __init__(self, limits: Limits, counters: Counters, now: Callable[[], float], *, client: bool) -> None:
        self._limits = limits
        self._counters = counters
        self._now = now
        self._client = client
        self._buckets: dict[str, Bucket] = _NO_BUCKETS  # by name, made when first needed: most never are
        self._settings_begun = False
        self._ended_badly = 0  # streams that were reset or refused
        self._ended_well = 0  # streams that had not been, at the last reset
        self._late = 0
        self._empty_frames = 0
        self._empty_at: object = None
        self._priority_frames = 0
        self._window_updates = 0
        self._ping_at: float | None = None
        self._ping_sent = 0
        self._strikes = 0

    def refused(self) -> None:
        """Count a stream that was refused through no fault of the peer."""
        self._ended_badly += 1

    def cancelled(self) -> None:
        """Count a stream that the peer reset while its handler ran: as one that ended well.

        It counts as open until the handler has ended, so that who does this is bounded as all callers are.
        """
        self._counters.seen["resets"] += 1

    def reset(self, ended: int, what: str) -> None:
        """Count a stream reset by the peer, or by us for what it did (CVE-2023-44487, CVE-2025-8671).

        Args:
            ended: streams that the connection has had and that are over, this one included.
            what: what happened, for the message.
        """
        # For each stream that ended well one may be reset: callers that cancel one call in two stay welcome.
        self._ended_badly += 1
        well = ended - self._ended_badly
        earned = max(0, well - self._ended_well)
        self._ended_well = max(well, self._ended_well)
        self._counters.seen["resets"] += 1
        # A server gains nothing from resetting the calls of its client.
        if not self._take("resets", earned=earned) and not self._client:
            self.exceed("resets", f"too many streams were reset; the last: {what}")

    def glitch(self, what: str) -> None:
        """Count an oddity that is tolerated."""
        self._counters.seen["glitches"] += 1
        if not self._take("glitches"):
            self.exceed("glitches", f"too many oddities; the last: {what}")

    def late(self, opened: int, what: str) -> None:
        """Count what may come once for each stream after its end, because it crossed the end on its way."""
        self._late += 1
        self._counters.seen["late_frames"] += 1
        if self._late > opened * _LATE_PER_STREAM:
            self.glitch(what)

    def empty_frame(self, before: object, after: object) -> None:
        """Count a frame that carries nothing and ends nothing (CVE-2019-9518).

        Args:
            before: anything that changes with frames that do carry something, as it was before this frame.
            after: the same after it.
        """
        self._empty_frames = self._empty_frames + 1 if before == self._empty_at else 1
        self._empty_at = after
        self._counters.seen["empty_frames"] += 1
        if self._empty_frames > self._limits.empty_frames:
            self.exceed("empty_frames", f"{self._empty_frames} empty frames in a row")

    def priority(self, opened: int) -> None:
        """Count a PRIORITY frame (CVE-2019-9513)."""
        self._priority_frames += 1
        self._counters.seen["priority_frames"] += 1
        if self._priority_frames > self._limits.priority_frames * (1 + opened):
            self.exceed("priority_frames", f"{self._priority_frames} PRIORITY frames, {opened} streams")

    def window_update(self, opened: int, sent: int) -> None:
        """Count a WINDOW_UPDATE.

        Args:
            opened: streams that the connection has had so far.
            sent: pieces of HEADERS and DATA frames that we have sent, two to a frame.
        """
        self._window_updates += 1
        self._counters.seen["window_updates"] += 1
        most = _WINDOW_UPDATES + _WINDOW_UPDATES_PER_STREAM * opened + _WINDOW_UPDATES_PER_PIECE * sent
        if self._window_updates > most:
            self.exceed(
                "window_updates",
                f"{self._window_updates} WINDOW_UPDATEs for {sent >> 1} frames on {opened} streams",
            )

    def settings(self, entries: int) -> None:
        """Count a SETTINGS frame (CVE-2019-9515)."""
        self._counters.seen["settings"] += 1
        if entries > self._limits.settings_entries:
            self.exceed("settings_entries", f"SETTINGS with {entries} entries")
        if not self._settings_begun:  # every peer sends one: no bucket for that
            self._settings_begun = True
        elif not self._take("settings", spent=1):
            self.exceed("settings", "too many SETTINGS frames")

    def ping(self, sent: int, streams: int) -> None:
        """Count a PING (CVE-2019-9512, gRFC A8).

        Args:
            sent: pieces of HEADERS and DATA frames that we have sent, two to a frame.
            streams: how many are open.
        """
        self._counters.seen["pings"] += 1
        now = self._now()
        at, self._ping_at = self._ping_at, now
        # One for each frame that we sent is free; not many frames later, for that would be no measuring any more.
        self._ping_sent = max(self._ping_sent, sent - _PINGS_SAVED * 2)
        if sent > self._ping_sent:
            self._ping_sent += 2
            self._strikes = 0
            return
        limits = self._limits
        if not self._client:
            interval = limits.ping_interval_s if streams else limits.idle_ping_interval_s
            if at is not None and now - at < interval:
                self._strikes += 1
                if self._strikes > limits.ping_strikes:
                    self._counters.exceeded["ping_strikes"] += 1
                    # Clients slow down when they are told exactly this, and nothing else.
                    raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
        if not self._take("pings"):
            self.exceed("pings", "too many PINGs")

    def _take(self, name: str, *, earned: int = 0, spent: int = 0) -> bool:
        """Take one out of the bucket that the limits have under a name; False if it was empty.

        Args:
            name: of the limits, without ``_burst`` and ``_rate``.
            earned: what is put in before.
            spent: what was taken before there was a bucket.
        """
        now = self._now()
        bucket = self._buckets.get(name)
        if bucket is None:
            limits = self._limits
            if self._buckets is _NO_BUCKETS:
                self._buckets = {}
            burst = getattr(limits, f"{name}_burst")
            bucket = self._buckets[name] = Bucket(burst, getattr(limits, f"{name}_rate"), now)
            bucket.level -= spent
        return bucket.take(now, earned)

    def exceed(self, limit: str, text: str) -> None:
        """End the connection for a limit.

        Raises:
            ConnectionFault: ENHANCE_YOUR_CALM.
        """
        self._counters.exceeded[limit] += 1
        raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"{text} (RFC 9113 10.5)")
