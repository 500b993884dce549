"""Replaces a channel's balancing policy without losing a call: the old one serves until the new one can.

The rules are those of grpc-go's ``gracefulswitch`` and of gRPC core's ``ChildPolicyHandler``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from lbkit.balancing import PolicyHost, Scheduler
from lbkit.connectivity import ConnectivityState
from lbkit.picking import Picker, QueuePicker
from lbkit.resolution import Resolution, Verdict
from lbkit.service_config import PolicyChoice
from lbkit.subchannel import Dialler, Subchannel

_log = logging.getLogger("lbkit.balancer")

CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY


class PolicySwitch:
    """Runs the policy of a channel and, beside it, the one that is to follow it.

    The follower gets the news of the resolver and connects; the channel has the other's picker. They swap as soon as
    the follower publishes another state than CONNECTING, or the other one is not READY. What has been replaced is
    closed in the next turn of the event loop, as it may be just then that it publishes; calls in flight on its
    connections finish.

    Args:
        choice: the policy to begin with.
        dialler: connects the subchannels.
        schedule: ``loop.call_soon``.
        publish: what to do with a new state and picker.
        reresolve: what to do when a policy asks for fresh addresses.

    Raises:
        ValueError: the policy cannot be configured so.
    """

    def __init__(
        self,
        choice: PolicyChoice,
        *,
        dialler: Dialler,
        schedule: Scheduler,
        publish: Callable[[ConnectivityState, Picker], None],
        reresolve: Callable[[], None],
    ) -> None:
        self._dialler = dialler
        self._schedule = schedule
        self._publish = publish
        self._reresolve = reresolve
        self._current = self._run(choice)
        self._follower: _Run | None = None
        self._replaced: list[_Run] = []  # not closed yet
        self._closed = False

    @property
    def name(self) -> str:
        """Of the policy that the channel has its picker from."""
        return self._current.choice.name

    @property
    def subchannels(self) -> Iterator[Subchannel]:
        """All that are not shut down: the serving policy's first, oldest first."""
        runs = (self._current, self._follower, *self._replaced)
        return (each for run in runs if run is not None for each in run.host.subchannels)

    def update(self, resolution: Resolution, choice: PolicyChoice) -> Verdict:
        """Deliver an answer to the policy that is chosen now, after switching to it if that is another one.

        Returns:
            The policy's verdict; a rejection, too, if the chosen one cannot be made. Then the last one goes on.
        """
        refusal = None if self._closed else self._choose(choice)
        verdict = self._latest.host.update(resolution)
        return refusal or verdict

    def resolver_failed(self, error: Exception) -> None:
        """Deliver that there is no answer."""
        self._latest.host.resolver_failed(error)

    def wake(self) -> None:
        """Have the policy leave IDLE."""
        self._latest.host.wake()

    def close(self) -> None:
        """Shut everything down; nothing is published afterwards."""
        self._closed = True
        if self._follower is not None:
            self._follower.host.close()
        self._current.host.close()
        self._close_replaced()

    # Inside

    @property
    def _latest(self) -> _Run:
        return self._follower or self._current

    def _run(self, choice: PolicyChoice) -> _Run:
        return _Run(choice, self._dialler, self._schedule, self._published, self._reresolve)

    def _choose(self, choice: PolicyChoice) -> Verdict | None:
        latest = self._latest
        if choice == latest.choice:
            return None
        if choice.factory is latest.choice.factory and latest.host.reconfigure(choice.config):
            latest.choice = choice
            return None
        try:
            run = self._run(choice)
        except Exception as error:  # a stranger's policy: whatever it raises when it is made
            _log.exception(
                "the balancing policy %r cannot be made; %r goes on", choice.name, latest.choice.name
            )
            what = f"the balancing policy {choice.name!r} cannot be made: {type(error).__name__}: {error}"
            return Verdict(accepted=False, reason=what)
        if self._follower is not None:
            self._leave(self._follower)
        self._follower = run
        return None

    def _published(self, run: _Run) -> None:
        """Pass a publication on, if it is the serving policy's, and see whether it is time to swap."""
        follower = self._follower
        if run is self._current:
            if follower is None or run.state is READY:
                self._publish(run.state, run.picker)
            else:
                self._swap(follower)
        elif run is follower and (run.state is not CONNECTING or self._current.state is not READY):
            self._swap(run)

    def _swap(self, follower: _Run) -> None:
        replaced, self._current, self._follower = self._current, follower, None
        self._publish(follower.state, follower.picker)
        self._leave(replaced)

    def _leave(self, run: _Run) -> None:
        self._replaced.append(run)
        self._schedule(self._close_replaced)

    def _close_replaced(self) -> None:
        replaced, self._replaced = self._replaced, []
        for run in replaced:
            run.host.close()


class _Run:
    """One policy, and what it published last."""

    def __init__(
        self,
        choice: PolicyChoice,
        dialler: Dialler,
        schedule: Scheduler,
        published: Callable[[_Run], None],
        reresolve: Callable[[], None],
    ) -> None:
        self.choice = choice
        self.state = CONNECTING
        self.picker: Picker = QueuePicker()
        self._report = published
        self.host = PolicyHost(
            choice.factory,
            dict(choice.config),
            dialler=dialler,
            schedule=schedule,
            publish=self._published,
            reresolve=reresolve,
        )

    def _published(self, state: ConnectivityState, picker: Picker) -> None:
        self.state, self.picker = state, picker
        self._report(self)
