"""Every cell of the two state tables that frames can reach is reached by real ones.

The cells themselves are held to RFC 9113 5.1 and 6.8 in ``tests/unit/test_stream_table.py`` and
``test_connection_table.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from lbkit.http2 import frames, stream
from lbkit.http2.frames import ErrorCode, frame
from lbkit.http2.hpack import Field
from lbkit.http2.stream import (
    CLOSED,
    HALF_CLOSED_LOCAL,
    HALF_CLOSED_REMOTE,
    ILLEGAL,
    OPEN,
    RECEIVE_END,
    RESET,
    SEND_END,
    Stream,
)
from lbkit.transport import state as life
from lbkit.transport.client import ClientConnection
from lbkit.transport.connection import Connection
from lbkit.transport.server import ServerConnection
from lbkit.transport.setup import ConnectionSetup
from tests.support.memory import MemoryTransport
from tests.support.wire import (
    RESPONSE,
    TRAILERS,
    End,
    Recorder,
    Scripted,
    data_frame,
    goaway_frame,
    reset_frame,
    settings_frame,
)

# Streams, RFC 9113 5.1


def server_in(state: int) -> Scripted:
    """A server whose stream 1 is in a state."""
    end = Scripted(client=False)
    end.receive(end.headers(1, end=state in (HALF_CLOSED_REMOTE, CLOSED)))
    if state in (HALF_CLOSED_LOCAL, CLOSED):
        end.engine.send_headers(end.opened[1], None, (*RESPONSE, *TRAILERS), True)
    return end


def client_in(state: int) -> Scripted:
    """A client whose stream 1 is in a state, its answer begun."""
    end = Scripted(client=True)
    end.open(end=state in (HALF_CLOSED_LOCAL, CLOSED))
    end.receive(end.headers(1, RESPONSE, end=state in (HALF_CLOSED_REMOTE, CLOSED)))
    return end


Way = Callable[[Scripted], object]

WAYS: dict[int, dict[str, Way]] = {
    SEND_END: {
        "DATA": lambda end: end.engine.send_data(end.opened[1], b"x", True),
        "HEADERS": lambda end: end.engine.send_headers(end.opened[1], None, TRAILERS, True),
    },
    RECEIVE_END: {
        "DATA": lambda end: end.receive(data_frame(1, b"x", end=True)),
        "empty DATA": lambda end: end.receive(data_frame(1, b"", end=True)),
        "HEADERS": lambda end: end.receive(end.headers(1, TRAILERS, end=True)),
    },
    RESET: {
        "by us": lambda end: end.engine.reset(end.opened[1], ErrorCode.CANCEL),
        "by the peer": lambda end: end.receive(reset_frame(1, ErrorCode.CANCEL)),
        "end of the connection": lambda end: end.engine.lost("gone"),
    },
}
ALL = [
    (state, event, way)
    for state in range(len(stream.STATE_NAMES))
    for event, ways in WAYS.items()
    for way in ways
]


def next_state(state: int, event: int) -> int:
    return stream.TRANSITIONS[state * len(stream.INPUT_NAMES) + event]


@pytest.mark.parametrize("make", [server_in, client_in])
@pytest.mark.parametrize(
    ("state", "event", "way"),
    [row for row in ALL if next_state(row[0], row[1]) != ILLEGAL],
    ids=str,
)
def test_frames_move_a_stream_as_the_table_says(
    make: Callable[[int], Scripted], state: int, event: int, way: str
) -> None:
    end = make(state)
    moved = end.opened[1]
    assert moved.state == state
    WAYS[event][way](end)
    assert moved.state == next_state(state, event)
    assert (1 in end.engine.streams) == (moved.state != CLOSED)
    assert not end.faults


@pytest.mark.parametrize("make", [server_in, client_in])
@pytest.mark.parametrize("way", WAYS[RECEIVE_END])
def test_second_end_resets_a_stream_that_is_half_closed(make: Callable[[int], Scripted], way: str) -> None:
    """5.1, "half-closed (remote)": a fault of the stream, STREAM_CLOSED (S23)."""
    end = make(HALF_CLOSED_REMOTE)
    assert next_state(HALF_CLOSED_REMOTE, RECEIVE_END) == ILLEGAL
    WAYS[RECEIVE_END][way](end)
    assert end.of("reset")[0][1:3] == (1, ErrorCode.STREAM_CLOSED)
    assert end.opened[1].state == CLOSED
    assert not end.faults


@pytest.mark.parametrize("make", [server_in, client_in])
@pytest.mark.parametrize("way", WAYS[RECEIVE_END])
def test_end_on_an_ended_stream_is_a_fault_of_the_connection(
    make: Callable[[int], Scripted], way: str
) -> None:
    """5.1, "closed": after END_STREAM, STREAM_CLOSED for the connection."""
    end = make(CLOSED)
    assert next_state(CLOSED, RECEIVE_END) == ILLEGAL
    WAYS[RECEIVE_END][way](end)
    assert [fault.code for fault in end.faults] == [ErrorCode.STREAM_CLOSED]
    assert end.opened[1].state == CLOSED


def test_what_frames_cannot_reach_is_ending_twice_ourselves() -> None:
    """These two cells stand for a mistake of the layer above."""
    received = {(HALF_CLOSED_REMOTE, RECEIVE_END), (CLOSED, RECEIVE_END)}  # the two tests before
    illegal = {(state, event) for state, event, _ in ALL if next_state(state, event) == ILLEGAL}
    assert illegal - received == {(HALF_CLOSED_LOCAL, SEND_END), (CLOSED, SEND_END)}


@pytest.mark.parametrize("state", [OPEN, HALF_CLOSED_LOCAL, HALF_CLOSED_REMOTE])
def test_goaway_resets_the_streams_that_the_peer_will_not_serve(state: int) -> None:
    """6.8; of the server's they are none."""
    end = client_in(state)
    end.receive(goaway_frame(0))
    assert end.opened[1].state == CLOSED
    end = server_in(state)
    end.receive(goaway_frame(0))
    assert end.opened[1].state == state


