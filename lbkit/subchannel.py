"""One endpoint, its connectivity machine, and its connection."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lbkit.address import Endpoint
from lbkit.backoff import Backoff, BackoffPolicy
from lbkit.balancer import Subchannel as SubchannelContract
from lbkit.clock import Clock, TimerHandle
from lbkit.connectivity import ConnectivityState
from lbkit.errors import ConnectError
from lbkit.picking import Picked
from lbkit.transport.client import ClientConnection
from lbkit.transport.connector import Connector, SocketConnector
from lbkit.transport.eyeballs import open_first
from lbkit.transport.setup import ConnectionSetup

if TYPE_CHECKING:
    import random

MAX_DIALS = 100  # connection attempts of one channel at a time
_DIALS_PER_TURN = 10  # started before other work on the event loop gets a turn

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY
TRANSIENT_FAILURE = ConnectivityState.TRANSIENT_FAILURE
SHUTDOWN = ConnectivityState.SHUTDOWN

# Inputs.
DIAL = 0  # an attempt starts
CONNECTED = 1  # the handshake is complete, the peer's SETTINGS included
FAILED = 2  # the attempt failed at every address
BACKOFF_OVER = 3
LOST = 4  # the connection broke, or its server said GOAWAY
STOP = 5  # the policy has no more use for it
INPUT_NAMES = ("dial", "connected", "failed", "back-off over", "lost", "stop")

# TRANSITIONS[state.index * 6 + input] is the next state; None means that the input cannot come there.
# A failed subchannel goes to IDLE after its back-off and the policy decides (as in grpc-go); a lost one is IDLE
# at once, as nothing says that it cannot be reached.
TRANSITIONS: tuple[ConnectivityState | None, ...] = (
    # DIAL      CONNECTED FAILED             BACKOFF_OVER LOST  STOP
    CONNECTING, None,     None,              None,        None, SHUTDOWN,  # IDLE
    None,       READY,    TRANSIENT_FAILURE, None,        None, SHUTDOWN,  # CONNECTING
    None,       None,     None,              None,        IDLE, SHUTDOWN,  # READY
    None,       None,     None,              IDLE,        None, SHUTDOWN,  # TRANSIENT_FAILURE
    SHUTDOWN,   SHUTDOWN, SHUTDOWN,          SHUTDOWN,    SHUTDOWN, SHUTDOWN,  # SHUTDOWN: late news changes nothing
)  # fmt: skip


class ConnectOptions(NamedTuple):
    """How a channel's subchannels connect. Times in seconds."""

    setup: ConnectionSetup
    connector: Connector = SocketConnector()
    # For one attempt at all addresses, HTTP/2 handshake included; longer if the back-off is.
    timeout_s: float = 20.0
    backoff: BackoffPolicy = BackoffPolicy()


class SubchannelListener(Protocol):
    """Who hears of a subchannel's changes: the channel, which passes them on to the policy."""

    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        """Take note of a new state."""
        ...


class Dialler:
    """Runs the connection attempts of one channel, at most ``MAX_DIALS`` at a time."""

    def __init__(self, clock: Clock, random: random.Random, options: ConnectOptions) -> None:
        self.clock = clock
        self.random = random
        self.options = options
        self._queue: deque[Subchannel] = deque()
        self._due = False  # a callback that starts attempts is scheduled
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[ClientConnection] = set()

    def submit(self, subchannel: Subchannel) -> None:
        """Dial for ``subchannel`` when it is its turn."""
        self._queue.append(subchannel)
        if not self._due:
            self._start_soon()

    def opened(self, connection: ClientConnection) -> None:
        """Keep track of a connection until its socket is closed, whatever becomes of its subchannel."""
        self._connections.add(connection)
        connection.closed.add_done_callback(lambda _: self._connections.discard(connection))

    def _start_soon(self) -> None:
        if not self._due and self._queue and len(self._tasks) < MAX_DIALS:
            self._due = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        """Start some of the attempts that wait; more of them in the next turn."""
        self._due = False
        loop = asyncio.get_running_loop()
        room = min(_DIALS_PER_TURN, MAX_DIALS - len(self._tasks))
        while self._queue and room > 0:
            subchannel = self._queue.popleft()
            if subchannel.state is IDLE:  # else it was shut down meanwhile
                room -= 1
                task = loop.create_task(subchannel.dial())
                self._tasks.add(task)
                task.add_done_callback(self._done)
        self._start_soon()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler(
                {"message": "a connection attempt failed unexpectedly", "exception": error, "task": task}
            )
        self._start_soon()

    async def close(self, reason: str) -> None:
        """Cancel every attempt, end every connection, and wait until their sockets are closed."""
        self._queue.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        connections = list(self._connections)
        for connection in connections:
            connection.abort(reason)
        await asyncio.gather(*(connection.closed for connection in connections))

    async def drained(self) -> None:
        """Wait until every connection is closed, which those that are draining do after their last call."""
        while self._connections:
            await asyncio.wait([connection.closed for connection in self._connections])


