"""Channels and servers that talk HTTP/2 to each other through memory: real connections, no sockets."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from lbkit.address import Address, Endpoint
from lbkit.channel import Channel
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver, Sink
from lbkit.server import Server
from lbkit.target import Target
from lbkit.transport.memory import MemoryTransport, join

_CLIENT = "127.0.0.1"
_FIRST_PORT = 49152  # of clients, as TCP hands them out


class _Place(NamedTuple):
    """A server on the network."""

    endpoint: Endpoint
    factory: Callable[[], asyncio.BufferedProtocol]
    streams: list[MemoryTransport]  # the clients' ends, those that are closed included until the next dial


class MemoryNetwork(Resolver):
    """Servers that are reached without sockets: a connector, and a resolver that lists them.

    ``lbkit.Channel("memory:///x", resolver=network, connector=network)`` balances over all of them and follows
    ``add`` and ``remove``; with ``connector=network`` alone, any target that yields their addresses will do.

    Attributes:
        dials: the address of every connection attempt, in order.
        private: credentials of calls may be used without TLS, as nothing leaves the process.
    """

    private = True

    def __init__(self) -> None:
        super().__init__(Target("memory:///network", "memory", "", "network", ""))
        self.dials: list[str] = []
        self._places: dict[str, _Place] = {}
        self._refusing: dict[str, int] = {}  # the error number per address
        self._changed: list[asyncio.Event] = []  # one per channel that follows
        self._clients = 0

    @property
    def addresses(self) -> list[str]:
        """Where the servers are, in the order in which they were added."""
        return list(self._places)

    def add(self, server: Server, endpoint: str | Endpoint = "") -> str:
        """Put a server on the network, before it is started; it needs no other address then.

        Args:
            server: whom connections to the address reach.
            endpoint: its address, with a weight and the like if an Endpoint; by default 10.0.0.1:50051,
                10.0.0.2:50051 and so on.

        Returns:
            The address.

        Raises:
            ValueError: there is a server at that address already.
            AddressError: the address cannot be read.
        """
        where = endpoint or f"10.0.0.{len(self._places) + 1}:50051"
        place = _Place(
            where if isinstance(where, Endpoint) else Endpoint(where), server.protocol_factory(), []
        )
        names = [str(address) for address in place.endpoint.addresses]
        if taken := [name for name in names if name in self._places]:
            raise ValueError(f"there is a server at {taken[0]} already")
        self._places.update(dict.fromkeys(names, place))
        self._tell()
        return names[0]

    def remove(self, address: str) -> None:
        """List a server no longer, and refuse connections to it; those there are stay. An error if unknown."""
        place = self._places[address]
        self._places = {name: each for name, each in self._places.items() if each is not place}
        self._tell()

    def cut(self, address: str | None = None) -> int:
        """Break all connections to an address (or to all) at once, as a crash of the machine does.

        Returns:
            How many there were.
        """
        places = [self._places[address]] if address is not None else list(self._places.values())
        streams = [stream for place in places for stream in place.streams if not stream.is_closing()]
        for stream in streams:
            stream.cut()
        return len(streams)

    def refuse(self, address: str, error: int = errno.ECONNREFUSED) -> None:
        """Fail new connections to an address with an ``errno`` number; those there are stay."""
        self._refusing[address] = error

    def admit(self, address: str) -> None:
        """Let connections to an address through again."""
        self._refusing.pop(address, None)

    async def connect(self, address: Address, protocol: Callable[[], asyncio.BufferedProtocol]) -> None:
        """Join a new ``protocol()`` with the server at the address.

        Raises:
            ConnectionRefusedError: there is none, or it is not running.
            OSError: what ``refuse`` said.
        """
        name = str(address)
        self.dials.append(name)
        await asyncio.sleep(0)  # as no real dial succeeds at once
        place = self._places.get(name)
        number = self._refusing.get(name, errno.ECONNREFUSED if place is None else 0)
        if place is None or number:
            raise OSError(number, os.strerror(number))
        place.streams[:] = [stream for stream in place.streams if not stream.is_closing()]
        self._clients += 1
        place.streams.append(
            join(
                asyncio.get_running_loop(),
                protocol,
                place.factory,
                client_name=(_CLIENT, _FIRST_PORT + self._clients),
                server_name=(address.host, address.port or 0),
            )
        )

    async def run(self, sink: Sink) -> None:
        """List the servers, now and whenever that changes."""
        changed = asyncio.Event()
        self._changed.append(changed)
        try:
            while True:
                sink.update(
                    Resolution(tuple(dict.fromkeys(place.endpoint for place in self._places.values())))
                )
                await changed.wait()
                changed.clear()
        finally:
            self._changed.remove(changed)

    def _tell(self) -> None:
        for event in self._changed:
            event.set()


class MemoryChannel(Channel):
    """A channel on a network in memory.

    Attributes:
        network: where its servers are; cut connections there.
    """

    def __init__(self, network: MemoryNetwork, **options: Any) -> None:
        super().__init__(network.target.text, resolver=network, connector=network, **options)
        self.network = network


@asynccontextmanager
async def memory_channel(*servers: Server, **options: Any) -> AsyncGenerator[MemoryChannel, None]:
    """Run servers, and give a channel that balances over them, without a socket.

    The servers have their handlers and have not been started; they are stopped at the end of the block.

    Args:
        servers: each is a backend of its own.
        options: as for ``lbkit.Channel``.

    Raises:
        RuntimeError: a server has been started before.
    """
    network = MemoryNetwork()
    async with AsyncExitStack() as stack:
        for server in servers:
            network.add(server)
            await server.start()
            stack.push_async_callback(server.stop)
        yield await stack.enter_async_context(MemoryChannel(network, **options))