def test_idle_streams_have_no_object() -> None:
    """5.1, "idle": PRIORITY may come there, and nothing else (S22)."""
    end = Scripted(client=False)
    end.receive(frame(frames.PRIORITY, 0, 1, bytes(5)))
    assert not end.engine.streams
    assert not end.faults


# Connections, transport/state.py


class Nobody:
    """Owns a connection of either kind and takes no interest."""

    def connection_unusable(self, connection: ClientConnection, reason: str) -> None:
        """Ignore."""

    def connection_opened(self, connection: ServerConnection) -> None:
        """Ignore."""

    def connection_closed(self, connection: ServerConnection) -> None:
        """Ignore."""

    def request(
        self, connection: ServerConnection, stream: Stream, fields: tuple[Field, ...], end: bool
    ) -> None:
        """Leave it open."""

    def oversized(self, connection: ServerConnection, stream: Stream, reason: str) -> None:
        """Leave it open."""


class Rig:
    """A connection on a transport in memory whose other end the test plays."""

    def __init__(self, *, client: bool) -> None:
        loop = asyncio.get_running_loop()
        setup = ConnectionSetup()
        self.client = client
        self.connection: Connection = (
            ClientConnection(loop, Nobody(), setup) if client else ServerConnection(loop, Nobody(), setup)
        )
        self.transport = MemoryTransport(loop, cast("asyncio.BufferedProtocol", self.connection), "peer")
        self.connection.connection_made(self.transport)
        self._peer = Scripted(client=False)

    def receive(self, data: bytes) -> None:
        self.transport.deliver(data)

    def open_stream(self) -> None:
        """Have a stream, so that a draining connection stays."""
        if self.client:
            ours = self.connection.engine.open(Recorder(End(client=True), 1))
            self.connection.engine.send_headers(ours, None, TRAILERS, False)
        else:
            self.receive(self._peer.headers(1))

    def end_stream(self) -> None:
        """End that stream; the connection has nothing more to wait for."""
        self.receive(reset_frame(1, ErrorCode.CANCEL))

    async def close(self) -> None:
        self.connection.abort("the test is over")
        await self.connection.closed


def greet(rig: Rig) -> None:
    rig.receive(settings_frame() if rig.client else frames.PREFACE + settings_frame())
    rig.open_stream()


def reach(rig: Rig, state: int) -> None:
    """Bring a connection into a state by what its peer sends."""
    if state == life.HANDSHAKE:
        return
    if state == life.CLOSED:
        rig.receive(b"a stranger's words")
        return
    greet(rig)
    if state == life.DRAINING:
        rig.receive(goaway_frame(1))


CONNECTION_WAYS: dict[int, dict[str, Callable[[Rig], None]]] = {
    life.SETTINGS: {"SETTINGS": lambda rig: rig.receive(settings_frame())},
    life.DRAIN: {"GOAWAY": lambda rig: rig.receive(goaway_frame(1))},
    life.END: {
        "fault": lambda rig: rig.receive(frame(frames.PING, 0, 0, b"short")),
        "end of the socket": lambda rig: rig.transport.hang_up(),
    },
}


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("state", range(len(life.STATE_NAMES)), ids=lambda n: life.STATE_NAMES[n])
@pytest.mark.parametrize(
    ("event", "way"), [(event, way) for event, ways in CONNECTION_WAYS.items() for way in ways], ids=str
)
async def test_frames_move_a_connection_as_the_table_says(
    client: bool, state: int, event: int, way: str
) -> None:
    rig = Rig(client=client)
    reach(rig, state)
    assert rig.connection.state == state
    if state == life.HANDSHAKE and event == life.SETTINGS and not client:
        rig.receive(frames.PREFACE)
    expected = life.TRANSITIONS[state * len(life.INPUT_NAMES) + event]
    if state == life.HANDSHAKE and event == life.DRAIN:
        expected = life.CLOSED  # RFC 9113 3.4: SETTINGS first, so that no GOAWAY can come here
    CONNECTION_WAYS[event][way](rig)
    if way == "end of the socket":  # which is told in the loop's next turn
        await rig.connection.closed
    assert rig.connection.state == expected
    await rig.close()


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
async def test_connection_told_to_drain_before_its_handshake_takes_no_streams(client: bool) -> None:
    """The one cell that no frame reaches: (handshake, drain)."""
    rig = Rig(client=client)
    if client:
        rig.open_stream()
    rig.connection.move(life.DRAIN)
    assert rig.connection.state == life.DRAINING
    rig.receive(settings_frame() if client else frames.PREFACE + settings_frame())
    assert rig.connection.state == life.DRAINING
    await rig.close()


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
async def test_draining_connection_ends_with_its_last_stream(client: bool) -> None:
    """RFC 9113 6.8."""
    rig = Rig(client=client)
    reach(rig, life.DRAINING)
    rig.end_stream()
    await rig.connection.closed
    assert rig.connection.state == life.CLOSED
    assert rig.connection.end_reason
