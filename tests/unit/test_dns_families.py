"""How the answers to A and AAAA are put together."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from lbkit.errors import ResolverError
from lbkit_resolvers.dns.answers import Found, NoSuchNameError
from lbkit_resolvers.dns.families import Families, backends_of, in_order
from tests.support.virtual_loop import run_virtual

Outcome = Found | Exception
SILENT = float("inf")


def found(*addresses: str, ttl: float = 300.0) -> Found:
    return Found(addresses, ttl)


class Script:
    """Answers in turn, each after a time."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[float, Outcome]]] = {"A": [], "AAAA": []}
        self.cancelled: list[str] = []

    def say(self, kind: str, answer: Outcome, after: float = 0.0) -> None:
        self.answers[kind].append((after, answer))

    async def ask(self, name: str, kind: str) -> Found:
        assert name == "backend"
        after, answer = self.answers[kind].pop(0)
        try:
            await asyncio.sleep(after if after < SILENT else 1e9)
        except asyncio.CancelledError:
            self.cancelled.append(kind)
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer


def virtual(test: Callable[[Script, Families], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in virtual time."""

    def run() -> None:
        run_virtual(test(Script(), Families("backend", (4, 6), 2.0)))

    run.__name__ = test.__name__
    return run


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual
async def test_both_families_are_asked_at_the_same_time(script: Script, families: Families) -> None:
    script.say("A", found("10.0.0.1"), after=1.0)
    script.say("AAAA", found("2001:db8::1"), after=1.0)
    assert (await families.look_up(script.ask, now())).records == ("10.0.0.1", "2001:db8::1")
    assert now() == 1.0


@virtual
async def test_shortest_ttl_counts(script: Script, families: Families) -> None:
    script.say("A", found("10.0.0.1", ttl=60))
    script.say("AAAA", found("::2", ttl=7))
    assert (await families.look_up(script.ask, now())).ttl_s == 7


@virtual
async def test_silent_family_does_not_hold_up_the_other(script: Script, families: Families) -> None:
    script.say("A", found("10.0.0.1"), after=0.5)
    script.say("AAAA", found(), after=SILENT)
    assert (await families.look_up(script.ask, now())).records == ("10.0.0.1",)
    assert now() == 2.5
    assert script.cancelled == ["AAAA"]


@virtual
async def test_family_without_addresses_does_not_cut_the_other_short(
    script: Script, families: Families
) -> None:
    script.say("A", found())
    script.say("AAAA", found("::2"), after=9.0)
    assert (await families.look_up(script.ask, now())).records == ("::2",)


@virtual
async def test_family_that_fails_keeps_its_last_addresses(script: Script, families: Families) -> None:
    script.say("A", found("10.0.0.1"))
    script.say("AAAA", found("::2"))
    script.say("A", found("10.0.0.3"))
    script.say("AAAA", ResolverError("SERVFAIL"))
    await families.look_up(script.ask, now())
    assert (await families.look_up(script.ask, now())).records == ("10.0.0.3", "::2")


@virtual
async def test_family_that_there_is_no_more_goes(script: Script, families: Families) -> None:
    for gone in (found(), NoSuchNameError("no AAAA")):
        script.say("A", found("10.0.0.1"))
        script.say("AAAA", found("::2"))
        script.say("A", found("10.0.0.1"))
        script.say("AAAA", gone)
        await families.look_up(script.ask, now())
        assert (await families.look_up(script.ask, now())).records == ("10.0.0.1",)


@virtual
async def test_empty_is_believed_only_if_both_say_so(script: Script, families: Families) -> None:
    script.say("A", found())
    script.say("AAAA", found())
    assert (await families.look_up(script.ask, now())).records == ()
    script.say("A", found())
    script.say("AAAA", ResolverError("SERVFAIL"))
    with pytest.raises(ResolverError, match="SERVFAIL"):
        await families.look_up(script.ask, now())


@virtual
async def test_failure_that_may_pass_is_told_rather_than_a_missing_name(
    script: Script, families: Families
) -> None:
    script.say("A", NoSuchNameError("no name"))
    script.say("AAAA", ResolverError("SERVFAIL"))
    with pytest.raises(ResolverError, match="SERVFAIL"):
        await families.look_up(script.ask, now())
    script.say("A", NoSuchNameError("no name"))
    script.say("AAAA", NoSuchNameError("no name"))
    with pytest.raises(NoSuchNameError):
        await families.look_up(script.ask, now())


@virtual
async def test_what_is_no_resolver_error_comes_out(script: Script, families: Families) -> None:
    script.say("A", ZeroDivisionError())
    script.say("AAAA", found("::2"), after=1.0)
    with pytest.raises(ZeroDivisionError):
        await families.look_up(script.ask, now())


@virtual
async def test_cancelling_cancels_both_questions(script: Script, families: Families) -> None:
    script.say("A", found(), after=SILENT)
    script.say("AAAA", found(), after=SILENT)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(families.look_up(script.ask, now()), 1.0)
    assert sorted(script.cancelled) == ["A", "AAAA"]


def test_failing_family_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        script, families = Script(), Families("backend", (4, 6), 2.0)
        for answer in (
            ResolverError("SERVFAIL"),
            ResolverError("SERVFAIL"),
            found(),
            ResolverError("SERVFAIL"),
        ):
            script.say("A", found("10.0.0.1"))
            script.say("AAAA", answer)
            await families.look_up(script.ask, now())

    with caplog.at_level(logging.WARNING, logger="lbkit.resolver"):
        run_virtual(main())
    assert [record.message for record in caplog.records] == ["going on without it: SERVFAIL"] * 2


def test_one_family_alone_is_asked_alone() -> None:
    script = Script()
    script.say("AAAA", found("::2"))
    answer = run_virtual(Families("backend", (6,), 2.0).look_up(script.ask, 0.0))
    assert answer.records == ("::2",)


def test_equal_sets_are_equal_answers() -> None:
    addresses = ["10.0.0.10", "10.0.0.9", "192.168.0.1", "2001:db8::10", "2001:db8::9"]
    expected = in_order(addresses)
    for seed in range(20):
        random.Random(seed).shuffle(addresses)
        assert in_order([*addresses, addresses[0]]) == expected


def test_families_take_turns_in_numeric_order() -> None:
    assert in_order(["2001:db8::10", "10.0.0.10", "10.0.0.9", "2001:db8::9", "10.0.0.11"]) == (
        "10.0.0.9",
        "2001:db8::9",
        "10.0.0.10",
        "2001:db8::10",
        "10.0.0.11",
    )


@pytest.mark.parametrize(
    ("addresses", "backends"),
    [
        ((), ()),
        (("10.0.0.1",), (("10.0.0.1",),)),
        (("10.0.0.1", "::1"), (("10.0.0.1", "::1"),)),
        (("10.0.0.1", "10.0.0.2"), (("10.0.0.1",), ("10.0.0.2",))),
        (("::1", "::2"), (("::1",), ("::2",))),
        (("10.0.0.1", "::1", "10.0.0.2"), (("10.0.0.1",), ("::1",), ("10.0.0.2",))),
    ],
)
def test_one_address_of_each_family_is_one_backend(
    addresses: tuple[str, ...], backends: tuple[tuple[str, ...], ...]
) -> None:
    assert backends_of(addresses) == backends


def test_address_that_is_missing_is_held() -> None:
    async def main() -> list[tuple[str, ...]]:
        script, families = Script(), Families("backend", (4,), 2.0, 60.0)
        for addresses in (["10.0.0.1", "10.0.0.2"], ["10.0.0.2"], ["10.0.0.2"], []):
            script.say("A", found(*addresses))
        return [(await families.look_up(script.ask, at)).records for at in (0.0, 30.0, 90.0, 91.0)]

    both = ("10.0.0.1", "10.0.0.2")
    assert run_virtual(main()) == [both, both, ("10.0.0.2",), ("10.0.0.2",)]
