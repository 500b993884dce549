"""``check_registrar``: whether a registrar keeps its contract, from its constructor to its close."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

from lbkit.errors import TargetError
from lbkit.registrar import Instance, Registrar, RegistrarFactory, make_registrar, registry
from lbkit.target import Target
from lbkit.testing import making
from lbkit.testing.conformance import ConformanceError, History, complain
from lbkit.testing.leaks import Snapshot

RULES: Mapping[str, str] = {
    **making.RULES,
    "registers": "when register() returns, the registry lists the instance",
    "keeps": "keep() goes on until it is cancelled, or returns; the record stays, and nothing is raised",
    "cancel": "a cancelled register() or keep() ends promptly, and raises nothing of its own",
    "deregisters": "when deregister() returns, the registry does not list the instance any more",
    "half-way": "deregister() removes what a cancelled register() may have put, and takes it that there is nothing",
    "again": "after deregister() it can be registered again",
    "replaces": "the first register() takes the place of a record with the same id",
    "ours": "deregister() leaves what another process has put under the same id since",
    "loss": "keep() raises when the record is lost, and register() puts it again",
    "outage": "while the registry is down register() and deregister() raise, and soon",
    "leftovers": "after close() no task, thread or socket is left",
}

_PROMPTLY_S = 2.0  # what was cancelled has ended by then, on a busy machine too
_LOOK_S = 0.02  # between two looks at the registry
_KEPT_S = 0.2  # in which a record that is not kept may go
_TURNS = (0, 1, 2, 5, 10, 20)  # of the loop, after which register() is cancelled
_FIRST, _SECOND = (Instance(f"10.255.255.{n}:50051", id="check") for n in (1, 2))


async def check_registrar(
    registrar: str | RegistrarFactory,
    target: str = "",
    *,
    listed: Callable[[], Awaitable[Collection[str]]],
    lose: Callable[[], Awaitable[object]] | None = None,
    outage: Callable[[], AbstractAsyncContextManager[object]] | None = None,
    replaces: bool = True,
    patience: float = 10.0,
    unknown_parameter: str = making.UNKNOWN,
) -> None:
    """Run a registrar through its life, and fail at the first rule of the contract that it breaks.

    It is made, registers, keeps, is cancelled at once and later, deregisters and registers again; two with one id replace
    each other; and, if the test can arrange for that, its record is lost, and the registry is down.

    Args:
        registrar: a target whose registrar is registered; or a ``Registrar`` subclass or factory, and the ``target``.
        target: where to register; nobody else must be listed there.
        listed: says which addresses the registry lists under that name, as ``host:port``.
        lose: has the registry lose the record, as if it had expired.
        outage: gives an asynchronous context manager in whose block the registry is down.
        replaces: there is one record for each id. Not so in formats that have no place for an id.
        patience: seconds for what must happen.
        unknown_parameter: a query that must be refused; empty if there is none.

    Raises:
        ConformanceError: a rule is broken; says which, and what happened before.
        TargetError, PluginError: the registrar cannot be made for that target at all.
        TypeError: there is no target.
    """
    text = registrar if isinstance(registrar, str) else target
    if not text:
        raise TypeError("check_registrar(registrar, target) needs a target to make the registrar for")
    check = _Check(_maker(registrar, text), text, listed, patience)
    check.construct(unknown_parameter)
    before = Snapshot.take()
    try:
        await check.life()
        await check.half_way()
        if replaces:
            await check.same_id()
        if lose is not None:
            await check.loss(lose)
        if left := await before.left():
            check.broken("leftovers", "; ".join(left))
        if outage is not None:  # after which the registry may have other sockets of its own
            await check.outage(outage)
    finally:
        await check.end_all()


def _maker(registrar: str | RegistrarFactory, text: str) -> Callable[[str], Registrar]:
    """Return what makes the registrar of a target, as a server does."""
    if isinstance(registrar, str):
        return make_registrar
    schemes = {*registry, text.partition(":")[0].lower()}

    def make(text: str) -> Registrar:
        parsed = Target.parse(text, schemes)
        made = registrar(parsed)
        if (
            isinstance(made, Registrar)
            and made.parameters is not None
            and set(parsed.parameters()) - made.parameters
        ):
            raise TargetError(f"target {text!r} has a parameter that the registrar does not know")
        return made

    return make


class _Check:
    """The parts of the check, in the order in which they run."""

    def __init__(
        self,
        make: Callable[[str], Registrar],
        text: str,
        listed: Callable[[], Awaitable[Collection[str]]],
        patience_s: float,
    ) -> None:
        self._make = make
        self._text = text
        self._listed = listed
        self._patience_s = patience_s
        self._history = History()
        self._made: list[Registrar] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def broken(self, rule: str, details: str) -> None:
        """Fail.

        Raises:
            ConformanceError: always.
        """
        raise complain(f"registrar {self._text!r}", RULES, rule, details, [], self._history)

    def construct(self, unknown_parameter: str) -> None:
        """Make one, and look at how."""
        made = self._new()
        if not isinstance(made, Registrar):
            self.broken("constructor", f"{made!r} is no lbkit.Registrar")
        making.check_constructor(self._make, self._text, self.broken)
        making.check_parameters_of(self._make, self._text, unknown_parameter, self.broken)

    async def life(self) -> None:
        """Register, keep, be cancelled, deregister; and all of that once more."""
        one = self._new()
        for rule in ("registers", "again"):
            await self._do(rule, "register", one.register(_FIRST))
            await self._lists(rule, _FIRST)
            keeping = self._start(one.keep(_FIRST))
            await asyncio.wait({keeping}, timeout=_KEPT_S)
            if keeping.done() and keeping.exception() is not None:
                self.broken("keeps", f"it raised {keeping.exception()!r}")
            await self._lists("keeps", _FIRST)
            await self._cancel("keep", keeping)
            await self._do("deregisters", "deregister", one.deregister(_FIRST))
            await self._lists("deregisters")
        await self._close(one)

    async def half_way(self) -> None:
        """Cancel register() early and late, and deregister each time."""
        for turns in _TURNS:
            one = self._new()
            registering = self._start(one.register(_FIRST))
            for _ in range(turns):
                await asyncio.sleep(0)
            await self._cancel("register", registering)
            await self._do("half-way", "deregister", one.deregister(_FIRST))
            await self._lists("half-way")
            await self._close(one)

    async def same_id(self) -> None:
        """Register two with one id, and let the first one leave."""
        old, new = self._new(), self._new()
        await self._do("registers", "register", old.register(_FIRST))
        await self._do("replaces", "register", new.register(_SECOND))
        await self._lists("replaces", _SECOND)
        await self._do("ours", "deregister", old.deregister(_FIRST))
        await self._close(old)
        await asyncio.sleep(_KEPT_S)
        await self._lists("ours", _SECOND)
        await self._do("deregisters", "deregister", new.deregister(_SECOND))
        await self._lists("deregisters")
        await self._close(new)

    async def loss(self, lose: Callable[[], Awaitable[object]]) -> None:
        """Lose the record while it is kept."""
        one = self._new()
        await self._do("registers", "register", one.register(_FIRST))
        keeping = self._start(one.keep(_FIRST))
        await asyncio.sleep(0)
        self._history.add("the record is lost")
        await lose()
        await asyncio.wait({keeping}, timeout=self._patience_s)
        if not keeping.done() or keeping.exception() is None:
            await self._cancel("keep", keeping)
            self.broken("loss", f"keep() said nothing within {self._patience_s:g} s")
        await self._do("loss", "register", one.register(_FIRST))
        await self._lists("loss", _FIRST)
        await self._do("deregisters", "deregister", one.deregister(_FIRST))
        await self._close(one)

    async def outage(self, outage: Callable[[], AbstractAsyncContextManager[object]]) -> None:
        """Take the registry away, and give it back."""
        one, late = self._new(), self._new()
        await self._do("registers", "register", one.register(_FIRST))
        self._history.add("the registry is down")
        async with outage():
            await self._refuses("register", late.register(_SECOND))
            await self._refuses("deregister", one.deregister(_FIRST))
        self._history.add("the registry is up again")
        await self._do("outage", "register", late.register(_SECOND))
        await self._do("deregisters", "deregister", late.deregister(_SECOND))
        await self._close(one)
        await self._close(late)

    async def end_all(self) -> None:
        """End what still runs because a rule was broken."""
        tasks = {task for task in self._tasks if not task.done()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_PROMPTLY_S)
        while self._made:
            with suppress(Exception):
                await self._made.pop().close()

    def _new(self) -> Registrar:
        made = self._make(self._text)
        if isinstance(made, Registrar):
            self._made.append(made)
        return made

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        return task

    async def _close(self, one: Registrar) -> None:
        self._made.remove(one)
        await self._do("leftovers", "close", one.close())

    async def _do(self, rule: str, what: str, work: Awaitable[None]) -> None:
        """Await what must work."""
        self._history.add("{}()", what)
        try:
            async with asyncio.timeout(self._patience_s):
                await work
        except TimeoutError:
            self.broken(rule, f"{what}() did not end within {self._patience_s:g} s")
        except ConformanceError:
            raise
        except Exception as error:  # a stranger's code
            self.broken(rule, f"{what}() raised {error!r}")

    async def _refuses(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        """Have the registrar do what cannot work just now."""
        task = self._start(work)
        await asyncio.wait({task}, timeout=self._patience_s)
        if not task.done():
            self.broken("outage", f"{what}() did not end within {self._patience_s:g} s")
        if task.exception() is None:
            self.broken("outage", f"{what}() returned, as if it had worked")

    async def _cancel(self, what: str, task: asyncio.Task[None]) -> None:
        self._history.add("{}() is cancelled", what)
        task.cancel()
        await asyncio.wait({task}, timeout=_PROMPTLY_S)
        if not task.done():
            self.broken("cancel", f"{what}() goes on {_PROMPTLY_S:g} s after it was cancelled")
        if not task.cancelled() and task.exception() is not None:
            self.broken("cancel", f"{what}() raised {task.exception()!r} when it was cancelled")

    async def _lists(self, rule: str, *instances: Instance) -> None:
        """Wait until those are listed, and no others."""
        wanted = {instance.address for instance in instances}
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_s
        while (found := {*await self._listed()}) != wanted:
            if loop.time() >= until:
                self.broken(rule, f"listed are {sorted(found)}, not {sorted(wanted)}")
            await asyncio.sleep(_LOOK_S)
