"""How resolvers run inside another one."""

from __future__ import annotations

import asyncio

from lbkit.backoff import BackoffPolicy
from lbkit.resolution import Resolution, Verdict
from lbkit.resolver import Resolver, Sink
from lbkit.resolving import ResolverHost
from lbkit_resolvers.combinators import Debounce, Filter, Guard, Merge
from tests.support.combining import REJECTED, Outside, Part, World, until_s, virtual
from tests.support.fakes import resolution


@virtual
async def test_a_part_that_raises_is_reported_and_started_again_after_its_own_back_off(world: World) -> None:
    class Patient(Part):
        backoff = BackoffPolicy(initial_s=7.0, jitter=0.0)

    part = Patient("p")
    out = await world.run(Guard(part))
    part.raises("no route")
    await until_s(6.9)
    assert part.starts == [0]
    await until_s(7)
    assert part.starts == [0, 7]
    assert out.news() == [(0, "! no route")]


@virtual
async def test_a_part_that_returns_is_not_started_again(world: World) -> None:
    out = await world.run(Guard(world.a))
    world.a.says("x")
    world.a.returns()
    await until_s(500)
    assert (world.a.starts, out.news()) == ([0], [(0, "x")])


@virtual
async def test_a_part_that_returns_without_an_answer_has_failed(world: World) -> None:
    out = await world.run(Guard(world.a))
    world.a.returns()
    await until_s(1)
    assert out.errors == ["part:///a ended without an answer"]


@virtual
async def test_what_the_channel_wants_is_wanted_of_every_part_within_its_own_minimum(world: World) -> None:
    out = await world.run(Merge(world.a, world.b))
    world.a.says("x")
    await until_s(2)
    world.b.says("y")
    out.want()
    await until_s(20)
    assert (world.a.asked, world.b.asked) == ([5], [7])


@virtual
async def test_an_equal_answer_goes_no_further_but_behind_an_error_it_does(world: World) -> None:
    out = await world.run(Filter(world.a, zone=""))
    world.a.says("x")
    world.a.says("x")
    world.a.fails()
    world.a.says("x")
    assert [text for _, text in out.news()] == ["x", "! down", "x"]


@virtual
async def test_a_rejection_reaches_the_part_also_when_it_repeats_itself(world: World) -> None:
    out = await world.run(Filter(world.a, zone=""))
    out.verdict = REJECTED
    assert world.a.says("x") is REJECTED
    assert world.a.says("x") is REJECTED


@virtual
async def test_a_combinator_may_be_run_again_and_knows_nothing_of_the_first_run(world: World) -> None:
    guard = Guard(world.a, max_loss=0.0, least=1)
    await world.run(guard)
    world.a.says("x", "y")
    await world.stop()
    out = await world.run(guard)
    world.a.says("x")
    assert out.news() == [(0, "x")]


@virtual
async def test_nothing_comes_out_while_it_is_cancelled(world: World) -> None:
    class Stubborn(Resolver):
        def __init__(self) -> None:
            super().__init__(world.a.target)

        async def run(self, sink: Sink) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                sink.update(resolution("late"))
                sink.fail(OSError("too late"))
                await asyncio.sleep(3)

    for combinator in (Merge(Stubborn(), world.b, wait_s=0.5), Debounce(Stubborn()), Guard(Stubborn())):
        out = await world.run(combinator)
        await world.stop()
        assert out.news() == []


@virtual
async def test_combinators_nest_and_an_error_is_told_through_all_of_them(world: World) -> None:
    out = await world.run(Filter(Guard(Merge(world.a, world.b)), zone=""))
    world.a.says("x")
    world.b.says("y")
    world.a.fails("a is down")
    world.b.fails("b is down")
    await until_s(1)
    assert out.news() == [(0, "x y"), (0, "! part:///a: a is down; part:///b: b is down")]


@virtual
async def test_it_runs_under_the_channels_host(world: World) -> None:
    got: list[str] = []

    def take(each: Resolution) -> Verdict:
        got.append(str(each.endpoints[0]))
        return REJECTED

    host = ResolverHost(
        Guard(world.a),
        clock=asyncio.get_running_loop(),
        random=Outside().random,
        update=take,
        fail=lambda error: got.append(str(error)),
    )
    host.start()
    await until_s(0)
    world.a.fails()
    assert world.a.says("x") is REJECTED
    await host.close()
    assert got == ["down", "x:1"]


def test_the_authority_is_that_of_the_first_part() -> None:
    assert Merge(Guard("dns:///one.example:80"), "dns:///two.example").authority == "one.example:80"


def test_passwords_of_the_parts_are_not_shown() -> None:
    class Etcd(Part):
        def __init__(self) -> None:
            super().__init__("x")
            self.target = self.target._replace(
                text="etcd://ann:secret@10.0.0.1/x", authority="ann:secret@10.0.0.1"
            )

    assert (
        str(Guard(Filter(Etcd(), zone="eu")).target) == "guard:///?of=filter:///?of=etcd://ann:***@10.0.0.1/x"
    )
