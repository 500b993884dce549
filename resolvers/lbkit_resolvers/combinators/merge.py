"""merge: the endpoints of several resolvers together."""

from __future__ import annotations

from lbkit.address import Endpoint
from lbkit.errors import ResolverError
from lbkit.resolution import Resolution, Verdict
from lbkit.resolver import Sink
from lbkit_resolvers.combinators.nested import Combinator, Inner, Run, Source, checked
from lbkit_resolvers.pacing import Pace


class Merge(Combinator):
    """All endpoints of all parts: ``Merge("etcd://10.0.0.5:2379/greeter", "static:///10.0.1.1:50051")``.

    They stand in the order of the parts; of two with the same addresses the first counts. A part that fails keeps its
    last list. Service config and call selector are those of the first part that has one.

    Args:
        parts: two or more.
        wait_s: seconds at most that a first answer waits for the other parts, so that a cold start is not half a fleet.

    Raises:
        ValueError: fewer than two parts, or a negative time.
    """

    scheme = "merge"

    def __init__(self, *parts: Source, wait_s: float = 2.0) -> None:
        if len(parts) < 2:
            raise ValueError("a merge needs two parts or more")
        super().__init__(*parts)
        self.wait_s = checked("wait_s", wait_s)

    async def run(self, sink: Sink) -> None:
        """Publish the union at every change of a part."""
        run = _Run(self, sink)
        try:
            await run.follow()
        finally:
            run.pace.close()


class _Run(Run):
    def __init__(self, owner: Merge, sink: Sink) -> None:
        super().__init__(owner, sink)
        self.pace = Pace(sink.clock, self._go)
        self._waiting = True
        self.wake_at(sink.clock.time() + owner.wait_s)

    def update(self, part: Inner, resolution: Resolution) -> Verdict:
        if all(each.latest is not None for each in self.parts):
            self._waiting = False
            self.wake_at(None)
        if not self._waiting and not self.over:
            self.pace.changed()
        return part.verdict

    def fail(self, part: Inner, error: Exception) -> None:
        if all(each.error is not None for each in self.parts):
            self.report(self._errors())
        elif self._waiting or self.published is not None:
            self.note(part)  # the others have an answer, or may have one soon
        else:
            self.report(self._errors())

    def due(self) -> None:
        """Wait no longer for those that have not answered."""
        self._waiting = False
        if any(part.latest is not None for part in self.parts):
            self.pace.changed()
        elif any(part.error is not None for part in self.parts):
            self.report(self._errors())

    def _go(self) -> None:
        self.publish(union([part.latest for part in self.parts if part.latest is not None]), *self.parts)

    def _errors(self) -> ResolverError:
        return ResolverError(
            "; ".join(f"{part.name}: {part.error}" for part in self.parts if part.error is not None)
        )


def union(answers: list[Resolution]) -> Resolution:
    """Put answers together; where two say different things the first counts."""
    endpoints: dict[object, Endpoint] = {}
    attributes: dict[str, object] = {}
    for answer in answers:
        for endpoint in answer.endpoints:
            endpoints.setdefault(endpoint.identity, endpoint)
        attributes = {**answer.attributes, **attributes}
    return Resolution(
        tuple(endpoints.values()),
        next((each.service_config for each in answers if each.service_config is not None), None),
        attributes,
        next((each.selector for each in answers if each.selector is not None), None),
        source=" + ".join(each.source for each in answers if each.source),
    )
