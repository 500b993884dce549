"""When a debounced list is published."""

from __future__ import annotations

import pytest

from lbkit.address import Endpoint
from lbkit_resolvers.combinators import Debounce
from tests.support.combining import REJECTED, World, until_s, virtual


@virtual
async def test_the_first_answer_and_what_is_new_go_through_at_once(world: World) -> None:
    out = await world.run(Debounce(world.a, quiet_s=0.2))
    world.a.says("x")
    await until_s(1)
    world.a.says("x", "y")
    assert out.news() == [(0, "x"), (1, "x y")]


@virtual
async def test_what_is_new_comes_once_per_interval(world: World) -> None:
    out = await world.run(Debounce(world.a, quiet_s=0.2))
    for number in range(1, 6):
        world.a.says(*(f"x{each}" for each in range(number)))
    await until_s(10)
    assert out.news() == [(0, "x0"), (0.2, "x0 x1 x2 x3 x4")]


@virtual
async def test_what_is_gone_stays_until_there_is_quiet(world: World) -> None:
    out = await world.run(Debounce(world.a, quiet_s=0.2))
    world.a.says("x", "y", "z")
    await until_s(1)
    world.a.says("x", "y")
    await until_s(1.1)
    world.a.says("x")
    await until_s(1.29)
    assert out.news() == [(0, "x y z")]
    await until_s(5)
    assert out.news() == [(1.3, "x")]


@virtual
async def test_a_list_that_never_rests_is_taken_at_last(world: World) -> None:
    out = await world.run(Debounce(world.a, quiet_s=0.2, at_most_s=2.0, additions=False))
    world.a.says("x", "y")
    for tenth in range(10, 35):
        await until_s(tenth / 10)
        world.a.says("x", Endpoint("y:1", weight=tenth)) if tenth % 2 else world.a.says("x")
    assert [when for when, _ in out.news()] == [0, 3]


@virtual
async def test_what_comes_while_something_goes_does_not_wait_for_it(world: World) -> None:
    out = await world.run(Debounce(world.a, quiet_s=0.2))
    world.a.says("x", "y")
    await until_s(1)
    world.a.says("y", "z")
    await until_s(2)
    assert out.news() == [(0, "x y"), (1, "y z x"), (1.2, "y z")]


@virtual
async def test_what_comes_back_has_never_been_away(world: World) -> None:
    out = await world.run(Debounce(world.a, quiet_s=0.2))
    world.a.says("x", "y")
    await until_s(1)
    world.a.says()
    await until_s(1.1)
    world.a.says("x", "y")
    await until_s(9)
    assert out.news() == [(0, "x y")]


@virtual
async def test_an_empty_answer_is_published_late(world: World) -> None:
    out = await world.run(Debounce(world.a, quiet_s=0.2))
    world.a.says("x")
    world.a.says()
    await until_s(1)
    assert out.news() == [(0, "x"), (0.2, "")]


@virtual
async def test_additions_may_wait_as_well(world: World) -> None:
    out = await world.run(Debounce(world.a, quiet_s=0.2, additions=False))
    world.a.says("x")
    await until_s(1)
    world.a.says("x", "y")
    await until_s(1.1)
    world.a.says("x", "y", "z")
    await until_s(2)
    assert out.news() == [(0, "x"), (1.3, "x y z")]


@virtual
async def test_new_attributes_go_through_at_once(world: World) -> None:
    out = await world.run(Debounce(world.a))
    world.a.says("x", "y")
    await until_s(1)
    world.a.says(Endpoint("x:1", weight=5), service_config={"x": 1})
    newest = out.answers[-1]
    assert [each.weight for each in newest.endpoints] == [5, 1]
    assert newest.service_config == {"x": 1}


@virtual
async def test_errors_pass_and_an_equal_answer_says_that_all_is_well(world: World) -> None:
    out = await world.run(Debounce(world.a))
    world.a.says("x")
    await until_s(1)
    world.a.fails()
    world.a.says("x")
    assert out.news() == [(0, "x"), (1, "! down"), (1, "x")]


@virtual
async def test_a_rejection_is_told_at_once_or_when_the_part_repeats_itself(world: World) -> None:
    out = await world.run(Debounce(world.a, quiet_s=0.2))
    assert world.a.says("x", "y").accepted
    await until_s(1)
    out.verdict = REJECTED
    assert world.a.says("x").accepted
    await until_s(2)
    assert world.a.says("x") is REJECTED
    assert world.a.says("x", "z") is REJECTED


@virtual
async def test_what_is_taken_as_it_is_meanwhile_is_not_published_again(world: World) -> None:
    out = await world.run(Debounce(world.a, quiet_s=0.2, at_most_s=0.3))
    world.a.says("x", "y")
    await until_s(1)
    world.a.says("y", "z")
    await until_s(1.15)
    world.a.says("y", "z", "w")
    await until_s(9)
    assert out.news() == [(0, "x y"), (1, "y z x"), (1.2, "y z w x"), (1.3, "y z w")]


@virtual
async def test_what_came_and_went_before_its_turn_is_never_seen(world: World) -> None:
    out = await world.run(Debounce(world.a, quiet_s=0.2))
    world.a.says("x")
    world.a.says("x", "y")
    await until_s(0.1)
    world.a.says("x")
    await until_s(9)
    assert out.news() == [(0, "x")]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"quiet_s must be 0\.001 or more"):
        Debounce("static:///a:1", quiet_s=0)
    with pytest.raises(ValueError, match="at_most_s must be 1 or more"):
        Debounce("static:///a:1", quiet_s=1, at_most_s=0.5)
