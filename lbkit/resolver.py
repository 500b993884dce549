"""The resolver contract: how a plug-in turns a target into endpoints, and keeps them up to date.

The smallest resolver is a function::

    @lbkit.resolver("myscheme", refresh=30.0)
    async def resolve(target):
        return ["10.0.0.1:50051", "10.0.0.2:50051"]

A resolver that watches something is an async generator that yields lists, or a ``Resolver`` subclass.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from lbkit.address import Address, Endpoint
from lbkit.backoff import BackoffPolicy
from lbkit.clock import Clock
from lbkit.errors import ResolverError, TargetError
from lbkit.plugins import Registry, origin_of
from lbkit.resolution import Resolution, Verdict
from lbkit.target import DEFAULT_SCHEME, Target, check_parameters

if TYPE_CHECKING:
    import random

_PARSED_PER_TURN = 500  # endpoints parsed before other work on the event loop gets a turn


class Sink(ABC):
    """Where a resolver puts its answers. Made by the channel; use it on the channel's event loop only."""

    clock: Clock
    random: random.Random

    @abstractmethod
    def update(self, resolution: Resolution) -> Verdict:
        """Publish a whole new answer; it replaces the one before. An equal one costs next to nothing.

        Connections to endpoints whose addresses stay are kept, whatever else changes.
        """

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Report that no answer could be had just now.

        The last good answer stays in use. Only a channel that never had one fails its calls, with this error.
        """

    @abstractmethod
    async def wanted(self, minimum: float = 30.0, refresh: float | None = None) -> None:
        """Sleep until the channel wants a new answer, or until one is due.

        Returns when re-resolution was asked for (a connection broke or failed), though not earlier than
        ``minimum`` seconds after the last ``update`` or ``fail``; and, if ``refresh`` is given, that many seconds
        after it unasked.
        """

    async def pause(self, seconds: float | None) -> bool:
        """Sleep before trying again what failed. True if ``Channel.reset_backoff`` ended it: start over with short ones.

        Only a resolver that goes on by itself after a failure needs this: the wait of one that raises is the channel's.
        With None it sleeps until then.
        """
        if seconds is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(seconds)
        return False


# What may stand in an authority as it is (RFC 3986 3.2): unreserved, sub-delims, and those of host and port.
_AUTHORITY = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:[]@")


def authority_of(name: str | Address) -> str:
    """Return what stands in ``:authority`` for a name or an address, as the gRPC naming document has it.

    ``localhost`` for Unix sockets and for nothing, ``localhost:80`` for ``:80``; what must not stand there is
    percent-encoded.
    """
    if isinstance(name, Address):
        name = "localhost" if name.port is None else str(name)
    if not name or name.startswith(":"):
        name = f"localhost{name}"
    if set(name) <= _AUTHORITY:
        return name
    from urllib.parse import quote  # 3 ms to import, and few names need it

    return quote(name, safe="!$&'()*+,;=:[]@")


class Resolver(ABC):
    """One running resolution of one target, owned by one channel. The base of resolver plug-ins.

    ``lbkit.Channel`` makes the object when the channel is made (do no I/O in ``__init__``; raise TargetError
    there if the target makes no sense), runs ``run`` as a task when the first call or ``connect`` needs it, and
    cancels that task when the channel is closed, or idle for long. After that ``run`` may be called again.
    """

    # The query parameters it understands; None when it reads ``target.query`` in a form of its own.
    parameters: ClassVar[frozenset[str] | None] = frozenset()
    # How long the channel waits before it runs a resolver again that raised. One that asks its own control plane, and
    # spreads what it asks by itself, may wait less.
    backoff: BackoffPolicy = BackoffPolicy()

    def __init__(self, target: Target) -> None:
        self.target = target

    @property
    def authority(self) -> str:
        """What stands in ``:authority`` unless the channel is told otherwise: the name that is resolved."""
        return authority_of(self.target.path)

    @abstractmethod
    async def run(self, sink: Sink) -> None:
        """Push answers into ``sink`` for as long as they may change.

        Returning means that the last answer never changes. Raising means "report this, back off, and start me
        again": the channel waits (``backoff``: 1 s, then x1.6 up to 120 s with jitter), starting over after an accepted
        update. No resolver needs retry code of its own.

        It is cancelled when the channel closes or falls idle. When that is used again there is another run, after
        the end of this one: what belongs to one run should be in local variables.
        """


ResolverFactory: TypeAlias = Callable[[Target], Resolver]

Addresses: TypeAlias = Resolution | Iterable[str | Endpoint]

# The short forms: called again on demand and every ``refresh`` seconds, or yielding an answer per change.
ResolveFunction: TypeAlias = (
    Callable[[Target], Awaitable[Addresses]] | Callable[[Target], AsyncIterator[Addresses]]
)


class FunctionResolver(Resolver):
    """Runs a plain ``async def resolve(target)`` or async generator as a resolver."""

    def __init__(self, function: ResolveFunction, target: Target, refresh: float | None) -> None:
        super().__init__(target)
        self._function = function
        self._refresh = refresh

    async def run(self, sink: Sink) -> None:
        """Call the function again and again, or follow the generator to its end."""
        if inspect.isasyncgenfunction(self._function):
            async with aclosing(self._function(self.target)) as answers:  # its `finally` runs before ours
                async for answer in answers:
                    sink.update(await resolution_of(answer))
            return
        while True:
            answer = await self._function(self.target)  # type: ignore[misc]  # not a generator: it awaits
            verdict = sink.update(await resolution_of(answer))
            if not verdict.accepted:
                raise ResolverError(f"the answer for {self.target} was rejected: {verdict.reason}")
            await sink.wanted(refresh=self._refresh)


async def resolution_of(answer: Addresses) -> Resolution:
    """Make a Resolution of what the short forms give, yielding to the event loop every 500 endpoints.

    Raises:
        AddressError: an address cannot be read; nothing of the answer is used.
        TypeError: it is one string, where a list of them was meant.
    """
    if isinstance(answer, str):
        raise TypeError(f"a list of addresses is needed, not the one string {answer!r}")
    if isinstance(answer, Resolution):
        return answer
    endpoints: list[Endpoint] = []
    for item in answer:
        endpoints.append(item if isinstance(item, Endpoint) else Endpoint(item))
        if len(endpoints) % _PARSED_PER_TURN == 0:
            await asyncio.sleep(0)
    return Resolution(tuple(endpoints))


def _factory(plugin: object, refresh: float | None = 30.0) -> ResolverFactory:
    if inspect.isclass(plugin):
        if not issubclass(plugin, Resolver):
            raise TypeError(f"{plugin!r} must derive from lbkit.Resolver")
        return plugin
    if inspect.isasyncgenfunction(plugin) or inspect.iscoroutinefunction(plugin):
        return lambda target: FunctionResolver(plugin, target, refresh)
    raise TypeError(f"{plugin!r} must be a Resolver subclass, an async function or an async generator")


registry: Registry[ResolverFactory] = Registry("resolver", "lbkit.resolvers", _factory)

P = TypeVar("P", bound=Callable[..., Any])


def resolver(scheme: str, *, refresh: float | None = 30.0) -> Callable[[P], P]:
    """Register a resolver class, async function or async generator for a scheme.

    Args:
        scheme: lower case; ``myscheme`` serves targets ``myscheme:///...``.
        refresh: seconds after which an async function is called again unasked; None for only on demand.

    Raises:
        TypeError: what is decorated is none of the three.
    """

    def register(plugin: P) -> P:
        registry.register(scheme, _factory(plugin, refresh), origin=origin_of(plugin))
        return plugin

    return register


def make_resolver(text: str) -> Resolver:
    """Parse a target and make its resolver. Called by the channel's constructor; does no I/O.

    Raises:
        TargetError: the target cannot be understood, or has a parameter that its resolver does not know.
        UnknownPluginError: no resolver has that scheme.
    """
    target = Target.parse(text, registry)
    if target.scheme == DEFAULT_SCHEME and DEFAULT_SCHEME not in registry:
        raise TargetError(
            f"target {text!r} needs the {DEFAULT_SCHEME!r} resolver, which is not installed; "
            f"for fixed addresses write static:///{target.path}"
        )
    made = registry.get(target.scheme)(target)
    if made.parameters is not None:
        check_parameters(target, made.parameters, "resolver")
    return made
