"""What a filter lets through, and what it does when nothing is left."""

from __future__ import annotations

from typing import Any

import pytest

from lbkit.address import Endpoint
from lbkit_resolvers.combinators import Filter
from tests.support.combining import World, names, until_s, virtual


def backend(name: str, zone: str = "", **metadata: str) -> Endpoint:
    return Endpoint(f"{name}:1", zone=zone, metadata=metadata)


FLEET = (
    backend("a", "eu-1", version="7"),
    backend("b", "eu-2", version="6"),
    backend("c", "us-1", version="7"),
    backend("d"),
)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"zone": "eu-1"}, "a"),
        ({"zone": ("eu-1", "eu-2")}, "a b"),
        ({"version": "7"}, "a c"),
        ({"zone": ("eu-1", "eu-2"), "version": "7"}, "a"),
        ({"without": {"zone": "eu-1"}}, "b c d"),
        ({"without": {"version": ("6", "7")}}, "d"),
        ({"version": ""}, "d"),
        ({"without": {"version": ""}}, "a b c"),
        ({"zone": "eu-1", "without": {"version": "7"}}, ""),
        ({"metadata.version": "6"}, "b"),
        ({"metadata.zone": "eu-1"}, ""),
        ({"self": ""}, "a b c d"),
    ],
)
def test_conditions(options: dict[str, Any], left: str) -> None:
    @virtual
    async def run(world: World) -> None:
        out = await world.run(Filter(world.a, **options))
        world.a.says(*FLEET)
        assert names(out.answers[-1]) == left

    run()


@virtual
async def test_by_default_none_left_means_none(world: World) -> None:
    out = await world.run(Filter(world.a, zone="eu-1"))
    world.a.says(*FLEET)
    world.a.says(*FLEET[1:])
    assert [text for _, text in out.news()] == ["a", ""]


@virtual
async def test_none_left_may_mean_all(world: World) -> None:
    out = await world.run(Filter(world.a, zone="eu-9", empty="all"))
    world.a.says(*FLEET)
    assert [text for _, text in out.news()] == ["a b c d"]


@virtual
async def test_none_left_may_keep_the_last_list_and_says_what_there_is(world: World) -> None:
    out = await world.run(Filter(world.a, zone="eu-1", empty="keep"))
    world.a.says(*FLEET)
    world.a.says(*FLEET[1:])
    text = "none of 3 endpoints meets zone=eu-1; zone there is: none, eu-2, us-1; the last list stays"
    assert [text for _, text in out.news()] == ["a", f"! {text}"]
    world.a.says(*FLEET)
    assert [text for _, text in out.news()] == ["a"]


@pytest.mark.parametrize("empty", ["none", "all", "keep"])
def test_an_empty_answer_is_passed_on_in_any_case(empty: Any) -> None:
    @virtual
    async def run(world: World) -> None:
        out = await world.run(Filter(world.a, zone="eu-1", empty=empty))
        world.a.says(*FLEET)
        world.a.says()
        assert [text for _, text in out.news()] == ["a", ""]

    run()


@virtual
async def test_it_is_logged_once_that_none_is_left(world: World) -> None:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lbkit_resolvers.combinators.nested._log.warning", lambda text, *args: lines.append(text % args)
        )
        await world.run(Filter(world.a, zone="nowhere"))
        world.a.says(*(backend(str(number), f"zone-{number}") for number in range(7)))
        world.a.says(*(backend(str(number), f"zone-{number}", other="1") for number in range(7)))
        await until_s(1)
    assert lines == [
        "resolver of filter:///?of=part:///a: none of 7 endpoints meets zone=nowhere; zone there is: zone-0, zone-1, zone-2, zone-3, zone-4 and 2 more"
    ]


@virtual
async def test_conditions_that_only_together_leave_none_are_told_as_such(world: World) -> None:
    out = await world.run(Filter(world.a, zone="eu-2", version="7", empty="keep"))
    world.a.says(*FLEET)
    assert out.errors == ["none of 4 endpoints meets zone=eu-2&version=7; the last list stays"]


@virtual
async def test_source_tells_how_many_are_left_and_what_else_there_is_stays(world: World) -> None:
    out = await world.run(Filter(world.a, zone="eu-1", without={"version": "6"}))
    world.a.says(*FLEET, source="etcd, revision 4", service_config={"x": 1}, attributes={"k": 1})
    world.a.says(*FLEET[1:])
    first, second = out.answers
    assert first.source == "etcd, revision 4, 1 of 4 by zone=eu-1&version!=6"
    assert second.source == "0 of 3 by zone=eu-1&version!=6"
    assert (first.service_config, first.attributes) == ({"x": 1}, {"k": 1})


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a condition"):
        Filter("static:///a:1")
    with pytest.raises(ValueError, match="zone needs a value"):
        Filter("static:///a:1", zone=())
    with pytest.raises(ValueError, match="empty must be one of none, all, keep"):
        Filter("static:///a:1", zone="x", empty="some")  # type: ignore[arg-type]
