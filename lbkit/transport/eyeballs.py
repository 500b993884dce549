"""Happy Eyeballs: several addresses of one backend, tried a moment apart; the first HTTP/2 server wins (RFC 8305)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from lbkit.address import Address
from lbkit.errors import ConnectError
from lbkit.families import ATTEMPT_DELAY_S, interleaved
from lbkit.transport.client import ClientConnection, ClientOwner, open_connection
from lbkit.transport.connector import Connector
from lbkit.transport.setup import ConnectionSetup
from lbkit.transport.state import OPEN


async def open_first(
    addresses: Sequence[Address],
    owner: ClientOwner,
    *,
    connector: Connector,
    setup: ConnectionSetup,
    timeout_s: float,
    delay_s: float = ATTEMPT_DELAY_S,
) -> ClientConnection:
    """Connect to one of the addresses of a backend: the first at which HTTP/2 is spoken.

    Args:
        addresses: in order of preference; address families take turns.
        owner: who wants to know when the connection is no longer good.
        connector: opens byte streams.
        setup: what the connections share.
        timeout_s: for all of it, not for each address.
        delay_s: how long an attempt may take before the next one starts beside it.

    Raises:
        ConnectError: no address could be used; the text says why of each.
    """
    if len(addresses) == 1:
        return await open_connection(
            addresses[0], owner, connector=connector, setup=setup, timeout_s=timeout_s
        )
    race = _Race(interleaved(addresses), owner, connector, setup, timeout_s, delay_s)
    try:
        return await race.run()
    except (ConnectError, asyncio.CancelledError):
        await race.stop()
        raise


class _Race:
    """Attempts that run side by side, and those that are to come."""

    def __init__(
        self,
        order: Sequence[Address],
        owner: ClientOwner,
        connector: Connector,
        setup: ConnectionSetup,
        timeout_s: float,
        delay_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._connector = connector
        self._setup = setup
        self._delay_s = delay_s
        self._ends_at = self._loop.time() + timeout_s
        self._order = order
        self._waiting = deque(order)
        # Oldest first; also who has connected.
        self._running: dict[asyncio.Task[ClientConnection], Address] = {}
        self._errors: dict[Address, str] = {}
        self._unused: list[ClientConnection] = []  # connected, and not wanted

    async def run(self) -> ClientConnection:
        """Return the first connection, once the others are closed. If this raises, ``stop`` must follow."""
        while self._start_next() or self._running:
            winner = await self._until_next()
            if winner is not None:
                await self.stop(winner)
                connection = winner.result()
                if connection.state == OPEN:
                    return connection
                # Gone while the others were closed.
                self._errors[self._running[winner]] = connection.end_reason
                break
        raise ConnectError(self._explain())

    async def stop(self, winner: asyncio.Task[ClientConnection] | None = None) -> None:
        """End every attempt but one, and wait until their sockets are closed."""
        losers = [task for task in self._running if task is not winner]
        self._unused += [task.result() for task in losers if not task.cancel() and not _failed(task)]
        for connection in self._unused:  # all of them before the first wait, which may be cancelled
            connection.abort("another address was faster")
        await asyncio.gather(*losers, return_exceptions=True)
        for connection in self._unused:
            await connection.abort_and_wait("not usable")

    def _start_next(self) -> bool:
        """Start the next attempt, if there is one and time for it."""
        left = self._ends_at - self._loop.time()
        if not self._waiting or left <= 0:
            return False
        address = self._waiting.popleft()
        attempt = open_connection(
            address, self._owner, connector=self._connector, setup=self._setup, timeout_s=left
        )
        self._running[self._loop.create_task(attempt)] = address
        return True

    async def _until_next(self) -> asyncio.Task[ClientConnection] | None:
        """Return an attempt that has connected; None when the last one failed, or it is time for another."""
        latest = next(reversed(self._running))
        next_at = self._loop.time() + self._delay_s
        while self._running:
            wait_s = max(0.0, next_at - self._loop.time()) if self._waiting else None
            done, _ = await asyncio.wait(self._running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in self._running if task in done]:
                if self._has_connected(task):
                    return task
                del self._running[task]
            if latest not in self._running or not done:
                return None
        return None

    def _has_connected(self, task: asyncio.Task[ClientConnection]) -> bool:
        try:
            connection = task.result()
        except ConnectError as error:
            self._errors[self._running[task]] = str(error)
            return False
        if connection.state != OPEN:  # gone again between two turns of the loop
            self._errors[self._running[task]] = connection.end_reason
            self._unused.append(connection)
            return False
        return True

    def _explain(self) -> str:
        said = [f"{address}: {self._errors[address]}" for address in self._order if address in self._errors]
        if self._waiting:
            said.append(f"no time was left for {len(self._waiting)} more")
        return "; ".join(said)


def _failed(task: asyncio.Task[ClientConnection]) -> bool:
    return task.cancelled() or task.exception() is not None
