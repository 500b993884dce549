"""One endpoint, its connectivity machine, and its connection; or several, where that is allowed (gRFC A105)."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lbkit.address import Endpoint
from lbkit.backoff import Backoff, BackoffPolicy
from lbkit.balancer import Subchannel as SubchannelContract
from lbkit.clock import Clock, TimerHandle
from lbkit.connectivity import ConnectivityState
from lbkit.errors import ConnectError
from lbkit.health_watch import HealthChecks, HealthWatch
from lbkit.inventory import Trace, next_number
from lbkit.picking import Picked
from lbkit.pool import Pool
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
# The handshake is complete, the peer's SETTINGS included; and its backend serves, if that is checked.
CONNECTED = 1
FAILED = 2  # the attempt failed at every address
BACKOFF_OVER = 3
LOST = 4  # the connection broke, or its server said GOAWAY; of several, the last one
LOST_DIALLING = 5  # the same, while another one is being made
LOST_WAITING = 6  # the same, while the back-off after a failure to make another one lasts
UNHEALTHY = 7  # it is connected, but its backend says that it does not serve, or nothing (gRFC A17)
STOP = 8  # the policy has no more use for it
INPUT_NAMES = (
    "dial", "connected", "failed", "back-off over", "lost", "lost while dialling", "lost in back-off",
    "unhealthy", "stop",
)  # fmt: skip

# TRANSITIONS[state.index * 9 + input] is the next state; None means that the input cannot come there.
# A failed subchannel goes to IDLE after its back-off and the policy decides (as in grpc-go); a lost one is IDLE
# at once, as nothing says that it cannot be reached. With several connections it is READY while it has one, whatever
# comes of the attempts to make another (gRFC A105). Where health is checked it stays CONNECTING until the backend has
# answered; an unhealthy one is in TRANSIENT_FAILURE with its connection, and LOST with that.
TRANSITIONS: tuple[ConnectivityState | None, ...] = (
    # DIAL      CONNECTED FAILED             BACKOFF_OVER LOST LOST_DIALLING LOST_WAITING    UNHEALTHY          STOP
    CONNECTING, None,     None,              None,     None, None,       None,              None,              SHUTDOWN,  # IDLE
    None,       READY,    TRANSIENT_FAILURE, None,     IDLE, None,       None,              TRANSIENT_FAILURE, SHUTDOWN,  # CONNECTING
    READY,      READY,    READY,             READY,    IDLE, CONNECTING, TRANSIENT_FAILURE, TRANSIENT_FAILURE, SHUTDOWN,  # READY
    None,       READY,    None,              IDLE,     IDLE, None,       None,              TRANSIENT_FAILURE, SHUTDOWN,  # TRANSIENT_FAILURE
    SHUTDOWN, SHUTDOWN, SHUTDOWN, SHUTDOWN, SHUTDOWN, SHUTDOWN, SHUTDOWN, SHUTDOWN, SHUTDOWN,  # SHUTDOWN: late news changes nothing
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
        self.trace = Trace()
        self.max_connections = 1  # of each subchannel (gRFC A105); lowering it closes none
        # Of the service config, for connections made from now on.
        self.health_checks: HealthChecks | None = None
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
            if subchannel.take_turn():  # else it was shut down meanwhile
                room -= 1
                # A connection belongs to no call: it must not keep the context of the one that it was first needed for.
                task = loop.create_task(subchannel.dial(), context=Context())
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

    def in_use(self) -> bool:
        """Whether a call is open on any connection, also of subchannels that were shut down."""
        return any(len(each.engine.streams) > each.background for each in self._connections)

    async def drained(self) -> None:
        """Wait until every connection is closed, which those that are draining do after their last call."""
        while self._connections:
            await asyncio.wait([connection.closed for connection in self._connections])


class Subchannel(SubchannelContract):
    """The channel's own subchannel; policies see its base class only."""

    __slots__ = (
        "_backoff",
        "_checks_health",
        "_connect_wanted",
        "_dial_task",
        "_dialler",
        "_failures",
        "_last_error",
        "_listener",
        "_pool",
        "_retry_at",
        "_timer",
        "_watch",
        "calls_failed",
        "calls_started",
        "connection",
        "number",
    )

    # Set while READY; calls are sent on it, and if it is full, on what ``crowded`` gives.
    connection: ClientConnection | None

    def __init__(
        self,
        endpoint: Endpoint,
        dialler: Dialler,
        listener: SubchannelListener,
        *,
        checks_health: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.state = IDLE
        self.in_flight = 0
        self.number = next_number()
        self.calls_started = 0
        self.calls_failed = 0
        self.connection = None
        self._pool: Pool | None = None  # once it was short of room, if more than one connection is allowed
        self._dialler = dialler
        self._listener = listener
        self._connect_wanted = False  # waits for its turn to dial
        self._dial_task: asyncio.Task[None] | None = None
        self._backoff: Backoff | None = None  # made when the first attempt fails
        self._failures = 0
        self._last_error = ""
        self._retry_at = 0.0
        self._timer: TimerHandle | None = None
        self._checks_health = checks_health
        self._watch: HealthWatch | None = None  # over its connection; over the oldest, if there are several

    def connect(self) -> None:
        """Start connecting if IDLE."""
        if self.state is IDLE:
            self._want_dial()

    def _want_dial(self) -> None:
        if not self._connect_wanted:
            self._connect_wanted = True
            self._dialler.submit(self)

    def take_turn(self) -> bool:
        """Whether an attempt still makes sense now that it is its turn. Asked by the dialler."""
        wanted, self._connect_wanted = self._connect_wanted, False
        return wanted and (self.state is IDLE or (self.state is READY and self._may_grow()))

    def crowded(self) -> ClientConnection | None:
        """Return another connection to send a call on, as the first is full; if that is so of all, make one more.

        Called by calls. None: wait on the first, and be served on whichever has room next.
        """
        if self._pool is None:
            if self._dialler.max_connections == 1 or self.connection is None:
                return None
            self._pool = Pool(self.connection)
        return self._pool.with_room()

    def short_of_room(self) -> None:
        """Make another connection for calls that wait, if one is allowed. Called after a call has begun to wait."""
        if self.state is READY and self._dial_task is None and self._timer is None and self._may_grow():
            self._want_dial()

    def _may_grow(self) -> bool:
        pool = self._pool
        return pool is not None and len(pool) < self._dialler.max_connections and pool.short_of_room()

    def reset_backoff(self) -> None:
        """Try again now instead of after the back-off, and begin with a short one after the next failure."""
        self._backoff = None
        if self._timer is not None:
            self._timer.cancel()
            self._backoff_over()

    def shutdown(self) -> None:
        """Stop; calls in flight finish on the connection, which then closes."""
        if self.state is SHUTDOWN:
            return
        connection, self.connection = self.connection, None
        if self._watch is not None:
            connection = self._watch.connection
            self._end_watch()
        self._move(STOP)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._dial_task is not None:
            self._dial_task.cancel()
        if self._pool is not None:
            self._pool.drain()
        elif connection is not None:
            connection.drain()

    def revise(self, endpoint: Endpoint) -> None:
        """Take new attributes of the same addresses."""
        self.endpoint = endpoint

    def connections(self) -> list[ClientConnection]:
        """Return its connections, oldest first."""
        if self._pool is not None:
            return list(self._pool)
        connection = self._watch.connection if self._watch is not None else self.connection
        return [] if connection is None else [connection]

    def describe_failure(self) -> str:
        """Say why it is not READY."""
        if not self._last_error:
            return self.state.text
        if self._watch is not None:
            return self._last_error
        times = f" x{self._failures}" if self._failures > 1 else ""
        wait = self._retry_at - self._dialler.clock.time()
        after = (
            f", next try in {wait:.1f} s" if self.state is TRANSIENT_FAILURE and wait > 0 else ", trying now"
        )
        return f"{self._last_error}{times}{after}"

    async def dial(self) -> None:
        """Make one attempt: at all addresses, a moment apart, until one connects. Run by the dialler."""
        if self.state not in {IDLE, READY}:  # shut down between the dialler's turn and this one
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
            if self._dial_task is asyncio.current_task():
                self._dial_task = None

    def _connected(self, connection: ClientConnection) -> None:
        self._dialler.opened(connection)
        if self.state is SHUTDOWN:
            connection.drain()
            return
        self._backoff = None
        self._failures = 0
        self._last_error = ""
        if self._pool is not None:
            self._pool.add(connection)
        self._dial_task = None
        if self.state is READY:
            self._move(CONNECTED)
        elif not self._watch_health(connection):
            self._use(connection)
        self.short_of_room()

    def _use(self, connection: ClientConnection) -> None:
        """Be READY."""
        if self.state is not READY:
            self.connection = connection
            self.picked = Picked(self)
        self._move(CONNECTED)

    def _watch_health(self, connection: ClientConnection) -> bool:
        """Ask a backend whether it serves, if that is to be checked."""
        checks = self._dialler.health_checks
        if checks is None or not self._checks_health:
            return False
        self._watch = HealthWatch(checks, connection, self._health_changed)
        self._watch.start()
        return True

    def _health_changed(self, healthy: bool, reason: str) -> None:
        """Be READY while the backend serves; else keep the connection, and make no others."""
        assert self._watch is not None, "told by nobody"
        if healthy:
            self._last_error = ""
            self._use(self._watch.connection)
            return
        self.connection = None
        self._last_error = reason
        self._connect_wanted = False
        if self._dial_task is not None:
            self._dial_task.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._move(UNHEALTHY)

    def _end_watch(self) -> None:
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.stop()

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
        self.short_of_room()

    def connection_unusable(self, connection: ClientConnection, reason: str) -> None:
        """Leave READY, unless there is another one: the connection broke, or its server is going away."""
        left = None if self._pool is None else self._pool.remove(connection)
        watched = self._watch is not None and self._watch.connection is connection
        if watched:
            self._end_watch()
        elif connection is not self.connection:
            self.short_of_room()
            return
        if self.state is READY:
            self.connection = left
        if left is not None and watched:
            self._watch_health(left)
        if left is None:
            self._last_error = reason
            self._connect_wanted = False  # for more room; whether to connect again is the policy's business
            event = LOST
            if self.state is READY and self._dial_task is not None:
                event = LOST_DIALLING
            elif self.state is READY and self._timer is not None:
                event = LOST_WAITING
            self._move(event)
        self.short_of_room()

    def _move(self, event: int) -> None:
        """Make one step in the table; tell the listener if the state changed."""
        state = TRANSITIONS[self.state.index * len(INPUT_NAMES) + event]
        assert state is not None, f"{INPUT_NAMES[event]!r} in {self.state.name}"
        if state is not self.state:
            self.state = state
            dialler = self._dialler
            dialler.trace.add(dialler.clock.time(), state.name, self._last_error, self.number)
            self._listener.subchannel_changed(self, state)

    def __repr__(self) -> str:
        return f"<Subchannel {self.endpoint} {self.state.name}>"
