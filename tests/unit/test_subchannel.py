"""A subchannel's life in virtual time, without sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from lbkit.address import Endpoint
from lbkit.backoff import BackoffPolicy
from lbkit.connectivity import ConnectivityState
from lbkit.http2.frames import ErrorCode
from lbkit.subchannel import (
    BACKOFF_OVER,
    CONNECTED,
    DIAL,
    FAILED,
    INPUT_NAMES,
    LOST,
    LOST_DIALLING,
    LOST_WAITING,
    MAX_DIALS,
    STOP,
    TRANSITIONS,
    UNHEALTHY,
    ConnectOptions,
    Dialler,
    Subchannel,
)
from lbkit.transport.connection import Connection
from lbkit.transport.setup import ConnectionSetup
from tests.support.memory import MemoryNetwork, SilentProtocol
from tests.support.virtual_loop import run_virtual
from tests.support.wire import REQUEST, End, Recorder, Scripted

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY
TRANSIENT_FAILURE = ConnectivityState.TRANSIENT_FAILURE
SHUTDOWN = ConnectivityState.SHUTDOWN

BACKOFF = BackoffPolicy(initial_s=1.0, multiplier=2.0, jitter=0.0, maximum_s=8.0)

EXPECTED = {
    (IDLE, DIAL): CONNECTING,
    (CONNECTING, CONNECTED): READY,
    (CONNECTING, FAILED): TRANSIENT_FAILURE,
    (READY, LOST): IDLE,
    **{(READY, event): READY for event in (DIAL, CONNECTED, FAILED, BACKOFF_OVER)},  # of another connection
    (READY, LOST_DIALLING): CONNECTING,
    (READY, LOST_WAITING): TRANSIENT_FAILURE,
    (TRANSIENT_FAILURE, BACKOFF_OVER): IDLE,
    # Connected, but not serving, or not known to (gRFC A17).
    (CONNECTING, LOST): IDLE,
    (TRANSIENT_FAILURE, LOST): IDLE,
    (TRANSIENT_FAILURE, CONNECTED): READY,
    **{(state, UNHEALTHY): TRANSIENT_FAILURE for state in (CONNECTING, READY, TRANSIENT_FAILURE)},
    **{(state, STOP): SHUTDOWN for state in ConnectivityState},
    **{(SHUTDOWN, event): SHUTDOWN for event in range(len(INPUT_NAMES))},
}


@pytest.mark.parametrize("state", list(ConnectivityState))
@pytest.mark.parametrize("event", range(len(INPUT_NAMES)), ids=lambda n: INPUT_NAMES[n])
def test_every_pair_moves_as_written(state: ConnectivityState, event: int) -> None:
    assert TRANSITIONS[state.index * len(INPUT_NAMES) + event] is EXPECTED.get((state, event))


def test_table_has_no_other_rows() -> None:
    assert len(TRANSITIONS) == len(ConnectivityState) * len(INPUT_NAMES)


class World:
    """A dialler, a network and a listener that writes every change down with its time."""

    def __init__(self, *, backoff: BackoffPolicy = BACKOFF, timeout_s: float = 20.0, seed: int = 0) -> None:
        self.network = MemoryNetwork()
        self.loop = asyncio.get_running_loop()
        self.dialler = Dialler(
            self.loop,
            random.Random(seed),
            ConnectOptions(ConnectionSetup(), connector=self.network, backoff=backoff, timeout_s=timeout_s),
        )
        self.changes: list[tuple[float, str]] = []
        self.subchannels: list[Subchannel] = []
        self.react: Callable[[Subchannel, ConnectivityState], None] = lambda subchannel, state: None

    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        self.changes.append((round(self.loop.time(), 6), state.name))
        self.react(subchannel, state)

    def new(self, *addresses: str) -> Subchannel:
        self.subchannels.append(Subchannel(Endpoint(addresses or "a:1"), self.dialler, self))
        return self.subchannels[-1]

    async def close(self) -> None:
        """End everything, as a channel does."""
        for subchannel in self.subchannels:
            subchannel.shutdown()
        await self.dialler.close("the test is over")

    def reconnect_always(self) -> None:
        """Dial as soon as IDLE, as policies do."""
        self.react = lambda subchannel, state: subchannel.connect() if state is IDLE else None

    @property
    def states(self) -> list[str]:
        return [name for _, name in self.changes]


def virtual(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in virtual time in a World of its own, closed at the end."""

    def run() -> None:
        async def main() -> None:
            world = World()
            try:
                await test(world)
            finally:
                await world.close()

        run_virtual(main())

    run.__name__ = test.__name__
    return run


async def settle() -> None:
    """Let everything happen that needs no time: virtual time only jumps when nothing is left to do."""
    await asyncio.sleep(1e-3)


