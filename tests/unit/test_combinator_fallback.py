"""Whose answer a fallback uses, and when it changes its mind."""

from __future__ import annotations

from math import inf

import pytest

from lbkit.resolution import ACCEPTED
from lbkit_resolvers.combinators import Fallback
from lbkit_resolvers.combinators.fallback import Choice, Rules, Standing, choose
from tests.support.combining import REJECTED, World, until_s, virtual


@virtual
async def test_the_first_that_answers_is_used_and_followed(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b))
    world.b.says("b1")
    world.a.says("a1")
    world.a.says("a1", "a2")
    world.b.says("b2")
    await until_s(100)
    assert out.news() == [(0, "a1"), (0, "a1 a2")]


@virtual
async def test_a_cold_start_waits_for_the_first_for_a_while(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b, wait_s=2.0))
    world.b.says("b1")
    await until_s(1.9)
    assert out.news() == []
    await until_s(2)
    assert out.news() == [(2, "b1")]


@virtual
async def test_a_first_that_fails_at_the_start_is_not_waited_for(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b))
    world.b.says("b1")
    world.a.fails()
    assert out.news() == [(0, "b1")]


@virtual
async def test_a_first_that_answers_later_is_used_when_it_has_been_good_for_a_while(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b, back_s=10.0))
    world.a.fails()
    world.b.says("b1")
    await until_s(5)
    world.a.says("a1")
    await until_s(9)
    world.a.fails()
    await until_s(11)
    world.a.says("a1")
    await until_s(20.9)
    assert out.news() == [(0, "b1")]
    await until_s(21)
    assert out.news() == [(21, "a1")]


@virtual
async def test_a_first_that_answers_is_used_at_once_where_the_next_is_not_good(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b))
    world.a.fails()
    world.b.fails()
    world.a.says("a1")
    assert out.news()[1:] == [(0, "a1")]


@virtual
async def test_the_list_of_a_first_that_fails_stays_for_a_while(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b, hold_s=60.0))
    world.a.says("a1")
    world.b.says("b1")
    await until_s(10)
    world.a.fails("registry down")
    await until_s(30)
    world.a.fails("registry down")
    await until_s(69.9)
    assert [text for _, text in out.news()] == ["a1", *["! part:///a: registry down"] * 2]
    await until_s(70)
    assert out.news() == [(70, "b1")]


@virtual
async def test_an_equal_answer_behind_the_error_ends_its_time(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b, hold_s=60.0))
    world.a.says("a1")
    world.b.says("b1")
    world.a.fails()
    await until_s(59)
    world.a.says("a1")
    await until_s(500)
    assert {text for _, text in out.news()} == {"a1", "! part:///a: down"}


@virtual
async def test_with_hold_for_ever_only_an_empty_answer_leads_away(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b, hold_s=inf))
    world.a.says("a1")
    world.b.says("b1")
    world.a.fails()
    await until_s(100_000)
    assert [text for _, text in out.news()] == ["a1", "! part:///a: down"]
    world.a.says()
    assert [text for _, text in out.news()] == ["b1"]


@virtual
async def test_an_empty_answer_of_the_first_leads_to_the_next_at_once(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b))
    world.a.says("a1")
    world.b.says("b1")
    world.a.says()
    assert [text for _, text in out.news()] == ["a1", "b1"]


@virtual
async def test_an_empty_answer_is_final_if_the_user_says_so(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b, empty="final"))
    world.b.says("b1")
    world.a.says()
    await until_s(100)
    assert out.news() == [(0, "")]


@virtual
async def test_the_list_stays_when_the_first_is_empty_and_the_next_fails(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b))
    world.a.says("a1")
    world.b.fails()
    world.a.says()
    await until_s(1000)
    assert [text for _, text in out.news()] == ["a1"]


@virtual
async def test_when_all_say_that_there_are_none_that_is_the_answer(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b))
    world.a.says("a1")
    world.b.says()
    world.a.says()
    assert [text for _, text in out.news()] == ["a1", ""]
    world.b.says("b1")
    assert [text for _, text in out.news()] == ["b1"]


@virtual
async def test_calls_fail_when_nobody_has_an_answer_and_the_error_names_all(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b))
    world.a.fails("no route")
    assert out.news() == []
    world.b.says()
    assert out.news() == [(0, "! part:///a: no route; part:///b: no endpoints")]


@virtual
async def test_silence_is_taken_for_an_answer_when_the_wait_is_over(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b, wait_s=2.0))
    world.a.fails("no route")
    await until_s(3)
    assert out.news() == [(2, "! part:///a: no route")]


@virtual
async def test_if_nobody_says_anything_nothing_is_said(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b))
    await until_s(1000)
    assert out.news() == []


@virtual
async def test_errors_of_a_part_that_is_not_in_use_are_not_the_channels(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b))
    world.a.fails()
    world.b.says("b1")
    world.a.fails()
    assert out.news() == [(0, "b1")]


