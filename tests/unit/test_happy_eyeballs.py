"""Several addresses of one backend, in virtual time: the order, the delay, who wins, and that the rest is closed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from lbkit.address import Address, Endpoint
from lbkit.backoff import BackoffPolicy
from lbkit.connectivity import ConnectivityState
from lbkit.errors import ConnectError
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.subchannel import ConnectOptions, Dialler, Subchannel
from lbkit.transport.client import ClientConnection
from lbkit.transport.eyeballs import open_first
from lbkit.transport.setup import ConnectionSetup
from lbkit.transport.state import OPEN
from tests.support.memory import MemoryNetwork, SilentProtocol
from tests.support.virtual_loop import run_virtual
from tests.support.wire import End, settings_frame

V6 = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1"]
V4 = ["192.0.2.1:1", "192.0.2.2:1"]
NAMES = ["a:1", "b:1", "c:1"]


class SlowNetwork(MemoryNetwork):
    """A network whose addresses answer after so many seconds.

    Attributes:
        tried: every attempt, as (time, address).
        cancelled: the addresses of those that were given up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.delays: dict[str, float] = {}
        self.tried: list[tuple[float, str]] = []
        self.cancelled: list[str] = []

    async def connect(self, address: Address, protocol: Callable[[], asyncio.BufferedProtocol]) -> None:
        """Wait, then do what the address does."""
        self.tried.append((round(asyncio.get_running_loop().time(), 3), str(address)))
        try:
            await asyncio.sleep(self.delays.get(str(address), 0))
            await super().connect(address, protocol)
        except asyncio.CancelledError:
            self.cancelled.append(str(address))
            raise


class World:
    """A network, and who owns the connections."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.network = SlowNetwork()
        self.unusable: list[ClientConnection] = []

    def connection_unusable(self, connection: ClientConnection, reason: str) -> None:
        self.unusable.append(connection)

    async def open(self, *addresses: str, timeout_s: float = 20.0) -> ClientConnection:
        return await open_first(
            [Address.parse(text) for text in addresses],
            self,
            connector=self.network,
            setup=ConnectionSetup(),
            timeout_s=timeout_s,
        )

    async def close(self, connection: ClientConnection) -> None:
        """See that there is no other connection, and end it."""
        await asyncio.sleep(0.01)
        assert len(self.network.connections) == 1
        assert self.network.running == 0
        await connection.abort_and_wait("the test is over")
        await asyncio.sleep(0.01)
        assert self.network.connections == []


def virtual(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in virtual time in a World of its own."""

    def run() -> None:
        async def main() -> None:
            await test(World())

        run_virtual(main())

    run.__name__ = test.__name__
    return run


@virtual
async def test_first_address_that_answers_at_once_is_the_only_one_tried(world: World) -> None:
    connection = await world.open(*NAMES)
    assert world.network.tried == [(0.0, "a:1")]
    await world.close(connection)


@virtual
async def test_next_starts_after_a_quarter_of_a_second_and_the_first_to_answer_wins(world: World) -> None:
    world.network.delays = {"a:1": 100.0, "b:1": 100.0}
    connection = await world.open(*NAMES)
    assert world.network.tried == [(0.0, "a:1"), (0.25, "b:1"), (0.5, "c:1")]
    assert round(world.loop.time(), 2) == 0.5
    assert sorted(world.network.cancelled) == ["a:1", "b:1"]
    await world.close(connection)


@virtual
async def test_earlier_one_may_win_after_others_have_started(world: World) -> None:
    world.network.delays = {"a:1": 0.6, "b:1": 100.0, "c:1": 100.0}
    connection = await world.open(*NAMES)
    assert round(world.loop.time(), 2) == 0.6
    assert sorted(world.network.cancelled) == ["b:1", "c:1"]
    await world.close(connection)


@virtual
async def test_server_that_accepts_and_says_nothing_loses_and_is_hung_up_on(world: World) -> None:
    world.network.serve("a:1", SilentProtocol)
    connection = await world.open("a:1", "b:1")
    assert world.network.tried == [(0.0, "a:1"), (0.25, "b:1")]
    assert len(world.unusable) == 1  # the one to a:1
    assert world.unusable[0].closed.done()
    await world.close(connection)