# Connecting


@virtual
async def test_nothing_happens_before_connect(world: World) -> None:
    subchannel = world.new()
    await asyncio.sleep(1000)
    assert subchannel.state is IDLE
    assert world.network.dials == []


@virtual
async def test_connect_leads_to_ready_with_a_connection(world: World) -> None:
    subchannel = world.new()
    subchannel.connect()
    assert subchannel.state is IDLE  # news comes later, never from inside connect()
    assert world.changes == []
    await settle()
    assert world.states == ["CONNECTING", "READY"]
    assert subchannel.connection is not None
    assert len(world.network.connections) == 1


@virtual
async def test_connect_twice_dials_once(world: World) -> None:
    subchannel = world.new()
    subchannel.connect()
    subchannel.connect()
    await settle()
    subchannel.connect()
    await settle()
    assert len(world.network.dials) == 1


@virtual
async def test_addresses_are_tried_in_order_until_one_connects(world: World) -> None:
    world.network.refuse("a:1")
    world.network.refuse("b:1")
    subchannel = world.new("a:1", "b:1", "c:1", "d:1")
    subchannel.connect()
    await settle()
    assert subchannel.state is READY
    assert [address for _, address in world.network.dials] == ["a:1", "b:1", "c:1"]
    assert world.states == ["CONNECTING", "READY"]


@virtual
async def test_failure_names_every_address_and_error(world: World) -> None:
    world.network.refuse("a:1")
    world.network.refuse("b:1", OSError(113, "No route to host"))
    subchannel = world.new("a:1", "b:1")
    subchannel.connect()
    await settle()
    text = subchannel.describe_failure()
    assert "a:1: connection refused" in text
    assert "b:1: no route to host" in text
    assert "next try in 1.0 s" in text


@virtual
async def test_failure_of_one_address_is_told_without_it(world: World) -> None:
    world.network.refuse("a:1")
    subchannel = world.new("a:1")
    assert subchannel.describe_failure() == "idle"
    subchannel.connect()
    await settle()
    assert subchannel.describe_failure() == "connection refused, next try in 1.0 s"


@virtual
async def test_a_connector_that_raises_anything_is_a_failed_attempt(world: World) -> None:
    world.network.refuse("a:1", UnicodeError("label empty or too long"))
    subchannel = world.new("a:1")
    subchannel.connect()
    await settle()
    assert subchannel.state is TRANSIENT_FAILURE
    assert "label empty or too long" in subchannel.describe_failure()


@virtual
async def test_timeout_of_the_system_is_not_taken_for_ours(world: World) -> None:
    world.network.refuse("a:1", TimeoutError(110, "Connection timed out"))
    subchannel = world.new("a:1")
    subchannel.connect()
    await settle()
    assert "connection timed out" in subchannel.describe_failure()


@virtual
async def test_silent_peer_is_given_up_after_the_timeout(world: World) -> None:
    world.network.serve("a:1", SilentProtocol)
    subchannel = world.new("a:1")
    subchannel.connect()
    await asyncio.sleep(20.5)
    assert world.changes[:2] == [(0.0, "CONNECTING"), (20.0, "TRANSIENT_FAILURE")]
    assert "connected, but got no HTTP/2 SETTINGS within 20.0 s" in subchannel.describe_failure()


@virtual
async def test_address_that_never_answers_is_given_up_after_the_timeout(world: World) -> None:
    world.network.gate = asyncio.Event()
    subchannel = world.new("a:1")
    subchannel.connect()
    await asyncio.sleep(20.5)
    assert world.changes[1] == (20.0, "TRANSIENT_FAILURE")
    assert "got no connection within 20.0 s" in subchannel.describe_failure()
    assert world.network.running == 0


