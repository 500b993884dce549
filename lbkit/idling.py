"""Puts a channel that nobody uses to sleep, and wakes it when somebody does (as grpc-go's idle mode)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lbkit.connectivity import ConnectivityState
from lbkit.idleness import (
    ASLEEP,
    AWAKE,
    CLOSED,
    INPUT_NAMES,
    STATE_NAMES,
    TRANSITIONS,
    UNUSED,
    WANT,
    WANTED,
    Idleness,
)
from lbkit.picking import QueuePicker

if TYPE_CHECKING:
    from lbkit.channel_core import ChannelCore


class Idling:
    """Follows the table of ``idleness`` for one channel.

    Args:
        idle_s: after so long without a call the channel lets go of everything; None for never.
        channel: the channel.

    Attributes:
        state: see the table.
    """

    __slots__ = ("_channel", "_idle_s", "_idleness", "_loop", "_stopped", "_task", "_timer", "state")

    _loop: asyncio.AbstractEventLoop

    def __init__(self, idle_s: float | None, channel: ChannelCore) -> None:
        self.state = AWAKE
        self._channel = channel
        self._idle_s = idle_s
        self._idleness: Idleness | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to look, as the channel has been taken up."""
        self._loop = loop
        if self._idle_s is not None:
            self._idleness = Idleness(self._idle_s, loop.time())
            self._timer = loop.call_at(self._idleness.due, self._look)

    def want(self) -> bool:
        """Wake the channel if it is not awake; return whether that was so. Called when something waits for it."""
        before = self.state
        if before == ASLEEP:
            self._take_up()
        self._move(WANT)
        return before != AWAKE

    async def stop(self) -> None:
        """Look no more, and wait for what is being closed. Called when the channel is closed."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _look(self) -> None:
        idleness, channel = self._idleness, self._channel
        assert idleness is not None, "a look without a timeout"
        if not idleness.look(self._loop.time(), channel.last_call_at, busy=self._in_use()):
            self._timer = self._loop.call_at(idleness.due, self._look)
            return
        self._timer = None
        self._move(UNUSED)
        channel._policy.close()
        channel.picker = QueuePicker()
        channel._set_state(ConnectivityState.IDLE)
        self._task = self._loop.create_task(self._release())

    def _in_use(self) -> bool:
        """Whether a call is open, or waits."""
        channel = self._channel
        waits = channel._queued or channel.retrying or channel.authorizing
        return bool(
            waits
            or any(subchannel.in_flight for subchannel in channel._policy.subchannels)
            or channel._dialler.in_use()
        )

    async def _release(self) -> None:
        """Close the resolver and every connection, and look whether somebody wants them back."""
        await self._channel._resolver_host.close()
        await self._channel._dialler.close("the channel was idle")
        self._task = None
        wanted = self.state == WANTED
        self._move(CLOSED)
        if wanted and not self._stopped:
            self._take_up()

    def _take_up(self) -> None:
        """Make everything anew; the last configuration of calls holds until there is another."""
        self._channel._build(self._loop)
        self._channel._resolver_host.start()
        self.start(self._loop)

    def _move(self, event: int) -> None:
        state = TRANSITIONS[self.state * len(INPUT_NAMES) + event]
        assert state >= 0, f"{INPUT_NAMES[event]!r} in {STATE_NAMES[self.state]!r}"
        self.state = state