@virtual
async def test_failure_starts_the_next_at_once_and_the_delay_anew(world: World) -> None:
    world.network.delays = {"a:1": 0.1, "b:1": 100.0}
    world.network.refuse("a:1")
    connection = await world.open(*NAMES)
    assert world.network.tried == [(0.0, "a:1"), (0.1, "b:1"), (0.35, "c:1")]
    await world.close(connection)


@virtual
async def test_failure_of_an_earlier_one_starts_nothing(world: World) -> None:
    world.network.delays = {"a:1": 0.3, "b:1": 100.0}
    world.network.refuse("a:1")
    connection = await world.open(*NAMES)
    assert world.network.tried == [(0.0, "a:1"), (0.25, "b:1"), (0.5, "c:1")]
    await world.close(connection)


@virtual
async def test_two_that_answer_in_the_same_turn_leave_one_connection(world: World) -> None:
    world.network.delays = {"a:1": 0.5, "b:1": 0.25}
    connection = await world.open("a:1", "b:1")
    await world.close(connection)


@virtual
async def test_error_names_every_address_in_the_order_of_the_attempts(world: World) -> None:
    world.network.refuse(V6[0])
    world.network.refuse(V4[0], OSError(113, "No route to host"))
    world.network.refuse(V6[1], OSError(101, "Network is unreachable"))
    with pytest.raises(ConnectError) as caught:
        await world.open(V6[0], V6[1], V4[0])
    text = str(caught.value)
    assert text.index(f"{V6[0]}: connection refused") < text.index(f"{V4[0]}: no route to host")
    assert text.index(f"{V4[0]}: ") < text.index(f"{V6[1]}: network is unreachable")


@virtual
async def test_timeout_covers_all_addresses(world: World) -> None:
    world.network.delays = dict.fromkeys(NAMES, 100.0)
    with pytest.raises(ConnectError) as caught:
        await world.open(*NAMES, timeout_s=2.0)
    assert round(world.loop.time(), 3) == 2.0
    assert str(caught.value) == (
        "a:1: got no connection within 2.0 s; b:1: got no connection within 1.8 s; c:1: got no connection within 1.5 s"
    )
    assert world.network.running == 0


@virtual
async def test_addresses_that_no_time_was_left_for_are_counted(world: World) -> None:
    names = [f"h{number}:1" for number in range(10)]
    world.network.delays = dict.fromkeys(names, 100.0)
    with pytest.raises(ConnectError, match="no time was left for 6 more"):
        await world.open(*names, timeout_s=0.9)
    assert len(world.network.tried) == 4


@virtual
async def test_address_listed_twice_is_tried_once(world: World) -> None:
    world.network.refuse("a:1")
    with pytest.raises(ConnectError):
        await world.open("a:1", "a:1")
    assert len(world.network.tried) == 1


@virtual
async def test_server_that_says_goaway_at_once_does_not_win(world: World) -> None:
    peer = End(client=False)
    peer.engine.goaway(0, ErrorCode.NO_ERROR, b"full")
    said = peer.engine.take()
    world.network.serve("a:1", lambda: SilentProtocol(said))
    connection = await world.open("a:1", "b:1")
    assert [text for _, text in world.network.tried] == ["a:1", "b:1"]
    await world.close(connection)


