"""Which losses a guard holds back, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from lbkit_resolvers.combinators import Guard
from lbkit_resolvers.combinators import guard as guard_module
from tests.support.combining import REJECTED, World, until_s, virtual

TEN = tuple("abcdefghij")


@virtual
async def test_a_small_loss_goes_through(world: World) -> None:
    out = await world.run(Guard(world.a, max_loss=0.5))
    world.a.says(*TEN)
    world.a.says(*TEN[:5])
    assert out.news() == [(0, " ".join(TEN)), (0, "a b c d e")]


@virtual
async def test_a_large_loss_is_held_back_and_reported(world: World) -> None:
    out = await world.run(Guard(world.a, max_loss=0.5, hold_s=60.0))
    world.a.says(*TEN)
    await until_s(5)
    world.a.says(*TEN[:4])
    await until_s(64)
    assert out.news() == [
        (0, " ".join(TEN)),
        (5, " ".join(TEN)),
        (
            5,
            "! 6 of 10 endpoints are gone at once, more than 50 %; they are kept for 60 s unless they come back: e:1, f:1, g:1, h:1, i:1, ...",
        ),
    ]
    assert out.answers[-1].source == "6 that are gone kept"


@virtual
async def test_the_registry_is_believed_in_the_end(world: World) -> None:
    out = await world.run(Guard(world.a, hold_s=60.0))
    world.a.says(*TEN)
    world.a.says("a", "b")
    await until_s(30)
    world.a.says("a")
    await until_s(59.9)
    news = out.news()
    assert {frozenset(text.split()) for _, text in news if "!" not in text} == {frozenset(TEN)}
    assert news[-1][1].startswith("! 9 of 10 endpoints are gone"), (
        "what was published meanwhile does not hide it"
    )
    await until_s(60)
    assert out.news() == [(60, "a")]


@virtual
async def test_an_empty_list_is_a_loss_too(world: World) -> None:
    out = await world.run(Guard(world.a, hold_s=60.0))
    world.a.says(*TEN)
    world.a.says()
    await until_s(1)
    assert out.news()[1] == (0, " ".join(TEN))
    await until_s(100)
    assert out.news() == [(60, "")]


@virtual
async def test_who_comes_back_is_counted_at_once_and_new_ones_are_listed_first(world: World) -> None:
    out = await world.run(Guard(world.a, hold_s=60.0))
    world.a.says(*TEN)
    world.a.says("new")
    assert out.news()[1] == (0, "new a b c d e f g h i j")
    world.a.says("new", *TEN[:6])
    await until_s(500)
    assert out.news() == [(0, "new a b c d e f")]


@virtual
async def test_losses_one_by_one_add_up(world: World) -> None:
    out = await world.run(Guard(world.a, max_loss=0.3, hold_s=60.0))
    for left in range(10, 0, -1):
        world.a.says(*TEN[:left])
    assert [len(text.split()) for _, text in out.news() if "!" not in text] == [10, 9, 8, 7, *[10] * 6]


@virtual
async def test_losses_of_long_ago_do_not_count(world: World) -> None:
    out = await world.run(Guard(world.a, max_loss=0.3, hold_s=60.0))
    for left in range(10, 4, -1):
        world.a.says(*TEN[:left])
        await asyncio.sleep(31)
    assert [len(text.split()) for _, text in out.news()] == [10, 9, 8, 7, 6, 5]


@virtual
async def test_behind_an_accepted_loss_the_count_begins_anew(world: World) -> None:
    out = await world.run(Guard(world.a, hold_s=60.0))
    world.a.says(*TEN)
    world.a.says(*TEN[:4])
    await until_s(61)
    world.a.says(*TEN[:2])
    assert out.news()[-1] == (61, "a b")


@virtual
async def test_a_rolling_restart_is_no_loss(world: World) -> None:
    out = await world.run(Guard(world.a, max_loss=0.5))
    fleet = list(TEN)
    world.a.says(*fleet)
    for number in range(10):
        fleet[number] = f"new{number}"
        world.a.says(*fleet)
        assert len(out.answers[-1].endpoints) == 10
    assert out.errors == []


@virtual
async def test_small_lists_are_left_alone(world: World) -> None:
    out = await world.run(Guard(world.a, least=4))
    world.a.says("a", "b", "c")
    world.a.says()
    assert [text for _, text in out.news()] == ["a b c", ""]


@virtual
async def test_it_remembers_no_more_than_a_list_may_hold(world: World) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard_module, "MAX_ENDPOINTS", 3)
        out = await world.run(Guard(world.a, max_loss=0.2, hold_s=60.0))
        world.a.says(*TEN)
        world.a.says("a")
    assert [text for _, text in out.news() if "!" not in text] == [" ".join(TEN), "a h i j"]


@virtual
async def test_errors_pass_and_change_nothing(world: World) -> None:
    out = await world.run(Guard(world.a))
    world.a.fails("first")
    world.a.says(*TEN, source="etcd")
    world.a.fails("second")
    world.a.says(source="etcd")
    assert [text[:8] for _, text in out.news()] == ["! first", "a b c d ", "! second", "a b c d ", "! 10 of "]
    assert out.answers[-1].source == "etcd, 10 that are gone kept"


@virtual
async def test_a_rejection_reaches_the_part(world: World) -> None:
    out = await world.run(Guard(world.a, hold_s=60.0))
    world.a.says(*TEN)
    world.a.says()
    out.verdict = REJECTED
    await until_s(61)
    assert world.a.says() is REJECTED
    assert world.a.says("x") is REJECTED


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="max_loss is a share from 0 to 1, not 50"):
        Guard("static:///a:1", max_loss=50)
    with pytest.raises(ValueError, match="hold_s must be 0 or more"):
        Guard("static:///a:1", hold_s=-1)
