"""guard: a registry that suddenly knows of few backends is not believed at once."""

from __future__ import annotations

from collections.abc import Hashable

from lbkit.address import Endpoint
from lbkit.errors import ResolverError
from lbkit.resolution import Resolution, Verdict
from lbkit.resolver import Sink
from lbkit_resolvers.combinators.nested import Combinator, Inner, Run, Source, changed, checked
from lbkit_resolvers.records import MAX_ENDPOINTS

_SHOWN = 5  # endpoints in the report


class Guard(Combinator):
    """Keeps what is suddenly gone, for a while: ``Guard(a, max_loss=0.3, hold_s=120.0)``.

    Counted are the endpoints that are listed now, and those that were listed within the last ``hold_s`` and are not any
    more. When more than ``max_loss`` of them all are gone, they stay in the list, behind those that are listed, until
    enough of them are back, or until ``hold_s`` have passed: then the registry is believed.

    Args:
        of: whose lists.
        max_loss: the share that may go unhindered, from 0 to 1.
        hold_s: seconds for which the rest is kept, and over which losses are added up.
        least: with fewer endpoints than that it does nothing.

    Raises:
        ValueError: ``max_loss`` is not between 0 and 1, or another is negative.
    """

    scheme = "guard"

    def __init__(self, of: Source, *, max_loss: float = 0.5, hold_s: float = 60.0, least: int = 4) -> None:
        super().__init__(of)
        if not 0 <= max_loss <= 1:
            raise ValueError(f"max_loss is a share from 0 to 1, not {max_loss!r}")
        self.max_loss = max_loss
        self.hold_s = checked("hold_s", hold_s)
        self.least = int(checked("least", least))

    async def run(self, sink: Sink) -> None:
        """Pass answers on, with what they lack."""
        await _Run(self, sink).follow()


class _Run(Run):
    def __init__(self, owner: Guard, sink: Sink) -> None:
        super().__init__(owner, sink)
        self._owner = owner
        self._latest = Resolution(())
        self._gone: dict[Hashable, tuple[Endpoint, float]] = {}  # lately, oldest first, and when
        self._held_until: float | None = None

    def update(self, part: Inner, resolution: Resolution) -> Verdict:
        now = self.sink.clock.time()
        self._note(resolution, now)
        if not self._too_many():
            self._held_until = None
            self.wake_at(None)
            return self.publish(resolution)
        kept = tuple(endpoint for endpoint, _ in self._gone.values())
        source = f"{resolution.source}, " if resolution.source else ""
        verdict = self.publish(
            changed(resolution, resolution.endpoints + kept, f"{source}{len(kept)} that are gone kept")
        )
        if self._held_until is None:
            self._held_until = now + self._owner.hold_s
            self.wake_at(self._held_until)
        self.report(self._explain(kept))  # each time, for an answer says that all is well
        return verdict

    def due(self) -> None:
        """Believe it: it had time to think."""
        self.log(f"{len(self._gone)} endpoints are still gone after {self._owner.hold_s:g} s: accepted")
        self._held_until = None
        self._gone = {}
        self.publish(self._latest, *self.parts)

    def _note(self, resolution: Resolution, now: float) -> None:
        """Keep account of who is gone."""
        listed = {endpoint.identity for endpoint in resolution.endpoints}
        since = now - self._owner.hold_s
        gone = {
            identity: (endpoint, when)
            for identity, (endpoint, when) in self._gone.items()
            if identity not in listed and (when > since or self._held_until is not None)
        }
        for endpoint in self._latest.endpoints:
            if endpoint.identity not in listed:
                gone[endpoint.identity] = endpoint, now
        for identity in list(gone)[: max(0, len(gone) - MAX_ENDPOINTS)]:
            del gone[identity]
        self._gone = gone
        self._latest = resolution

    def _too_many(self) -> bool:
        known = len(self._latest.endpoints) + len(self._gone)
        return known >= self._owner.least and len(self._gone) > self._owner.max_loss * known

    def _explain(self, kept: tuple[Endpoint, ...]) -> ResolverError:
        known = len(self._latest.endpoints) + len(kept)
        names = ", ".join(map(str, kept[:_SHOWN])) + (", ..." if len(kept) > _SHOWN else "")
        return ResolverError(
            f"{len(kept)} of {known} endpoints are gone at once, more than {self._owner.max_loss * 100:g} %; "
            f"they are kept for {self._owner.hold_s:g} s unless they come back: {names}"
        )
