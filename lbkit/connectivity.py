"""The five connectivity states, and how a parent's state follows from its children's.

Source: gRPC connectivity semantics and API; aggregation as in grpc-go's ``ConnectivityStateEvaluator``.
"""

from __future__ import annotations

from lbkit.status import ForeignEnum


class ConnectivityState(ForeignEnum):
    """What a channel or subchannel is doing; the values are grpcio's ``ChannelConnectivity``: (number, text)."""

    IDLE = (0, "idle")
    CONNECTING = (1, "connecting")
    READY = (2, "ready")
    TRANSIENT_FAILURE = (3, "transient failure")
    SHUTDOWN = (4, "shutdown")

    def __init__(self, index: int, text: str) -> None:
        self.index = index  # 0..4, to index tables without hashing an enum
        self.text = text


class StateCounts:
    """How many children are in each state, and the parent's state that follows.

    READY if any child is; else CONNECTING if any is on its way; else TRANSIENT_FAILURE. An IDLE child counts as
    on its way, because the policies that use this rule connect idle children at once. The caller leaves a failed
    child at TRANSIENT_FAILURE until it is READY again (sticky failure), so that a channel whose backends are all
    down fails calls at once instead of queueing them through each new dial.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * len(ConnectivityState)

    def add(self, state: ConnectivityState) -> None:
        """Count a new child."""
        self._counts[state.index] += 1

    def remove(self, state: ConnectivityState) -> None:
        """Forget a child that was in ``state``."""
        self._counts[state.index] -= 1

    def aggregate(self) -> ConnectivityState:
        """Return the parent's state; TRANSIENT_FAILURE if there are no children."""
        counts = self._counts
        if counts[ConnectivityState.READY.index]:
            return ConnectivityState.READY
        if counts[ConnectivityState.CONNECTING.index] or counts[ConnectivityState.IDLE.index]:
            return ConnectivityState.CONNECTING
        return ConnectivityState.TRANSIENT_FAILURE