@virtual
async def test_http1_peer_is_named_by_its_words(world: World) -> None:
    world.network.serve("a:1", lambda: SilentProtocol(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    subchannel = world.new("a:1")
    subchannel.connect()
    await settle()
    assert subchannel.state is TRANSIENT_FAILURE
    assert "HTTP/1.1 400 Bad Request" in subchannel.describe_failure()


@virtual
async def test_server_that_says_goaway_at_once_is_a_failed_attempt(world: World) -> None:
    peer = End(client=False)
    peer.engine.goaway(0, ErrorCode.NO_ERROR, b"full")
    said = peer.engine.take()
    world.network.serve("a:1", lambda: SilentProtocol(said))
    subchannel = world.new("a:1")
    subchannel.connect()
    await settle()
    assert world.states == ["CONNECTING", "TRANSIENT_FAILURE"]
    assert "shutting down" in subchannel.describe_failure()


# Back-off


@virtual
async def test_backoff_grows_counts_from_the_attempts_start_and_is_capped(world: World) -> None:
    world.network.refuse("a:1")
    world.reconnect_always()
    world.new().connect()
    await asyncio.sleep(32)
    assert [time for time, _ in world.network.dials] == pytest.approx([0, 1, 3, 7, 15, 23, 31])
    assert world.states[:4] == ["CONNECTING", "TRANSIENT_FAILURE", "IDLE", "CONNECTING"]


@virtual
async def test_slow_failure_uses_up_its_backoff(world: World) -> None:
    world.network.serve("a:1", SilentProtocol)
    world.reconnect_always()
    world.new().connect()
    await asyncio.sleep(65)
    assert [time for time, _ in world.network.dials] == pytest.approx([0, 20, 40, 60])


@virtual
async def test_failures_in_a_row_are_counted_in_the_text(world: World) -> None:
    world.network.refuse("a:1")
    world.reconnect_always()
    subchannel = world.new()
    subchannel.connect()
    await asyncio.sleep(3.5)
    assert subchannel.describe_failure() == "connection refused x3, next try in 3.5 s"


@virtual
async def test_failed_subchannel_waits_for_the_policy_after_its_backoff(world: World) -> None:
    world.network.refuse("a:1")
    subchannel = world.new()
    subchannel.connect()
    await settle()
    subchannel.connect()  # in TRANSIENT_FAILURE this does nothing
    await asyncio.sleep(100)
    assert world.changes == [(0.0, "CONNECTING"), (0.0, "TRANSIENT_FAILURE"), (1.0, "IDLE")]
    assert len(world.network.dials) == 1


@virtual
async def test_success_starts_the_backoff_over(world: World) -> None:
    world.network.refuse("a:1")
    world.reconnect_always()
    subchannel = world.new()
    subchannel.connect()
    await asyncio.sleep(6.5)
    world.network.serve("a:1")
    await asyncio.sleep(1)
    assert subchannel.state is READY
    assert subchannel.describe_failure() == "ready"
    world.network.refuse("a:1")
    world.network.connections[0].abort("gone")
    await settle()
    assert subchannel.describe_failure() == "connection refused, next try in 1.0 s"


def test_backoff_is_jittered_within_its_bounds() -> None:
    async def main() -> None:
        waits = []
        for seed in range(20):
            world = World(backoff=BackoffPolicy(initial_s=1.0, jitter=0.2), seed=seed)
            world.network.refuse("a:1")
            world.new().connect()
            await asyncio.sleep(5)
            waits.append(world.changes[2][0] - world.changes[1][0])
            await world.close()
        assert all(0.8 <= wait <= 1.2 for wait in waits)
        assert len(set(waits)) == len(waits)

    run_virtual(main())


# Losing the connection


@virtual
async def test_lost_connection_leads_to_idle_not_to_failure(world: World) -> None:
    subchannel = world.new()
    subchannel.connect()
    await settle()
    world.network.connections[0].abort("crashed")
    await settle()
    assert world.states == ["CONNECTING", "READY", "IDLE"]
    assert subchannel.connection is None
    assert "the peer closed the connection" in subchannel.describe_failure()


@virtual
async def test_goaway_leads_to_idle_while_streams_finish(world: World) -> None:
    subchannel = world.new()
    subchannel.connect()
    await settle()
    connection = subchannel.connection
    assert connection is not None
    stream = connection.engine.open(Recorder(Scripted(client=True), 1))
    connection.engine.send_headers(stream, None, REQUEST, True)
    connection.kick()
    await settle()
    world.network.connections[0].drain_gracefully()
    await settle()
    assert world.states[-1] == "IDLE"
    assert subchannel.connection is None
    assert not connection.closed.done()
    theirs, their_stream = world.network.requests[0]
    theirs.engine.send_headers(their_stream, None, [(b":status", b"200")], True)
    theirs.kick()
    await settle()
    assert connection.closed.done()


# Shutting down


async def shut_down(world: World, subchannel: Subchannel) -> None:
    """Shut down, and see that nothing happens any more and nothing stays open."""
    before = list(world.changes)
    subchannel.shutdown()
    subchannel.shutdown()
    assert subchannel.state is SHUTDOWN
    subchannel.connect()
    dials = len(world.network.dials)
    await asyncio.sleep(1000)
    assert subchannel.state is SHUTDOWN
    assert [name for _, name in world.changes[len(before) :]] == ["SHUTDOWN"]
    assert world.network.connections == []
    assert len(world.network.dials) == dials


@virtual
async def test_shutdown_while_idle(world: World) -> None:
    await shut_down(world, world.new())


@virtual
async def test_shutdown_before_its_turn_to_dial_never_dials(world: World) -> None:
    subchannel = world.new()
    subchannel.connect()
    await shut_down(world, subchannel)
    assert world.network.dials == []


@virtual
async def test_shutdown_in_the_turn_that_starts_its_attempt_never_dials(world: World) -> None:
    world.network.refuse("a:1")
    subchannel = world.new()
    subchannel.connect()
    world.loop.call_soon(subchannel.shutdown)  # runs after the attempt's task is made and before it starts
    await asyncio.sleep(1000)
    assert subchannel.state is SHUTDOWN
    assert world.network.dials == []


@virtual
async def test_shutdown_while_connecting_ends_the_attempt(world: World) -> None:
    world.network.gate = asyncio.Event()
    subchannel = world.new()
    subchannel.connect()
    await settle()
    assert subchannel.state is CONNECTING
    await shut_down(world, subchannel)
    assert world.network.running == 0


@virtual
async def test_shutdown_during_the_handshake_closes_the_connection(world: World) -> None:
    world.network.serve("a:1", SilentProtocol)
    subchannel = world.new()
    subchannel.connect()
    await settle()
    assert subchannel.state is CONNECTING
    await shut_down(world, subchannel)


@virtual
async def test_shutdown_while_ready_closes_the_connection(world: World) -> None:
    subchannel = world.new()
    subchannel.connect()
    await settle()
    await shut_down(world, subchannel)
    assert subchannel.connection is None


@virtual
async def test_shutdown_during_the_backoff_stops_its_timer(world: World) -> None:
    world.network.refuse("a:1")
    subchannel = world.new()
    subchannel.connect()
    await settle()
    assert subchannel.state is TRANSIENT_FAILURE
    await shut_down(world, subchannel)


@virtual
async def test_shutdown_lets_streams_finish(world: World) -> None:
    subchannel = world.new()
    subchannel.connect()
    await settle()
    connection = subchannel.connection
    assert connection is not None
    stream = connection.engine.open(Recorder(Scripted(client=True), 1))
    connection.engine.send_headers(stream, None, REQUEST, True)
    connection.kick()
    await settle()
    subchannel.shutdown()
    await asyncio.sleep(1000)
    assert not connection.closed.done()
    connection.engine.reset(stream, ErrorCode.CANCEL)
    connection.kick()
    await settle()
    assert connection.closed.done()


# Attributes, limits, the end


@virtual
async def test_revised_attributes_cost_no_connection(world: World) -> None:
    subchannel = world.new()
    subchannel.connect()
    await settle()
    connection = subchannel.connection
    subchannel.revise(Endpoint(subchannel.endpoint.addresses, weight=7))
    await settle()
    assert subchannel.endpoint.weight == 7
    assert subchannel.connection is connection
    assert len(world.network.dials) == 1


@virtual
async def test_at_most_a_hundred_dials_run_at_a_time(world: World) -> None:
    world.network.gate = asyncio.Event()
    subchannels = [world.new(f"host{n}:1") for n in range(250)]
    for subchannel in subchannels:
        subchannel.connect()
    await settle()
    assert world.network.running == MAX_DIALS == 100
    assert sum(subchannel.state is CONNECTING for subchannel in subchannels) == 100
    world.network.gate.set()
    await settle()
    assert world.network.most_running == 100
    assert all(subchannel.state is READY for subchannel in subchannels)
    assert [address for _, address in world.network.dials] == [f"host{n}:1" for n in range(250)]


@virtual
async def test_dial_slot_of_a_cancelled_attempt_goes_to_the_next(world: World) -> None:
    world.network.gate = asyncio.Event()
    subchannels = [world.new(f"host{n}:1") for n in range(101)]
    for subchannel in subchannels:
        subchannel.connect()
    await settle()
    assert subchannels[100].state is IDLE
    subchannels[3].shutdown()
    await settle()
    assert subchannels[100].state is CONNECTING


@virtual
async def test_close_ends_attempts_and_connections(world: World) -> None:
    ready = world.new("a:1")
    ready.connect()
    await settle()
    world.network.gate = asyncio.Event()
    for n in range(150):
        world.new(f"host{n}:1").connect()
    await settle()
    await world.dialler.close("enough")
    assert world.network.running == 0
    await settle()
    assert world.network.connections == []


@virtual
async def test_drained_waits_for_the_last_stream(world: World) -> None:
    subchannel = world.new()
    subchannel.connect()
    await settle()
    connection = subchannel.connection
    assert isinstance(connection, Connection)
    waiting = asyncio.ensure_future(world.dialler.drained())
    await asyncio.sleep(100)
    assert not waiting.done()
    subchannel.shutdown()
    await waiting
    assert connection.closed.done()
