"""A network in memory: a connector whose addresses do what the test says, and transports without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from lbkit.address import Address
from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.transport.server import ServerConnection
from lbkit.transport.setup import ConnectionSetup


class MemoryTransport(asyncio.Transport):
    """One end of a byte stream; what is written arrives at the other end in the loop's next turn."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BufferedProtocol, peer: str
    ) -> None:
        super().__init__({"peername": (peer, 1)})
        self._loop = loop
        self._protocol = protocol
        self._closing = False
        self.other: MemoryTransport | None = None

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self._closing and self.other is not None:
            self._loop.call_soon(self.other.deliver, bytes(data))

    def deliver(self, data: bytes) -> None:
        """Hand bytes to this end's protocol."""
        while data and not self._closing:
            buffer = cast("memoryview[int]", self._protocol.get_buffer(-1))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            data = data[size:]
            self._protocol.buffer_updated(size)

    def hang_up(self) -> None:
        """Have this end see the other's close."""
        if not self._closing:
            self._protocol.eof_received()
            self.close()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)
            if self.other is not None:
                self._loop.call_soon(self.other.hang_up)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing


class SilentProtocol(asyncio.BufferedProtocol):
    """Accepts and says nothing, or one thing."""

    def __init__(self, saying: bytes = b"") -> None:
        self._saying = saying
        self._buffer = bytearray(65536)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._saying:
            cast("asyncio.Transport", transport).write(self._saying)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Ignore."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Ignore."""


class MemoryNetwork:
    """A ``Connector``; each address serves, unless told otherwise.

    Attributes:
        dials: every attempt, as (time, address).
        connections: the server's ends that are open.
    """

    def __init__(self) -> None:
        self.dials: list[tuple[float, str]] = []
        self.running = 0
        self.most_running = 0
        self.connections: list[ServerConnection] = []
        self.requests: list[tuple[ServerConnection, Stream]] = []
        self.gate: asyncio.Event | None = None  # attempts wait here
        self._refused: dict[str, Exception] = {}
        self._protocols: dict[str, Callable[[], asyncio.BufferedProtocol]] = {}

    def refuse(self, address: str, error: Exception | None = None) -> None:
        """Fail attempts at an address."""
        self._refused[address] = error or ConnectionRefusedError(111, "Connection refused")

    def serve(self, address: str, protocol: Callable[[], asyncio.BufferedProtocol] | None = None) -> None:
        """Serve at an address (again)."""
        self._refused.pop(address, None)
        if protocol is not None:
            self._protocols[address] = protocol

    async def connect(self, address: Address, protocol: Callable[[], asyncio.BufferedProtocol]) -> None:
        """Join a new ``protocol()`` with what serves at the address."""
        loop = asyncio.get_running_loop()
        self.dials.append((loop.time(), str(address)))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if str(address) in self._refused:
                raise self._refused[str(address)]
        finally:
            self.running -= 1
        theirs = self._protocols.get(str(address), lambda: ServerConnection(loop, self, ConnectionSetup()))()
        ours = protocol()
        near, far = MemoryTransport(loop, ours, address.host), MemoryTransport(loop, theirs, "client")
        near.other, far.other = far, near
        theirs.connection_made(far)
        ours.connection_made(near)

    # ServerOwner

    def request(
        self, connection: ServerConnection, stream: Stream, fields: tuple[Field, ...], end: bool
    ) -> None:
        self.requests.append((connection, stream))

    def oversized(self, connection: ServerConnection, stream: Stream, reason: str) -> None:
        """Ignore."""

    def connection_opened(self, connection: ServerConnection) -> None:
        self.connections.append(connection)

    def connection_closed(self, connection: ServerConnection) -> None:
        self.connections.remove(connection)