class Leaving(SilentProtocol):
    """A server that says SETTINGS, and GOAWAY some turns of the loop later."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.turns = turns

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(settings_frame())
        self.leave(transport)

    def leave(self, transport: asyncio.Transport) -> None:
        self.turns -= 1
        if self.turns < 0:
            transport.write(frame(frames.GOAWAY, 0, 0, bytes(8)))
        else:
            asyncio.get_running_loop().call_soon(self.leave, transport)


@pytest.mark.parametrize("turns", range(8))
def test_server_that_leaves_while_it_wins_is_not_what_is_returned(turns: int) -> None:
    async def main() -> None:
        world = World()
        world.network.serve("a:1", lambda: Leaving(turns))
        connection = await world.open("a:1", "b:1")
        assert connection.state == OPEN
        assert all(other.closed.done() for other in world.unusable)
        await connection.abort_and_wait("the test is over")
        await asyncio.sleep(0.01)
        assert world.network.connections == []

    run_virtual(main())


class Hesitant(SlowNetwork):
    """Takes a while to give up ``a:1``, and has the winner hang up meanwhile."""

    async def connect(self, address: Address, protocol: Callable[[], asyncio.BufferedProtocol]) -> None:
        """Never connect to ``a:1``."""
        if str(address) != "a:1":
            await super().connect(address, protocol)
            return
        try:
            await asyncio.sleep(1000)
        finally:
            while self.connections:
                self.connections[0].abort("crashed")
                await asyncio.sleep(0.01)


@virtual
async def test_winner_that_breaks_while_the_others_are_closed_is_a_failed_attempt(world: World) -> None:
    world.network = Hesitant()
    with pytest.raises(ConnectError, match="b:1: the peer closed the connection"):
        await world.open("a:1", "b:1")
    assert world.network.connections == []
    assert all(connection.closed.done() for connection in world.unusable)


@pytest.mark.parametrize("after", [0.0, 0.1, 0.25, 0.3, 0.5, 0.6])
def test_cancelled_race_leaves_nothing(after: float) -> None:
    async def main() -> None:
        world = World()
        world.network.delays = {"a:1": 100.0}
        world.network.serve("b:1", SilentProtocol)
        world.network.serve("c:1", SilentProtocol)
        task = asyncio.ensure_future(world.open(*NAMES))
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert world.network.running == 0
        assert all(connection.closed.done() for connection in world.unusable)

    run_virtual(main())


@pytest.mark.parametrize("turns", range(12))
def test_race_cancelled_at_any_turn_of_its_end_leaves_nothing(turns: int) -> None:
    """The winner is known and the others are being closed: cancelling then must close the winner too."""

    async def main() -> None:
        world = World()
        world.network.serve("a:1", SilentProtocol)
        task = asyncio.ensure_future(world.open("a:1", "b:1"))
        await asyncio.sleep(0.25)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            connection = await task
        except asyncio.CancelledError:
            pass
        else:
            await connection.abort_and_wait("the test is over")
        await asyncio.sleep(0.01)
        assert world.network.connections == []

    run_virtual(main())


# In a subchannel


class Listener:
    def __init__(self) -> None:
        self.changes: list[tuple[float, str]] = []

    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        self.changes.append((round(asyncio.get_running_loop().time(), 3), state.name))


@pytest.mark.parametrize("silent", [(), ("a:1",), ("a:1", "b:1"), ("a:1", "b:1", "c:1")], ids=len)
def test_subchannel_goes_through_its_states_once_however_many_addresses(silent: tuple[str, ...]) -> None:
    async def main() -> None:
        network, listener, loop = SlowNetwork(), Listener(), asyncio.get_running_loop()
        network.delays = dict.fromkeys(silent, 1000.0)
        options = ConnectOptions(ConnectionSetup(), network, backoff=BackoffPolicy(jitter=0.0))
        dialler = Dialler(loop, random.Random(0), options)
        subchannel = Subchannel(Endpoint(NAMES), dialler, listener)
        subchannel.connect()
        await asyncio.sleep(30)
        ready_at = 0.25 * len(silent)
        if len(silent) < 3:
            assert listener.changes == [(0.0, "CONNECTING"), (ready_at, "READY")]
        else:  # the time-out covers all addresses; the back-off, counted from the start, is over by then
            assert listener.changes == [(0.0, "CONNECTING"), (20.0, "TRANSIENT_FAILURE"), (20.0, "IDLE")]
            assert "a:1: got no connection within 20.0 s; b:1: " in subchannel.describe_failure()
        subchannel.shutdown()
        await dialler.close("the test is over")
        assert network.running == 0

    run_virtual(main())
