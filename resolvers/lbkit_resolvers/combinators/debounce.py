"""debounce: what comes is published at once, what goes only when the list has come to rest."""

from __future__ import annotations

from lbkit.resolution import Resolution, Verdict
from lbkit.resolver import Sink
from lbkit_resolvers.combinators.nested import Combinator, Inner, Run, Source, checked, with_missing
from lbkit_resolvers.pacing import Pace


class Debounce(Combinator):
    """Collects the changes of a list that is in motion: ``Debounce(a, quiet_s=0.5)``.

    The first answer goes through at once. After that new endpoints and new attributes do so too, at most once every
    ``quiet_s``; those that are gone stay until nothing has changed for ``quiet_s``.

    Args:
        of: whose changes.
        quiet_s: seconds without a change after which the list is taken as it is.
        at_most_s: seconds after which it is taken in any case, counted from the first change.
        additions: ``False`` makes what is new wait as well.

    Raises:
        ValueError: a time is not positive, or ``at_most_s`` is less than ``quiet_s``.
    """

    scheme = "debounce"

    def __init__(
        self, of: Source, *, quiet_s: float = 0.2, at_most_s: float = 2.0, additions: bool = True
    ) -> None:
        super().__init__(of)
        self.quiet_s = checked("quiet_s", quiet_s, least=0.001)
        self.at_most_s = checked("at_most_s", at_most_s, least=quiet_s)
        self.additions = additions

    async def run(self, sink: Sink) -> None:
        """Pass answers on, late where they take something away."""
        run = _Run(self, sink)
        try:
            await run.follow()
        finally:
            run.pace.close()


class _Run(Run):
    def __init__(self, owner: Debounce, sink: Sink) -> None:
        super().__init__(owner, sink)
        self.pace = Pace(sink.clock, self._go, owner.quiet_s)
        self._owner = owner
        self._latest = Resolution(())
        self._changing_since: float | None = None

    def update(self, part: Inner, resolution: Resolution) -> Verdict:
        self._latest = resolution
        if self.over:
            return part.verdict
        if self.published is None:
            self.pace.changed()
            return part.verdict
        now = self.sink.clock.time()
        soon = self._soon()
        if soon is resolution:
            self._changing_since = None
            self.wake_at(None)
        else:
            if self._changing_since is None:
                self._changing_since = now
            self.wake_at(min(now + self._owner.quiet_s, self._changing_since + self._owner.at_most_s))
        if soon != self.published or self.failing:
            self.pace.changed()
        return part.verdict

    def due(self) -> None:
        """Take the list as it is."""
        self._changing_since = None
        self.publish(self._latest, *self.parts)

    def _soon(self) -> Resolution:
        """Return what may be published now: the latest answer itself if that takes nothing away."""
        published = self.published
        if published is None or published == self._latest:
            return self._latest
        return with_missing(self._latest, published.endpoints) if self._owner.additions else published

    def _go(self) -> None:
        soon = self._soon()
        if soon != self.published or self.failing:
            self.publish(soon, *self.parts)
