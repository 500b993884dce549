"""What a merge makes of several lists."""

from __future__ import annotations

from typing import Any

import pytest

from lbkit.address import Endpoint
from lbkit.resolution import Resolution
from lbkit_resolvers.combinators import Merge
from lbkit_resolvers.combinators.merge import union
from tests.support.combining import REJECTED, World, until_s, virtual
from tests.support.fakes import endpoints, resolution


@virtual
async def test_all_endpoints_in_the_order_of_the_parts(world: World) -> None:
    out = await world.run(Merge(world.a, world.b))
    world.b.says("y", "x")
    assert out.news() == []
    world.a.says("z")
    await until_s(1)
    world.b.says("y")
    assert out.news() == [(0, "z y x"), (1, "z y")]


@virtual
async def test_a_cold_start_waits_for_all_parts_for_a_while(world: World) -> None:
    out = await world.run(Merge(world.a, world.b, wait_s=2.0))
    world.a.says("x")
    await until_s(1.9)
    assert out.news() == []
    await until_s(5)
    world.b.says("y")
    assert out.news() == [(2, "x"), (5, "x y")]


@virtual
async def test_a_part_that_fails_at_the_start_may_still_answer_within_the_wait(world: World) -> None:
    out = await world.run(Merge(world.a, world.b))
    world.b.fails()
    world.a.says("x")
    await until_s(1)
    world.b.says("y")
    assert out.news() == [(1, "x y")]


@virtual
async def test_a_part_that_fails_keeps_its_last_list(world: World) -> None:
    out = await world.run(Merge(world.a, world.b))
    world.a.says("x")
    world.b.says("y")
    world.b.fails()
    await until_s(1)
    world.a.says("x2")
    assert out.news() == [(0, "x y"), (1, "x2 y")]


def test_an_error_of_one_part_is_logged_once_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    @virtual
    async def run(world: World) -> None:
        await world.run(Merge(world.a, world.b))
        world.a.says("x")
        for _ in range(3):
            world.b.fails()
        world.b.says("y")
        world.b.fails()

    run()
    said = [record.getMessage().partition("&b=part:///b: ")[2] for record in caplog.records]
    assert said == ["part:///b: down", "part:///b: down"]


@virtual
async def test_an_empty_part_is_an_answer(world: World) -> None:
    out = await world.run(Merge(world.a, world.b))
    world.a.says()
    world.b.says("y")
    await until_s(1)
    world.b.says()
    assert out.news() == [(0, "y"), (1, "")]


@virtual
async def test_when_all_fail_before_an_answer_the_error_names_all(world: World) -> None:
    out = await world.run(Merge(world.a, world.b))
    world.a.fails("no route")
    assert out.news() == []
    world.b.fails("no name")
    assert out.news() == [(0, "! part:///a: no route; part:///b: no name")]


@virtual
async def test_behind_the_wait_silence_does_not_hide_an_error(world: World) -> None:
    out = await world.run(Merge(world.a, world.b))
    world.a.fails("no route")
    await until_s(3)
    world.a.fails("no route at all")
    assert out.news() == [(2, "! part:///a: no route"), (3, "! part:///a: no route at all")]


@virtual
async def test_the_first_answer_behind_the_wait_is_published_at_once(world: World) -> None:
    out = await world.run(Merge(world.a, world.b))
    await until_s(7)
    world.b.says("y")
    assert out.news() == [(7, "y")]


@virtual
async def test_it_is_good_again_behind_a_failure_of_all(world: World) -> None:
    out = await world.run(Merge(world.a, world.b))
    world.a.says("x")
    world.b.says("y")
    world.a.fails()
    world.b.fails()
    await until_s(1)
    world.a.says("x")
    assert [text for _, text in out.news()] == ["x y", "! part:///a: down; part:///b: down", "x y"]


@virtual
async def test_many_changes_make_few_publications(world: World) -> None:
    out = await world.run(Merge(world.a, world.b))
    world.b.says("y")
    for number in range(1000):
        world.a.says(f"x{number}")
        await until_s(number / 1000)
    await until_s(2)
    assert len(out.log) <= 21
    assert out.log[-1][1] == "x999 y"


@virtual
async def test_a_rejection_is_told_to_all_parts(world: World) -> None:
    out = await world.run(Merge(world.a, world.b))
    world.a.says("x")
    out.verdict = REJECTED
    assert world.b.says("y") is REJECTED
    assert world.a.says("x") is REJECTED


def test_of_two_with_the_same_addresses_the_first_counts() -> None:
    one, two = Endpoint("x:1", weight=3), Endpoint("x:1", zone="eu")
    merged = union([Resolution((one,)), Resolution((two, *endpoints("y")))])
    assert merged.endpoints == (one, *endpoints("y"))


def test_what_else_the_answers_carry_is_the_firsts_that_has_it() -> None:
    selector: Any = object()
    merged = union([
        Resolution(endpoints("x"), None, {"k": 1}, source="one"),
        Resolution(endpoints("y"), {"c": 2}, {"k": 2, "l": 2}, source="two"),
        Resolution(endpoints("z"), {"c": 3}, selector=selector),
    ])  # fmt: skip
    assert (merged.service_config, dict(merged.attributes)) == ({"c": 2}, {"k": 1, "l": 2})
    assert merged.selector is selector
    assert merged.source == "one + two"


def test_nothing_makes_nothing() -> None:
    assert union([resolution(), resolution()]) == resolution()


def test_one_part_is_too_few() -> None:
    with pytest.raises(ValueError, match="two parts or more"):
        Merge("static:///a:1")
