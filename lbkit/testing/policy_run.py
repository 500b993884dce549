"""One run of a balancing policy through random events, which stops at the first broken rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from lbkit.picking import Drop, Fail
from lbkit.resolution import Resolution
from lbkit.status import Status, StatusCode
from lbkit.subchannel import Subchannel
from lbkit.testing.policy_world import PolicyWorld, names_of
from lbkit.testing.scripted import CONNECTING, IDLE, READY, TRANSIENT_FAILURE

T = TypeVar("T")

_TURNS = 50  # after which a policy that asks for another one never settles
_WAITING = 8  # calls that wait at most; a further one has the oldest give up
_RUNNING = 20  # calls that run at most


class PolicyRun(PolicyWorld):
    """Has endpoints come and go, connections too, and calls picked and finished."""

    # The course of events

    def go(self) -> None:
        """Run to the end.

        Raises:
            ConformanceError: the policy breaks a rule.
        """
        fair_at = {100, 300, 1000, 3000}
        if self.options.seed % 2 == 0:
            self._no_answer()
        for number in range(1, self.options.updates + 1):
            self.number = number
            if number % 40 == 1:  # weather that lasts for a while: all is well, some fail, all are down
                self._failing = self.random.choice((0.0, 0.0, 0.3, 1.0))
            # Lists grow as the run goes on: what is wrong with two backends is reported with two.
            self.update(*self.lists.next(2 + number // 25))
            spell = 100 if self.random.random() < 0.03 else 5  # now and then the list stays for long
            for _ in range(self.random.randrange(spell)):
                self._anything()
            self.turn()
            if number in fair_at and not self._fair_now():
                fair_at.add(number + 1)
        self.recover()

    def recover(self) -> None:
        """Let every backend answer; there the channel must become READY."""
        self._failing = 0.0
        self.update("replaced", self.lists.fresh(self.options.endpoints))
        for _ in range(60):
            self.turn()
            self.call()
            self._dial(list(self.dialler.waiting))
            self._finish_attempts(self.host.in_state(CONNECTING))
            if self.host.in_state(TRANSIENT_FAILURE):
                self.clock.advance(30.0)
        self.turn()
        ready = len(self.host.in_state(READY))
        wanted = len(self.lists.listed) if self.connects_to_all else 1
        if self._state is not READY or ready < wanted:
            self.broken("recovers", f"{self._state.name} is published, {ready} are READY, of {wanted}")
        self._fair_now()
        self._raise()

    def end_calls(self) -> None:
        """Finish every call; those that wait give up."""
        self._waiting.clear()
        while self._running:
            self._finish(self._running.pop(), Status(StatusCode.OK))
        self._raise()

    def close(self) -> None:
        """Close the policy while calls are running, and look at what is left."""
        for _ in range(5):
            self.call()
        made = self.host.made
        self.history.add("close()")
        self.host.close()
        if live := list(self.host.subchannels):
            self.broken("close", f"not shut down: {names_of(live)}")
        if self.clock.pending:
            self.broken("close", f"{self.clock.pending} timers are still set")
        self.end_calls()
        self.clock.advance(1000.0)
        self._run_due()
        if self.host.made != made:
            self.broken("close", f"{self.host.made - made} subchannels were made afterwards")
        self._raise()

    # Events

    def update(self, kind: str, resolution: Resolution) -> None:
        """Deliver a list, as the channel does; an equal one is delivered alone, to see that it costs nothing."""
        if resolution == self._latest:
            self.turn()
            before = self._costs()
            self.history.add("update: the same {} once more", len(resolution.endpoints))
            self.host.update(resolution)
            idle = self._state is IDLE  # a call may have woken it, which it may publish whenever it is asked
            self.turn(look=False)
            if not idle:
                self._no_costs(before, "an equal update")
            return
        names = [str(endpoint) for endpoint in resolution.endpoints[:6]]
        more = len(resolution.endpoints) - len(names)
        self.history.add("update: {} {}{}", kind, " ".join(names), f" and {more} more" if more else "")
        self._recovered = True
        self.host.update(resolution)
        self._raise()

    def turn(self, *, look: bool = True) -> None:
        """Run the loop's turns until there is nothing to do, and look at what has come of it."""
        for _ in range(_TURNS):
            if not self.host.due:
                break
            self._run_due()
        else:
            self.broken("settles", f"it asks for one more settle() after {_TURNS} turns")
        if look and self.error is None:
            self._look()
        self._raise()

    def call(self) -> None:
        """Start a call."""
        call = self.options.make_call(self.random)
        if len(self._waiting) >= _WAITING:
            del self._waiting[0]
        if len(self._running) >= _RUNNING:
            self._finish(self._running.pop(0), Status(StatusCode.OK))
        self._attempt(call)

    def _no_answer(self) -> None:
        """Let the resolver fail before it ever had an answer."""
        self.history.add("the resolver failed")
        self.host.resolver_failed(OSError("the registry is down"))
        self._run_due()
        if not isinstance(self._ask(self.options.make_call(self.random)), (Fail, Drop)):
            self.broken("answer", "the resolver has failed and there was no answer yet, but the call waits")
        self._raise()

    def _anything(self) -> None:
        chance = self.random.random()
        if chance < 0.2:
            self._dial(self._some(list(self.dialler.waiting)))
        elif chance < 0.4:
            self._finish_attempts(self._some(self.host.in_state(CONNECTING)))
        elif chance < 0.48:
            self._lose(self._some(self.host.in_state(READY)))
        elif chance < 0.52:
            self._flap()
        elif chance < 0.6:
            seconds = self.random.choice((0.1, 1.0, 10.0, 150.0))
            self.history.add("{} s pass", seconds)
            self.clock.advance(seconds)
        elif chance < 0.7:
            for _ in range(self.random.randrange(1, 4)):
                self.call()
        elif chance < 0.78:
            for picked in self._some(self._running):
                self._running.remove(picked)
                self._finish(picked, Status(self.random.choice((StatusCode.OK, StatusCode.CANCELLED))))
        elif chance < 0.8:
            self.wake()
        else:
            self.turn()
        self._raise()

    def wake(self) -> None:
        """Have the policy leave IDLE; where it is READY, see that this costs nothing."""
        self.turn()
        before = self._costs()
        self.history.add("wake()")
        self.host.wake()
        ready = self._state is READY
        self.turn(look=False)
        if ready:
            self._no_costs(before, "wake() while READY")

    def _some(self, items: list[T]) -> list[T]:
        """Choose one of the items, a few, or all of them."""
        if not items:
            return []
        most = self.random.choice((1, 3, len(items)))
        return items if most >= len(items) else self.random.sample(items, most)

    def _dial(self, subchannels: Iterable[Subchannel]) -> None:
        for subchannel in subchannels:
            if subchannel.state is IDLE:  # else it was shut down meanwhile
                self.history.add("{} CONNECTING", subchannel.endpoint)
            self.dialler.dial(subchannel)

    def _finish_attempts(self, subchannels: Iterable[Subchannel]) -> None:
        for subchannel in subchannels:
            if self.random.random() < self._failing:
                self.history.add("{} TRANSIENT_FAILURE", subchannel.endpoint)
                self.dialler.fail(subchannel)
            else:
                self.history.add("{} READY", subchannel.endpoint)
                self._recovered = True
                self.dialler.succeed(subchannel)

    def _lose(self, subchannels: Iterable[Subchannel]) -> None:
        for subchannel in subchannels:
            self.history.add("{} lost its connection", subchannel.endpoint)
            self.dialler.lose(subchannel)

    def _flap(self) -> None:
        """Come and go within one turn of the loop."""
        for subchannel in self._some(self.host.in_state(CONNECTING)):
            self.history.add("{} READY and lost in one turn", subchannel.endpoint)
            self._recovered = True
            self.dialler.succeed(subchannel)
            self.dialler.lose(subchannel)