class Subchannel(SubchannelContract):
    """The channel's own subchannel; policies see its base class only."""

    __slots__ = (
        "_backoff",
        "_connect_wanted",
        "_dial_task",
        "_dialler",
        "_failures",
        "_last_error",
        "_listener",
        "_retry_at",
        "_timer",
        "connection",
    )

    connection: ClientConnection | None  # set while READY; calls are sent on it

    def __init__(self, endpoint: Endpoint, dialler: Dialler, listener: SubchannelListener) -> None:
        self.endpoint = endpoint
        self.state = IDLE
        self.in_flight = 0
        self.connection = None
        self._dialler = dialler
        self._listener = listener
        self._connect_wanted = False  # waits for its turn to dial
        self._dial_task: asyncio.Task[None] | None = None
        self._backoff: Backoff | None = None  # made when the first attempt fails
        self._failures = 0
        self._last_error = ""
        self._retry_at = 0.0
        self._timer: TimerHandle | None = None

    def connect(self) -> None:
        """Start connecting if IDLE."""
        if self.state is IDLE and not self._connect_wanted:
            self._connect_wanted = True
            self._dialler.submit(self)

    def shutdown(self) -> None:
        """Stop; calls in flight finish on the connection, which then closes."""
        if self.state is SHUTDOWN:
            return
        connection, self.connection = self.connection, None
        self._move(STOP)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._dial_task is not None:
            self._dial_task.cancel()
        if connection is not None:
            connection.drain()

    def revise(self, endpoint: Endpoint) -> None:
        """Take new attributes of the same addresses."""
        self.endpoint = endpoint

    def describe_failure(self) -> str:
        """Say why it is not READY."""
        if not self._last_error:
            return self.state.text
        times = f" x{self._failures}" if self._failures > 1 else ""
        wait = self._retry_at - self._dialler.clock.time()
        after = (
            f", next try in {wait:.1f} s" if self.state is TRANSIENT_FAILURE and wait > 0 else ", trying now"
        )
        return f"{self._last_error}{times}{after}"

    async def dial(self) -> None:
        """Make one attempt: at all addresses, a moment apart, until one connects. Run by the dialler."""
        self._connect_wanted = False
        if self.state is SHUTDOWN:  # between the dialler's turn and this one
            return
        self._dial_task = asyncio.current_task()
        options = self._dialler.options
        began = self._dialler.clock.time()
        timeout = max(options.timeout_s, self._backoff.base_s if self._backoff else 0.0)
        self._move(DIAL)
        try:
            connection = await open_first(
                self.endpoint.addresses,
                self,
                connector=options.connector,
                setup=options.setup,
                timeout_s=timeout,
            )
        except ConnectError as error:
            self._failed(str(error), began)
        else:
            self._connected(connection)
        finally:
            self._dial_task = None

    def _connected(self, connection: ClientConnection) -> None:
        self._dialler.opened(connection)
        if self.state is SHUTDOWN:
            connection.drain()
            return
        self._backoff = None
        self._failures = 0
        self._last_error = ""
        self.connection = connection
        self.picked = Picked(self)
        self._move(CONNECTED)

    def _failed(self, error: str, began: float) -> None:
        """Wait out the back-off, counted from the start of the attempt."""
        if self._backoff is None:
            self._backoff = Backoff(self._dialler.options.backoff, self._dialler.random)
        self._failures += 1
        self._last_error = error
        self._retry_at = max(began + self._backoff.next_delay(), self._dialler.clock.time())
        self._timer = self._dialler.clock.call_at(self._retry_at, self._backoff_over)
        self._move(FAILED)

    def _backoff_over(self) -> None:
        self._timer = None
        self._move(BACKOFF_OVER)

    def connection_unusable(self, connection: ClientConnection, reason: str) -> None:
        """Leave READY: the connection broke, or its server is going away."""
        if connection is self.connection:
            self.connection = None
            self._last_error = reason
            self._move(LOST)

    def _move(self, event: int) -> None:
        """Make one step in the table; tell the listener if the state changed."""
        state = TRANSITIONS[self.state.index * len(INPUT_NAMES) + event]
        assert state is not None, f"{INPUT_NAMES[event]!r} in {self.state.name}"
        if state is not self.state:
            self.state = state
            self._listener.subchannel_changed(self, state)

    def __repr__(self) -> str:
        return f"<Subchannel {self.endpoint} {self.state.name}>"