def test_an_error_of_a_part_that_is_not_in_use_is_logged_once_until_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @virtual
    async def run(world: World) -> None:
        await world.run(Fallback(world.a, world.b))
        world.a.says("a1")
        for _ in range(3):
            world.b.fails()
        world.b.says("b1")
        world.b.fails()
        world.b.fails("away")

    run()
    said = [record.getMessage().partition("&b=part:///b: ")[2] for record in caplog.records]
    assert said == ["part:///b: down", "part:///b: down", "part:///b: away"]


@virtual
async def test_when_all_fail_the_last_list_stays(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b, hold_s=1.0))
    world.a.says("a1")
    world.b.says("b1")
    world.b.fails()
    world.a.fails()
    await until_s(1000)
    both = "! part:///a: down; part:///b: down"
    assert [text for _, text in out.news()] == ["a1", both]
    world.b.fails()
    world.a.fails()
    assert {text for _, text in out.news()} == {both}  # that it is the same, a channel sees by the text


@virtual
async def test_an_old_list_of_one_that_fails_is_better_than_one_that_was_withdrawn(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b, hold_s=1.0))
    world.a.says("a1")
    world.b.says("b1")
    world.a.fails()
    await until_s(100)
    world.b.says()
    await until_s(200)
    assert [text for _, text in out.news()] == ["a1", "! part:///a: down", "b1", "a1"]


@virtual
async def test_it_does_not_follow_a_first_that_flaps(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b, back_s=10.0))
    world.b.says("b1")
    for second in range(0, 60, 3):
        await until_s(second)
        world.a.says("a1")
        world.a.says()
    assert [text for _, text in out.news()] == ["a1", "b1"]


@virtual
async def test_the_earliest_good_one_of_three_is_used(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b, world.c, back_s=10.0))
    world.a.fails()
    world.b.fails()
    world.c.says("c1")
    await until_s(1)
    world.b.says("b1")
    await until_s(5)
    world.a.says("a1")
    await until_s(100)
    assert out.news() == [(0, "c1"), (11, "b1"), (15, "a1")]


@virtual
async def test_a_rejection_reaches_the_part_in_use_only(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b))
    out.verdict = REJECTED
    assert world.a.says("a1") is REJECTED
    assert world.a.says("a1") is REJECTED
    assert world.b.says("b1") is ACCEPTED


@virtual
async def test_source_tells_that_it_is_not_the_first(world: World) -> None:
    out = await world.run(Fallback(world.a, world.b))
    world.a.says("a1", source="etcd, revision 4", service_config={"x": 1})
    world.b.says("b1", source="dns")
    world.a.says()
    assert [each.source for each in out.answers] == ["etcd, revision 4", "dns, instead of part:///a"]
    assert out.answers[0].service_config == {"x": 1}


GOOD = Standing(silent=False, usable=True, good_since=0.0)
EMPTY = Standing(silent=False)
SILENT = Standing()
RULES = Rules(hold_s=60.0, back_s=10.0, wait_until=2.0)


def failing(since: float) -> Standing:
    return Standing(silent=False, usable=True, failing_since=since)


@pytest.mark.parametrize(
    ("parts", "current", "now", "choice"),
    [
        ([SILENT, SILENT], None, 0.0, Choice(None, 2.0)),
        ([SILENT, GOOD], None, 1.0, Choice(None, 2.0)),
        ([SILENT, GOOD], None, 2.0, Choice(1, inf)),
        ([EMPTY, GOOD], None, 0.0, Choice(1, inf)),
        ([failing(5.0), GOOD], None, 6.0, Choice(0, 65.0)),
        ([failing(5.0), GOOD], 0, 64.0, Choice(0, 65.0)),
        ([failing(5.0), GOOD], 0, 65.0, Choice(1, inf)),
        ([failing(5.0), failing(9.0)], 0, 66.0, Choice(1, 69.0)),
        ([failing(5.0), failing(9.0)], 1, 70.0, Choice(None, inf)),
        ([failing(5.0), EMPTY], 1, 70.0, Choice(0, inf)),
        ([failing(5.0), EMPTY], 0, 70.0, Choice(None, inf)),
        ([EMPTY, failing(5.0)], None, 70.0, Choice(1, inf)),
        ([GOOD, GOOD], 1, 9.0, Choice(1, 10.0)),
        ([GOOD, GOOD], 1, 10.0, Choice(0, inf)),
        ([GOOD, EMPTY], 1, 0.0, Choice(0, inf)),
        ([failing(5.0), GOOD], 1, 20.0, Choice(1, inf)),
        ([EMPTY, EMPTY], 0, 20.0, Choice(None, inf)),
    ],
)
def test_choice(parts: list[Standing], current: int | None, now: float, choice: Choice) -> None:
    assert choose(parts, current, now, RULES) == choice


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="two parts or more"):
        Fallback("static:///a:1")
    with pytest.raises(ValueError, match="hold_s must be 0 or more"):
        Fallback("static:///a:1", "static:///b:1", hold_s=-1)
    with pytest.raises(ValueError, match="next, final, not 'never'"):
        Fallback("static:///a:1", "static:///b:1", empty="never")  # type: ignore[arg-type]
