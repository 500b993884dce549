"""Which configuration applies to a channel's calls: the service config in force, or what a resolver's selector says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakSet

from lbkit.callinfo import CallInfo
from lbkit.errors import ServiceConfigError
from lbkit.resolution import UNCONFIGURED, CallConfig, CallSelector
from lbkit.service_config import EMPTY, PolicyChoice, ServiceConfig, parse

_log = logging.getLogger("lbkit.service_config")

_MOST_METHODS = 10_000  # whose configuration is looked up once; of further ones it is for each call


class Configuration:
    """Chooses the service config of a channel, answer by answer (gRFC A21).

    Args:
        target: whom the channel talks to, for the log.
        default: the application's, in force while the resolver gives none.
        listen: whether what the resolver gives counts.
        policy: what balances where the service config does not say.

    Attributes:
        active: the one in force.
    """

    def __init__(
        self, target: str, default: ServiceConfig | None, policy: PolicyChoice, *, listen: bool
    ) -> None:
        self.active = default or EMPTY
        self._target = target
        self._default = default
        self._listen = listen
        self._policy = policy
        self._chosen = default is not None  # there is one to go on with if the resolver's is wrong
        self._given: str | Mapping[str, Any] | None = None  # by the resolver, last
        self._parsed: ServiceConfig | None = None  # what that is, unless it is wrong
        self._problem = ""  # and what is wrong with it
        self._static: StaticSelector | None = None

    @property
    def policy(self) -> PolicyChoice:
        """What is to balance."""
        return self.active.policy or self._policy

    @property
    def usable(self) -> bool:
        """Whether there is a service config in force, be it an empty one. Only a first one that is wrong says no."""
        return self._chosen

    def take(self, given: str | Mapping[str, Any] | None) -> str:
        """Choose for an answer of the resolver. Return what is wrong with the service config in it; then the last stays."""
        if given is None or not self._listen:
            self.active, self._chosen = self._default or EMPTY, True
            return ""
        if given != self._given:  # polling resolvers give the same again and again
            self._parse(given)
        if self._parsed is not None:
            self.active, self._chosen = self._parsed, True
        return self._problem

    def selector(self, own: CallSelector | None) -> CallSelector | None:
        """Return what configures calls: the resolver's own selector, or a look-up; None if nothing does."""
        if own is not None or not self.active.methods:
            return own
        if self._static is None or self._static.config is not self.active:
            self._static = StaticSelector(self.active)
        return self._static

    def _parse(self, given: str | Mapping[str, Any]) -> None:
        self._given, self._parsed, self._problem = given, None, ""
        try:
            self._parsed = parse(given)
        except ServiceConfigError as error:
            self._problem = f"the resolver's service config is wrong: {error}"
            instead = "the last good one stays" if self._chosen else "calls fail until there is a good one"
            _log.warning("%s: %s; %s", self._target, self._problem, instead)


class StaticSelector:
    """Looks a call's method up in a service config.

    Args:
        config: in which.
    """

    __slots__ = ("_known", "config")

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self._known: dict[str, CallConfig] = {}

    def select(self, call: CallInfo) -> CallConfig:
        """Return what the config says about the method."""
        path = call.method
        found = self._known.get(path)
        if found is None:
            found = CallConfig(self.config.method(path))
            if len(self._known) < _MOST_METHODS:
                self._known[path] = found
        return found


class Configurable(CallInfo, Protocol):
    """A call that may begin before it is known what applies to it."""

    def configure(self) -> None:
        """Ask the channel again: it is known now."""
        ...


class Undecided:
    """The selector while the resolver has not answered: nothing applies yet, and calls ask again when it has.

    They wait for a backend meanwhile, so nothing is lost; only their own time-outs run.
    """

    def __init__(self) -> None:
        self._calls: WeakSet[Configurable] = WeakSet()  # those that end meanwhile are forgotten

    def select(self, call: Any) -> CallConfig:
        """Note the call."""
        self._calls.add(call)
        return NOTHING_YET

    def decided(self) -> None:
        """Have the calls ask again. For the channel, when it has another selector."""
        for call in list(self._calls):
            call.configure()


NOTHING_YET = CallConfig(UNCONFIGURED)
