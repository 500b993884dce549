from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from lbkit.errors import AddressError, TargetError
from lbkit.resolution import ACCEPTED, Verdict
from lbkit.resolver import make_resolver
from lbkit_resolvers.manual import Manual
from tests.support.fakes import FakeSink, resolution

REJECTED = Verdict(accepted=False, reason="no")


@asynccontextmanager
async def following(backends: Manual, *verdicts: Verdict) -> AsyncIterator[FakeSink]:
    """Follow the handle as a channel does."""
    sink = FakeSink(verdicts)
    task = asyncio.create_task(make_resolver(backends.target).run(sink))
    await asyncio.sleep(0)
    try:
        yield sink
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(follower.sink is not sink for follower in backends._followers)


def in_thread(*steps: Callable[[], object]) -> None:
    """Run the steps in another thread, without letting this loop run meanwhile."""
    thread = threading.Thread(target=lambda: [step() for step in steps])
    thread.start()
    thread.join()


@pytest.fixture
def backends(request: pytest.FixtureRequest) -> Manual:
    """A handle whose name no other test has: a failed test keeps its handle alive."""
    return Manual(request.node.name)


def test_target_names_the_handle() -> None:
    assert Manual("greeter").target == "manual:///greeter"


@pytest.mark.parametrize("name", ["a b", "/a", "a?b#c", "ä", "%41", "a/b"])
def test_any_name_can_stand_in_a_target(name: str) -> None:
    backends = Manual(name)
    assert make_resolver(backends.target).target.path == name


def test_name_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match="needs a name"):
        Manual("")


def test_second_live_handle_of_a_name_is_refused() -> None:
    backends = Manual("greeter")
    with pytest.raises(ValueError, match=r"a Manual\('greeter'\) is alive already"):
        Manual("greeter")
    assert repr(backends) == "Manual('greeter')"


def test_name_is_free_when_handle_and_resolvers_are_gone() -> None:
    backends = Manual("greeter")
    resolver = make_resolver(backends.target)
    del backends
    gc.collect()
    with pytest.raises(ValueError, match="alive already"):
        Manual("greeter")
    del resolver
    gc.collect()
    Manual("greeter")


def test_unknown_name_says_the_nearest_and_how_to_make_one() -> None:
    backends = Manual("greeter")
    with pytest.raises(TargetError) as caught:
        make_resolver("manual:///greter")
    assert str(caught.value) == (
        "target 'manual:///greter': there is no Manual('greter'). Did you mean 'greeter'? Make it first, and keep it: "
        "backends = Manual('greter'), from lbkit_resolvers.manual"
    )
    del backends


async def test_update_has_arrived_when_it_returns(backends: Manual) -> None:
    async with following(backends) as sink:
        assert not sink.answers
        assert backends.update(["a:1"]) is ACCEPTED
        assert sink.addresses == [["a:1"]]
        answer = resolution("a", "b")
        backends.update(answer)
        assert sink.answers[-1] is answer
        backends.update(answer.endpoints[:1])
        assert sink.addresses[-1] == ["a:1"]


async def test_all_channels_follow(backends: Manual) -> None:
    async with following(backends) as one, following(backends) as two:
        backends.update(["a:1"])
        assert one.addresses == two.addresses == [["a:1"]]


async def test_first_rejection_is_returned(backends: Manual) -> None:
    other = Verdict(accepted=False, reason="other")
    async with following(backends, ACCEPTED), following(backends, REJECTED), following(backends, other):
        assert backends.update([]) is REJECTED


async def test_same_resolution_again_is_judged_again(backends: Manual) -> None:
    answer = resolution()
    async with following(backends, REJECTED, REJECTED):
        assert backends.update(answer) is REJECTED
        assert backends.update(answer) is REJECTED


async def test_later_channel_gets_the_last_answer_at_once(backends: Manual) -> None:
    backends.update(["a:1"])
    backends.update(["b:1"])
    async with following(backends) as sink:
        assert sink.addresses == [["b:1"]]
    async with following(backends) as sink:
        assert sink.addresses == [["b:1"]]


async def test_failure_keeps_the_answer(backends: Manual) -> None:
    error = OSError("registry is down")
    backends.update(["a:1"])
    async with following(backends) as early:
        backends.fail(error)
        assert early.errors == [error]
        assert len(early.answers) == 1
        async with following(backends) as late:
            assert late.addresses == [["a:1"]]
            assert late.errors == [error]
        backends.update(["b:1"])
    async with following(backends) as sink:
        assert sink.addresses == [["b:1"]]
        assert not sink.errors


async def test_bad_address_changes_nothing(backends: Manual) -> None:
    backends.update(["a:1"])
    async with following(backends) as sink:
        with pytest.raises(AddressError):
            backends.update(["b:1", "c"])
        with pytest.raises(TypeError, match="not the one string 'b:1'"):
            backends.update("b:1")
        assert sink.addresses == [["a:1"]]


async def test_update_of_another_thread_arrives_next_turn(backends: Manual) -> None:
    async with following(backends) as sink:
        in_thread(lambda: backends.update(["a:1"]), lambda: backends.fail(OSError("down")))
        assert not sink.answers
        await asyncio.sleep(0)
        assert sink.addresses == [["a:1"]]
        assert len(sink.errors) == 1


async def test_late_delivery_never_brings_back_an_older_answer(backends: Manual) -> None:
    async with following(backends) as sink:
        in_thread(lambda: backends.update(["old:1"]))
        backends.update(["new:1"])
        await asyncio.sleep(0)
        assert sink.addresses == [["new:1"]]


async def test_late_delivery_to_a_channel_that_left_is_dropped(backends: Manual) -> None:
    sink = FakeSink()
    task = asyncio.create_task(make_resolver(backends.target).run(sink))
    await asyncio.sleep(0)
    task.cancel()
    in_thread(lambda: backends.update(["a:1"]))
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert not sink.answers


def test_loop_closed_under_its_channel_harms_nobody(backends: Manual) -> None:
    run = make_resolver(backends.target).run(FakeSink())

    async def start() -> None:
        run.send(None)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    loop.close()
    assert len(backends._followers) == 1
    assert backends.update(["a:1"]) is ACCEPTED
    run.close()
    assert not backends._followers
