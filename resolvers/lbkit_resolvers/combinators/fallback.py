"""fallback: the first resolver that has an answer, in the user's order."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Literal, NamedTuple, TypeAlias

from lbkit.errors import ResolverError
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolver import Sink
from lbkit_resolvers.combinators.nested import Combinator, Inner, Run, Source, changed, checked

Empty: TypeAlias = Literal["next", "final"]

EMPTY = ("next", "final")


class Rules(NamedTuple):
    """When a part is used.

    Attributes:
        hold_s: seconds for which the list of a part that fails stays in use.
        back_s: seconds for which an earlier part must have been good before it is used again.
        wait_until: until then, by the clock, a first answer waits for the parts before it.
    """

    hold_s: float
    back_s: float
    wait_until: float


class Standing(NamedTuple):
    """What one part has said.

    Attributes:
        silent: nothing yet.
        usable: its last answer can be used, as far as that answer goes.
        good_since: since when that is so without an error.
        failing_since: when it first failed after that answer.
    """

    silent: bool = True
    usable: bool = False
    good_since: float = inf
    failing_since: float = inf


class Choice(NamedTuple):
    """Whose answer to use; None for nobody's. And when to choose again, if nothing happens before."""

    part: int | None
    again_at: float


def choose(parts: Sequence[Standing], current: int | None, now: float, rules: Rules) -> Choice:
    """Decide whose answer to use.

    The part in use stays while it is usable and has not failed for long; an earlier one replaces it when that has been
    good for a while, so that nobody is sent to and fro with every update.
    """
    usable = [each.usable and now < each.failing_since + rules.hold_s for each in parts]
    if current is not None and usable[current]:
        again_at = parts[current].failing_since + rules.hold_s
        for number, each in enumerate(parts[:current]):
            back_at = each.good_since + rules.back_s
            if now >= back_at:
                return Choice(number, _next_look(parts, number, rules))
            again_at = min(again_at, back_at)
        return Choice(current, again_at)
    first = next((number for number, good in enumerate(usable) if good), None)
    if first is None and (current is None or not parts[current].usable):
        # An old list of one that fails is better than one that was withdrawn.
        first = next((number for number, each in enumerate(parts) if each.usable), None)
    if first is None:
        return Choice(None, rules.wait_until if now < rules.wait_until else inf)
    if current is None and now < rules.wait_until and any(each.silent for each in parts[:first]):
        return Choice(None, rules.wait_until)
    return Choice(first, _next_look(parts, first, rules) if usable[first] else inf)


def _next_look(parts: Sequence[Standing], chosen: int, rules: Rules) -> float:
    backs = [each.good_since + rules.back_s for each in parts[:chosen]]
    return min([parts[chosen].failing_since + rules.hold_s, *backs])


class Fallback(Combinator):
    """The answer of the first part that has one: ``Fallback("etcd://10.0.0.5:2379/greeter", "dns:///greeter:50051")``.

    All parts run all the time, so that the next one has its answer when it is needed.

    Args:
        parts: two or more, the best one first.
        wait_s: seconds at most that a first answer waits for the parts before it that have said nothing yet.
        hold_s: seconds for which the list of the part in use stays when that fails; ``math.inf`` for as long as it
            does. An error at the start, without a list, goes to the next part at once.
        back_s: seconds for which an earlier part must have been good again before it replaces a later one.
        empty: what an answer without endpoints means: ``"next"``, as if it had none, or ``"final"``: there are none.

    Raises:
        ValueError: fewer than two parts, a negative time, or ``empty`` is neither.
    """

    scheme = "fallback"

    def __init__(
        self,
        *parts: Source,
        wait_s: float = 2.0,
        hold_s: float = 60.0,
        back_s: float = 10.0,
        empty: Empty = "next",
    ) -> None:
        if len(parts) < 2:
            raise ValueError("a fallback needs two parts or more")
        super().__init__(*parts)
        if empty not in EMPTY:
            raise ValueError(f"empty must be one of {', '.join(EMPTY)}, not {empty!r}")
        self.wait_s = checked("wait_s", wait_s)
        self.hold_s = checked("hold_s", hold_s)
        self.back_s = checked("back_s", back_s)
        self.empty = empty

    async def run(self, sink: Sink) -> None:
        """Pass on the answers of the part in use."""
        await _Run(self, sink).follow()


class _Run(Run):
    def __init__(self, owner: Fallback, sink: Sink) -> None:
        super().__init__(owner, sink)
        self._empty = owner.empty
        self._rules = Rules(owner.hold_s, owner.back_s, sink.clock.time() + owner.wait_s)
        self._standings = [Standing() for _ in self.parts]
        self._current: int | None = None
        self.wake_at(self._rules.wait_until)

    def update(self, part: Inner, resolution: Resolution) -> Verdict:
        number = self.parts.index(part)
        before = self._standings[number]
        usable = bool(resolution.endpoints) or self._empty == "final"
        good_since = min(before.good_since, self.sink.clock.time()) if usable else inf
        self._standings[number] = Standing(silent=False, usable=usable, good_since=good_since)
        part.verdict = ACCEPTED  # unless it is published now
        self._decide(part)
        if self.published is None and not self._hope():
            self._despair()
        return part.verdict

    def fail(self, part: Inner, error: Exception) -> None:
        number = self.parts.index(part)
        before = self._standings[number]
        failing_since = min(before.failing_since, self.sink.clock.time())
        self._standings[number] = before._replace(silent=False, good_since=inf, failing_since=failing_since)
        self._decide(None)
        nobody = self.published is None and not self._hope()
        if nobody or all(each.error is not None for each in self.parts):
            self._despair()  # in the same words whoever was the last, so that it is no news each time
        elif number == self._current:
            self.report(ResolverError(f"{part.name}: {error}"))
        else:
            self.note(part)

    def due(self) -> None:
        """Choose again, as time has passed."""
        self._decide(None)
        if self.published is None and not self._hope():
            self._despair()

    def _decide(self, news: Inner | None) -> None:
        """Choose, and publish if that is another part, or the chosen one has news."""
        choice = choose(self._standings, self._current, self.sink.clock.time(), self._rules)
        self.wake_at(None if choice.again_at == inf else choice.again_at)
        if choice.part is None:
            answers = [part.latest for part in self.parts]
            if news is not None and all(answer is not None and not answer.endpoints for answer in answers):
                self._publish(0)  # all of them say that there are none
            return
        part = self.parts[choice.part]
        if choice.part != self._current or part is news:
            if self._current is not None and choice.part != self._current:
                self.log(f"from {self.parts[self._current].name} to {part.name}")
            self._current = choice.part
            self._publish(choice.part)

    def _publish(self, number: int) -> None:
        part = self.parts[number]
        answer = part.latest
        assert answer is not None, "only a part with an answer is chosen"
        if number:
            answer = changed(
                answer, answer.endpoints, f"{answer.source or part.name}, instead of {self.parts[0].name}"
            )
        self.publish(answer, part)

    def _hope(self) -> bool:
        """Whether somebody may still answer soon."""
        waiting = self.sink.clock.time() < self._rules.wait_until
        return waiting and any(part.silent for part in self.parts)

    def _despair(self) -> None:
        """Tell the sink why there is no answer; silence is no reason yet."""
        said = [f"{part.name}: {part.error or 'no endpoints'}" for part in self.parts if not part.silent]
        if said:
            self.report(ResolverError("; ".join(said)))
