"""Whatever the parts do, no list is emptied, and no error published, that nobody ordered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbkit.resolver import Resolver
from lbkit_resolvers.combinators import Debounce, Fallback, Filter, Guard, LastGood, Merge
from tests.support.combining import Part, World, virtual
from tests.unit.test_combinator_last_good import Memory, kept

HOSTS = st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=6, unique=True)
STEPS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.one_of(
            st.tuples(st.just("says"), HOSTS),
            st.tuples(st.just("empty"), st.none()),
            st.tuples(st.sampled_from(["fails", "raises"]), st.none()),
        ),
        st.sampled_from([0.0, 0.05, 0.3, 1.0, 5.0, 70.0]),
    ),
    max_size=25,
)


def of_memory(part: Part) -> LastGood:
    made = LastGood(part, file="/nowhere")
    made.store = Memory(kept("k"))
    return made


def one(made: Callable[[Part], Resolver]) -> Callable[[World], Resolver]:
    return lambda world: made(world.a)


KINDS: dict[str, tuple[Callable[[World], Resolver], str]] = {
    "fallback": (lambda world: Fallback(world.a, world.b, world.c), "abc"),
    "merge": (lambda world: Merge(world.a, world.b, world.c), "abc"),
    "filter": (one(lambda part: Filter(part, zone="", empty="keep")), "a"),
    "debounce": (one(Debounce), "a"),
    "guard": (one(lambda part: Guard(part, least=1)), "a"),
    "last-good": (one(of_memory), "a"),
    "all of them": (
        lambda world: of_memory(Guard(Debounce(Merge(Fallback(world.a, world.b), world.c)), least=1)),  # type: ignore[arg-type]
        "abc",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_nobody_empties_a_list_without_the_word_of_a_part(kind: str, steps: list[Any]) -> None:
    make, used = KINDS[kind]

    @virtual
    async def run(world: World) -> None:
        out = await world.run(make(world))
        emptied = False  # somebody said that there are none
        last: dict[str, set[str]] = {}
        for name, (what, hosts), pause in steps:
            part: Part = getattr(world, name)
            if name in used and part.alive:
                if what == "says":
                    part.says(*hosts)
                    last[name] = set(hosts)
                elif what == "empty":
                    part.says()
                    emptied = True
                    last[name] = set()
                elif what == "fails":
                    part.fails()
                else:
                    part.raises()
            await asyncio.sleep(pause)
            assert emptied or all(answer.endpoints for answer in out.answers)
        await asyncio.sleep(500)
        if kind == "merge" and last:
            assert there_of(out) == set().union(*last.values())
        if kind in {"filter", "debounce", "guard"} and last:
            assert there_of(out) == last["a"]
        if kind == "fallback" and any(last.values()):
            assert there_of(out) in last.values()

    run()


def there_of(out: Any) -> set[str]:
    return {each.addresses[0].host for each in out.answers[-1].endpoints}
