"""What stands for the connection of an engine that has none any more.

A connection and its engine know each other: such a cycle would keep both, and all that they hold, until the next full
collection.
"""

from __future__ import annotations

from lbkit.http2.faults import ConnectionFault
from lbkit.http2.hpack import Field
from lbkit.http2.interface import ConnectionSink
from lbkit.http2.stream import Stream


class _NullConnection:
    """Takes everything and does nothing."""

    def request(self, stream: Stream, fields: tuple[Field, ...], end: bool) -> None:
        """Do nothing."""

    def oversized(self, stream: Stream, reason: str) -> None:
        """Do nothing."""

    def settings(self) -> None:
        """Do nothing."""

    def goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """Do nothing."""

    def exhausted(self) -> None:
        """Do nothing."""

    def pong(self, payload: bytes) -> None:
        """Do nothing."""

    def fault(self, fault: ConnectionFault) -> None:
        """Do nothing."""


NULL_CONNECTION: ConnectionSink = _NullConnection()
