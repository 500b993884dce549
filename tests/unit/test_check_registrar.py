"""``check_registrar`` catches a registrar that breaks a rule, every rule."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lbkit.errors import TargetError, UnknownPluginError
from lbkit.registrar import Instance, Registrar, RegistrarFactory
from lbkit.target import Target
from lbkit.testing import ConformanceError, check_registrar, registry
from lbkit.testing.registrars import RULES

TARGET = "check:///greeter"


class Book:
    """A registry: by id the address, and who has put it."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[str, object]] = {}
        self.down = False
        self.lost = asyncio.Event()
        self.ghosts: list[str] = []

    async def listed(self) -> list[str]:
        return [address for address, _ in self.entries.values()] + self.ghosts

    async def lose(self) -> None:
        self.entries.clear()
        self.lost.set()

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.down = True
        yield
        self.down = False
        self.entries.clear()  # they expired


class Good(Registrar):
    """Keeps to all rules."""

    book: Book

    async def register(self, instance: Instance) -> None:
        await self.ask()
        self.book.entries[instance.id] = instance.address, self
        await asyncio.sleep(0)

    async def keep(self, instance: Instance) -> None:
        while instance.id in self.book.entries:
            await self.book.lost.wait()
            self.book.lost.clear()
        raise ConnectionError("lost")

    async def deregister(self, instance: Instance) -> None:
        await self.ask()
        if self.book.entries.get(instance.id, (None, None))[1] is self:
            del self.book.entries[instance.id]

    async def ask(self) -> None:
        await asyncio.sleep(0)
        if self.book.down:
            raise ConnectionError("no route")


# What is broken, by rule.


class NeedsALoop(Good):
    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.loop = asyncio.get_running_loop()


class IsSlow(Good):
    def __init__(self, target: Target) -> None:
        super().__init__(target)
        time.sleep(0.15)


class TakesAnything(Good):
    parameters = None


class RaisesSomethingElse(Good):
    def __init__(self, target: Target) -> None:
        super().__init__(target)
        if target.query:
            raise KeyError(target.query)


class PutsNothing(Good):
    async def register(self, instance: Instance) -> None:
        await self.ask()


class CannotRegister(Good):
    async def register(self, instance: Instance) -> None:
        raise ConnectionError("never")


class KeepsByRaising(Good):
    async def keep(self, instance: Instance) -> None:
        raise ConnectionError("what now")


class LetsItExpire(Good):
    async def keep(self, instance: Instance) -> None:
        self.book.entries.clear()
        await asyncio.Event().wait()


