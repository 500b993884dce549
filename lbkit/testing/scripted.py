"""The subchannels of a channel without a network: their attempts end when and as a script says."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import cast

from lbkit.address import Endpoint
from lbkit.balancer import BalancerFactory
from lbkit.balancing import PolicyHost
from lbkit.connectivity import ConnectivityState
from lbkit.picking import Picker
from lbkit.subchannel import DIAL, ConnectOptions, Dialler, Subchannel
from lbkit.testing.clock import VirtualClock
from lbkit.transport.client import ClientConnection
from lbkit.transport.setup import ConnectionSetup

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY
TRANSIENT_FAILURE = ConnectivityState.TRANSIENT_FAILURE


class _Connection:
    """Stands for a connection that a subchannel has."""

    def drain(self) -> None:
        """Do nothing: there are no streams."""


class ScriptedDialler(Dialler):
    """Keeps the subchannels that want to connect until the script dials for them."""

    def __init__(self, clock: VirtualClock, random: random.Random) -> None:
        super().__init__(clock, random, ConnectOptions(ConnectionSetup(engine="native")))
        self.waiting: dict[Subchannel, None] = {}

    def submit(self, subchannel: Subchannel) -> None:
        """Queue an attempt."""
        self.waiting[subchannel] = None

    def opened(self, connection: ClientConnection) -> None:
        """Keep nothing: nothing has to be closed."""

    def dial(self, subchannel: Subchannel) -> None:
        """Begin the attempt that was asked for, if it is still wanted."""
        self.waiting.pop(subchannel, None)
        subchannel._connect_wanted = False
        if subchannel.state is IDLE:
            subchannel._move(DIAL)

    def succeed(self, subchannel: Subchannel) -> None:
        """Let a CONNECTING subchannel become READY."""
        subchannel._connected(cast("ClientConnection", _Connection()))

    def fail(self, subchannel: Subchannel, error: str = "connection refused") -> None:
        """Let a CONNECTING subchannel fail; its back-off ends on the clock."""
        subchannel._failed(error, self.clock.time())

    def lose(self, subchannel: Subchannel, reason: str = "the peer closed the connection") -> None:
        """Break the connection of a READY subchannel."""
        if subchannel.connection is not None:
            subchannel.connection_unusable(subchannel.connection, reason)


class ScriptedHost(PolicyHost):
    """The channel's own host of a policy; turns of the loop happen when the script says.

    Attributes:
        identities: whom each live subchannel was made for.
        sticky: what each live subchannel counts as: TRANSIENT_FAILURE until it is READY again.
        made: how many subchannels the policy has made.
        due: what is to run in the next turn.
    """

    def __init__(
        self,
        factory: BalancerFactory,
        config: dict[str, object],
        *,
        dialler: ScriptedDialler,
        publish: Callable[[ConnectivityState, Picker], None],
        reresolve: Callable[[], None],
    ) -> None:
        self.sticky: dict[Subchannel, ConnectivityState] = {}
        self.identities: dict[Subchannel, object] = {}
        self.made = 0
        self.due: list[Callable[[], None]] = []
        super().__init__(
            factory,
            config,
            dialler=dialler,
            schedule=self.due.append,
            publish=publish,
            reresolve=reresolve,
        )

    def new_subchannel(self, endpoint: Endpoint) -> Subchannel:
        """Make a real subchannel, and count it."""
        made = super().new_subchannel(endpoint)
        self.made += 1
        self.sticky[made] = IDLE
        self.identities[made] = endpoint.identity
        return made

    def subchannel_changed(self, subchannel: Subchannel, state: ConnectivityState) -> None:
        """Follow the subchannel as every policy should, and tell the one under test."""
        if state is ConnectivityState.SHUTDOWN:
            self.sticky.pop(subchannel, None)
            self.identities.pop(subchannel, None)
        elif self.sticky.get(subchannel) is not TRANSIENT_FAILURE or state is READY:
            self.sticky[subchannel] = state
        super().subchannel_changed(subchannel, state)

    def in_state(self, state: ConnectivityState) -> list[Subchannel]:
        """Return the live subchannels in a state, oldest first."""
        return [subchannel for subchannel in self.subchannels if subchannel.state is state]
