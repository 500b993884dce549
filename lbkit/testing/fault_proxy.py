"""A TCP proxy that breaks connections in the ways in which networks do, when a test says so."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

from lbkit.address import Address

Direction = Literal["up", "down"]

_CHUNK = 64 * 1024
_SLICES_PER_SECOND = 100  # of a rate that is higher than that
_LINGER_NONE = struct.pack("ii", 1, 0)  # closing then sends RST


class FaultProxy:
    """Stands before a server, and passes bytes on until told otherwise.

    Like this::

        async with FaultProxy("127.0.0.1:50051") as proxy:
            async with lbkit.Channel(f"static:///{proxy.address}", keepalive=1.0) as channel:
                proxy.blackhole()

    Faults hold for all connections, those that come later included. ``"up"`` is from client to server.

    Args:
        server: where the server listens, as ``host:port``.

    Attributes:
        accepted: how many connections there have been.
    """

    _listener: asyncio.Server

    def __init__(self, server: str) -> None:
        self.accepted = 0
        self._server = Address.parse(server)
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: dict[Direction, set[asyncio.StreamWriter]] = {"up": set(), "down": set()}
        self._ended: set[asyncio.StreamWriter] = set()  # half-closed: what comes for them is lost
        self._open: dict[Direction, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._delay_s = 0.0
        self._rate = 0.0  # bytes a second; 0 for all that come
        self.heal()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing = True
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.wait_closed()

    @property
    def address(self) -> str:
        """Where it listens, once it has been entered."""
        return f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    # Faults

    def blackhole(self, *directions: Direction) -> None:
        """Let nothing through, both ways if none is named; as TCP repeats what was lost, it arrives after ``heal``."""
        for direction in directions or ("up", "down"):
            self._open[direction].clear()

    def delay(self, seconds: float) -> None:
        """Pass everything on so much later."""
        self._delay_s = seconds

    def rate(self, bytes_per_second: float) -> None:
        """Pass on no more than that, in each direction."""
        self._rate = bytes_per_second

    def reset(self) -> None:
        """Break every connection there is with RST, as a firewall or a crash does."""
        for writer in [*self._writers["up"], *self._writers["down"]]:
            sock = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
            writer.transport.abort()

    def half_close(self, direction: Direction = "down") -> None:
        """End the bytes in one direction of every connection there is; the other goes on. What comes after is lost."""
        self._ended |= self._writers[direction]
        for writer in self._writers[direction]:
            with suppress(OSError):
                writer.write_eof()

    def heal(self) -> None:
        """Pass everything on again, at once. What was reset or half-closed stays so."""
        self._delay_s = self._rate = 0.0
        for event in self._open.values():
            event.set()

    # Inside

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None, "a callback of a server runs in a task"
        self._tasks.add(task)
        try:
            with suppress(asyncio.CancelledError):  # start_server takes a cancelled task for an error
                if not self._closing:  # else it was accepted at the last moment
                    await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open["up"].wait()
        try:
            far_reader, far_writer = await asyncio.open_connection(self._server.host, self._server.port)
        except OSError:
            return  # the client sees its connection close
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump("up", reader, far_writer))
                group.create_task(self._pump("down", far_reader, writer))
        except* OSError:
            pass  # whoever it was that broke it, both ends see it close
        finally:
            far_writer.transport.abort()

    async def _pump(
        self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._writers[direction].add(writer)
        try:
            while data := await reader.read(_CHUNK):
                await asyncio.sleep(self._delay_s)
                await self._pass_on(direction, data, writer)
            await self._open[direction].wait()
            writer.write_eof()
        finally:
            self._writers[direction].discard(writer)
            self._ended.discard(writer)

    async def _pass_on(self, direction: Direction, data: bytes, writer: asyncio.StreamWriter) -> None:
        while data:
            await self._open[direction].wait()
            size = len(data)
            if self._rate:
                size = max(1, int(self._rate / _SLICES_PER_SECOND))
                await asyncio.sleep(size / self._rate)
            if writer in self._ended:
                return
            writer.write(data[:size])
            data = data[size:]
            await writer.drain()