class DoesNotEnd(Good):
    async def keep(self, instance: Instance) -> None:
        until = asyncio.get_running_loop().time() + 3.0
        while (left := until - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue


class RaisesWhenCancelled(Good):
    async def keep(self, instance: Instance) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("on the way out") from None


class StaysListed(Good):
    async def deregister(self, instance: Instance) -> None:
        await self.ask()


class OnlyOnce(Good):
    async def register(self, instance: Instance) -> None:
        if hasattr(self, "did"):
            raise RuntimeError("once is enough")
        self.did = True
        await super().register(instance)


class RemovesWhatItKnows(Good):
    known = False

    async def register(self, instance: Instance) -> None:
        await super().register(instance)
        self.known = True

    async def deregister(self, instance: Instance) -> None:
        if self.known:
            await super().deregister(instance)


class NeedsARecord(Good):
    async def deregister(self, instance: Instance) -> None:
        await self.ask()
        del self.book.entries[instance.id]


class ListsBoth(Good):
    async def register(self, instance: Instance) -> None:
        before = self.book.entries.get(instance.id)
        await super().register(instance)
        if before is not None:
            self.book.ghosts.append(before[0])


class RemovesAnybodys(Good):
    async def deregister(self, instance: Instance) -> None:
        await self.ask()
        self.book.entries.pop(instance.id, None)


class HearsOfNothing(Good):
    async def keep(self, instance: Instance) -> None:
        await asyncio.Event().wait()


class WaitsForIt(Good):
    async def ask(self) -> None:
        while self.book.down:  # noqa: ASYNC110 -- a test's own
            await asyncio.sleep(0.01)
        await super().ask()


class PretendsItWorked(Good):
    async def ask(self) -> None:
        await asyncio.sleep(0)

    async def register(self, instance: Instance) -> None:
        if not self.book.down:
            await super().register(instance)


class LeavesATask(Good):
    async def close(self) -> None:
        self.tasks = [asyncio.create_task(asyncio.sleep(1.0))]


def no_registrar(target: Target) -> Any:
    return object()


BROKEN: list[tuple[str, RegistrarFactory]] = [
    ("constructor", no_registrar),
    ("constructor", NeedsALoop),
    ("constructor", IsSlow),
    ("parameters", TakesAnything),
    ("parameters", RaisesSomethingElse),
    ("registers", PutsNothing),
    ("registers", CannotRegister),
    ("keeps", KeepsByRaising),
    ("keeps", LetsItExpire),
    ("cancel", DoesNotEnd),
    ("cancel", RaisesWhenCancelled),
    ("deregisters", StaysListed),
    ("again", OnlyOnce),
    ("half-way", RemovesWhatItKnows),
    ("half-way", NeedsARecord),
    ("replaces", ListsBoth),
    ("ours", RemovesAnybodys),
    ("loss", HearsOfNothing),
    ("outage", WaitsForIt),
    ("outage", PretendsItWorked),
    ("leftovers", LeavesATask),
]


@pytest.fixture
async def book(monkeypatch: pytest.MonkeyPatch) -> Book:
    found = Book()
    monkeypatch.setattr(Good, "book", found, raising=False)
    return found


async def check(registrar: RegistrarFactory, book: Book) -> None:
    await check_registrar(
        registrar, TARGET, listed=book.listed, lose=book.lose, outage=book.outage, patience=1.0
    )


def test_every_rule_is_broken_by_somebody() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULES)


async def test_a_registrar_that_keeps_all_rules_passes(book: Book) -> None:
    await check(Good, book)


@pytest.mark.may_leak("task", reason="what some of them leave behind is what they are caught for")
@pytest.mark.parametrize(("rule", "registrar"), BROKEN, ids=lambda each: getattr(each, "__name__", each))
async def test_a_broken_rule_is_named(rule: str, registrar: RegistrarFactory, book: Book) -> None:
    with pytest.raises(
        ConformanceError, match=f"registrar 'check:///greeter' breaks the rule '{rule}'"
    ) as caught:
        await check(registrar, book)
    assert caught.value.rule == rule


async def test_what_happened_before_is_told(book: Book) -> None:
    with pytest.raises(ConformanceError) as caught:
        await check(RemovesAnybodys, book)
    assert str(caught.value).endswith("    register()\n    register()\n    deregister()\n    close()")


async def test_without_ids_replacing_is_not_looked_at(book: Book) -> None:
    await check_registrar(ListsBoth, TARGET, listed=book.listed, replaces=False)


async def test_targets_that_make_no_sense_are_not_the_registrars_fault(book: Book) -> None:
    with pytest.raises(TypeError, match="needs a target"):
        await check_registrar(Good, listed=book.listed)
    with pytest.raises(UnknownPluginError):
        await check_registrar("nosuch:///greeter", listed=book.listed)
    with pytest.raises(TargetError):
        await check_registrar(Good, "check:///a b", listed=book.listed)


@pytest.mark.parametrize("codec", ["etcd", "kratos", "gozero"])
async def test_the_registrar_of_etcd_keeps_the_rules(codec: str) -> None:
    async with registry() as etcd:

        async def listed() -> list[str]:
            addresses = (f"10.255.255.{n}:50051" for n in (1, 2))
            values = [value.decode() for value in etcd.items().values()]
            return [each for each in addresses if any(each in value for value in values)]

        async def lose() -> None:
            for lease in etcd.leases:
                etcd.expire(lease)

        @asynccontextmanager
        async def outage() -> AsyncIterator[None]:
            await etcd.stop()
            yield
            await etcd.start(forget=True)

        await check_registrar(
            f"{etcd.target('greeter')}?codec={codec}&ttl=2s",
            listed=listed,
            lose=lose,
            outage=outage,
            replaces=codec != "gozero",
        )
