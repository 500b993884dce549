"""Several connections to one backend, for servers that let one connection have only so many streams (gRFC A105)."""

from __future__ import annotations

from collections.abc import Iterator

from lbkit.transport.client import ClientConnection

MOST_CONNECTIONS = 10  # of a backend, whatever was configured


class Pool:
    """The connections of one subchannel, oldest first, and the calls that wait for room on any of them.

    Made when calls first find its only connection full; subchannels that are not allowed another one never have a
    pool. Which connections there are is decided by the subchannel.
    """

    __slots__ = ("_connections",)

    def __init__(self, first: ClientConnection) -> None:
        self._connections: list[ClientConnection] = []
        self.add(first)

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[ClientConnection]:
        return iter(self._connections)

    def add(self, connection: ClientConnection) -> None:
        """Use one more; who waits is served there at once."""
        connection.share(self._connections)
        self._connections.append(connection)
        connection.serve_waiting()

    def remove(self, connection: ClientConnection) -> ClientConnection | None:
        """Use one no more; return the oldest of those that are left."""
        if connection in self._connections:
            self._connections.remove(connection)
        return self._connections[0] if self._connections else None

    def with_room(self) -> ClientConnection | None:
        """Return the oldest connection that takes another call."""
        for connection in self._connections:
            if connection.has_room():
                return connection
        return None

    def short_of_room(self) -> bool:
        """Whether a call waits, as every connection is full."""
        return bool(self._connections) and self._connections[0].anybody_waits() and self.with_room() is None

    def drain(self) -> None:
        """Take no new calls on any of them; each closes after its last call."""
        connections = self._connections[:]
        self._connections.clear()
        for connection in connections:
            connection.drain()


def checked_number(name: str, number: int) -> int:
    """Return how many connections a backend may have.

    Raises:
        ValueError: the number is not from 1 to 10.
    """
    if not 1 <= number <= MOST_CONNECTIONS:
        raise ValueError(f"{name}={number!r}: it must be from 1 to {MOST_CONNECTIONS}")
    return number
