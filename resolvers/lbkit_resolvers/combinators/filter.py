"""filter: only the endpoints that have an attribute, or have it not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

from lbkit.address import Endpoint
from lbkit.errors import ResolverError
from lbkit.resolution import Resolution, Verdict
from lbkit.resolver import Sink
from lbkit_resolvers.combinators.nested import Combinator, Inner, Run, Source, changed
from lbkit_resolvers.records import shown

Empty: TypeAlias = Literal["none", "all", "keep"]
Values: TypeAlias = str | Iterable[str]

EMPTY = ("none", "all", "keep")
METADATA = "metadata."  # before the name of an attribute that would mean something else without it
_SHOWN = 5  # values in an error


class Condition(NamedTuple):
    """What an endpoint must have, or must not have.

    Attributes:
        name: ``zone``, or a key of its metadata.
        values: any one of them will do; an endpoint without the attribute has the value ``""``.
        negated: none of them will.
    """

    name: str
    values: tuple[str, ...]
    negated: bool = False

    def value(self, endpoint: Endpoint) -> str:
        """Return what an endpoint has there."""
        if self.name == "zone":
            return endpoint.zone
        return endpoint.metadata.get(self.name.removeprefix(METADATA), "")

    def holds(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint may stay."""
        return (self.value(endpoint) in self.values) != self.negated

    def __str__(self) -> str:
        return f"{self.name}{'!' if self.negated else ''}={','.join(self.values)}"


class Filter(Combinator):
    """Passes on the endpoints that meet every condition: ``Filter(a, zone=("eu-1", "eu-2"), version="7")``.

    Args:
        of: whose endpoints.
        empty: when none of them is left: ``"none"`` publishes that there are none, ``"all"`` publishes all, ``"keep"``
            keeps the last list. If there were none to begin with, that is the answer in any case.
        without: attributes that an endpoint must not have, by name.
        attributes: those that it must have: ``zone``, or a key of its metadata (``metadata.zone`` for one of that name),
            and a value or several.

    Raises:
        ValueError: no condition, one without a value, or ``empty`` is none of the three.
    """

    scheme = "filter"

    def __init__(
        self,
        of: Source,
        /,
        *,
        empty: Empty = "none",
        without: Mapping[str, Values] | None = None,
        **attributes: Values,
    ) -> None:
        super().__init__(of)
        if empty not in EMPTY:
            raise ValueError(f"empty must be one of {', '.join(EMPTY)}, not {empty!r}")
        self.empty = empty
        self.conditions = (
            *(Condition(name, _values(name, value)) for name, value in attributes.items()),
            *(Condition(name, _values(name, value), negated=True) for name, value in (without or {}).items()),
        )
        if not self.conditions:
            raise ValueError('a filter needs a condition, like zone="eu-1"')

    async def run(self, sink: Sink) -> None:
        """Pass on what is left of each answer."""
        await _Run(self, sink).follow()


def _values(name: str, given: Values) -> tuple[str, ...]:
    values = (given,) if isinstance(given, str) else tuple(given)
    if not values:
        raise ValueError(f"{name} needs a value")
    return values


class _Run(Run):
    def __init__(self, owner: Filter, sink: Sink) -> None:
        super().__init__(owner, sink)
        self._empty = owner.empty
        self._conditions = owner.conditions
        self._complained = ""

    def update(self, part: Inner, resolution: Resolution) -> Verdict:
        found = resolution.endpoints
        left = tuple(each for each in found if all(condition.holds(each) for condition in self._conditions))
        rules = "&".join(map(str, self._conditions))
        source = f"{len(left)} of {len(found)} by {rules}"
        if resolution.source:
            source = f"{resolution.source}, {source}"
        if left or not found:
            self._complained = ""
            return self.publish(changed(resolution, left, source))
        problem = f"none of {len(found)} endpoints meets {rules}{self._there(found)}"
        if self._empty == "keep":
            self.report(ResolverError(f"{problem}; the last list stays"))
            return part.verdict
        if problem != self._complained:
            self._complained = problem
            self.log(problem)
        return self.publish(changed(resolution, found if self._empty == "all" else (), source))

    def _there(self, found: tuple[Endpoint, ...]) -> str:
        """Say what values there are of the first attribute that nobody has."""
        for condition in self._conditions:
            if not any(condition.holds(each) for each in found):
                values = sorted({condition.value(each) for each in found})
                listed = ", ".join(shown(value) or "none" for value in values[:_SHOWN])
                more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
                return f"; {condition.name} there is: {listed}{more}"
        return ""
