"""When the last good list is used, and when it is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lbkit.resolution import Resolution
from lbkit_resolvers.combinators import LastGood
from lbkit_resolvers.combinators.cache import age_text
from lbkit_resolvers.combinators.store import Saved, StoreError
from tests.support.combining import REJECTED, Part, World, names, now, until_s, virtual
from tests.support.fakes import endpoints, resolution

NOON = 1_795_342_260.0  # 2026-11-22 10:11 UTC


class Memory:
    """A store that needs no thread."""

    def __init__(self, kept: Saved | None = None, *, takes_s: float = 0.0) -> None:
        self.kept = kept
        self.takes_s = takes_s
        self.problem = ""
        self.writes: list[tuple[float, str]] = []

    async def load(self) -> Saved | None:
        await asyncio.sleep(self.takes_s)
        if self.problem:
            raise StoreError(self.problem)
        return self.kept

    async def save(self, saved: Saved) -> None:
        self.writes.append((now(), names(saved.answer)))
        if self.problem:
            raise StoreError(self.problem)
        self.kept = saved


def kept(*hosts: str, at: float = NOON) -> Saved:
    return Saved(Resolution(endpoints(*hosts), source="etcd"), at)


def last_good(part: Part, store: Memory, **options: Any) -> LastGood:
    """One whose clock says noon, three hours and the virtual seconds."""
    made = LastGood(part, file="/nowhere/x.json", now=lambda: NOON + 3 * 3600 + now(), **options)
    made.store = store
    return made


@virtual
async def test_the_kept_list_is_used_when_the_part_fails(world: World) -> None:
    out = await world.run(last_good(world.a, Memory(kept("x", "y"))))
    await until_s(1)
    world.a.fails("registry down")
    assert out.news() == [(1, "x y"), (1, "! registry down")]
    assert out.answers[0].source == "last good of 2026-11-22 10:11 UTC, 3 h old, from etcd"


@virtual
async def test_the_kept_list_is_used_when_the_part_says_nothing(world: World) -> None:
    out = await world.run(last_good(world.a, Memory(kept("x")), wait_s=2.0))
    await until_s(1.9)
    assert out.news() == []
    await until_s(9)
    world.a.says("z")
    assert out.news() == [(2, "x"), (9, "z")]


@virtual
async def test_the_kept_list_is_not_used_when_the_part_answers(world: World) -> None:
    out = await world.run(last_good(world.a, Memory(kept("x"))))
    world.a.says()
    world.a.fails()
    await until_s(50)
    assert out.news() == [(0, ""), (0, "! down")]


@virtual
async def test_an_error_waits_for_the_disk_but_not_for_long(world: World) -> None:
    out = await world.run(last_good(world.a, Memory(kept("x"), takes_s=1.0)))
    world.a.fails()
    await until_s(1)
    assert out.news() == [(1, "x"), (1, "! down")]
    await world.stop()
    out = await world.run(last_good(world.a, Memory(kept("x"), takes_s=10.0)))
    world.a.fails()
    await until_s(20)
    assert out.news() == [(3, "! down"), (11, "x")]


@virtual
async def test_without_a_kept_list_the_error_is_told(world: World) -> None:
    out = await world.run(last_good(world.a, Memory()))
    world.a.fails()
    await until_s(1)
    assert out.news() == [(0, "! down")]


@virtual
async def test_a_bad_store_is_reported_and_discovery_goes_on(world: World) -> None:
    lines: list[str] = []
    store = Memory()
    store.problem = "disk on fire"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lbkit_resolvers.combinators.nested._log.warning",
            lambda text, *args: lines.append(text.partition(": ")[2] % args[1:]),
        )
        out = await world.run(last_good(world.a, store))
        for number in range(5):
            world.a.says(f"x{number}")
            await until_s(number * 10)
    assert [text for _, text in out.news()] == [f"x{number}" for number in range(5)]
    assert len(store.writes) == 5
    assert lines == ["disk on fire"] * 2  # once for reading, once for writing


@virtual
async def test_a_list_that_is_too_old_is_not_used(world: World) -> None:
    out = await world.run(last_good(world.a, Memory(kept("x")), max_age_s=2 * 3600))
    world.a.fails()
    await until_s(50)
    assert out.news() == [(0, "! down")]
    await world.stop()
    out = await world.run(last_good(world.a, Memory(kept("x")), max_age_s=4 * 3600))
    world.a.fails()
    await until_s(51)
    assert [text for _, text in out.news()] == ["x", "! down"]


@virtual
async def test_it_is_kept_when_it_has_changed_and_not_too_often(world: World) -> None:
    store = Memory()
    await world.run(last_good(world.a, store))
    world.a.says("x")
    await until_s(1)
    for number in range(100):
        world.a.says(f"y{number}")
    await until_s(100)
    world.a.fails()
    world.a.says("y99")
    await until_s(200)
    assert store.writes == [(0, "x"), (5, "y99")]
    assert store.kept is not None
    assert store.kept.at == NOON + 3 * 3600 + 5


@virtual
async def test_an_empty_answer_is_not_kept(world: World) -> None:
    store = Memory()
    await world.run(last_good(world.a, store))
    world.a.says("x")
    await until_s(10)
    world.a.says()
    await until_s(2000)
    assert {text for _, text in store.writes} == {"x"}


@virtual
async def test_an_unchanged_list_is_confirmed_now_and_then_while_all_is_well(world: World) -> None:
    store = Memory(kept("x", at=NOON + 3 * 3600))
    await world.run(last_good(world.a, store))
    await until_s(1)
    world.a.says("x")
    await until_s(1000)
    world.a.fails()
    await until_s(5000)
    assert [text for _, text in store.writes] == ["x"]
    assert 600 <= store.writes[0][0] <= 1000


@virtual
async def test_a_kept_list_of_long_ago_is_confirmed_at_once(world: World) -> None:
    store = Memory(kept("x"))
    await world.run(last_good(world.a, store))
    world.a.says("x")
    await until_s(1)
    assert store.writes == [(0, "x")]


@virtual
async def test_the_verdict_is_the_parts(world: World) -> None:
    out = await world.run(last_good(world.a, Memory()))
    out.verdict = REJECTED
    assert world.a.says("x") is REJECTED


@virtual
async def test_config_is_kept_with_the_list_and_the_rest_is_not(world: World) -> None:
    store = Memory()
    await world.run(last_good(world.a, store))
    world.a.says("x", service_config={"a": 1}, attributes={"k": 1}, source="etcd")
    await until_s(1)
    assert store.kept is not None
    assert store.kept.answer == Resolution(resolution("x").endpoints, {"a": 1})
    assert store.kept.answer.source == "etcd"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (86400 * 3 + 1, "3 d")],
)
def test_ages_are_told_in_one_unit(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="one of file and directory"):
        LastGood("static:///a:1")
    with pytest.raises(ValueError, match="one of file and directory"):
        LastGood("static:///a:1", file="x", directory="y")
    with pytest.raises(ValueError, match="max_age_s must be 0 or more"):
        LastGood("static:///a:1", file="x", max_age_s=-1)
