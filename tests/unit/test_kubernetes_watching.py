"""List, watch, and what comes after each way in which those can go wrong; in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from lbkit.backoff import Backoff, BackoffPolicy
from lbkit.testing import virtual_time
from lbkit_resolvers.kubernetes.events import Event
from lbkit_resolvers.kubernetes.failures import Failure, refused
from lbkit_resolvers.kubernetes.watching import Follower, Timing
from lbkit_resolvers.records import Complaints
from tests.support.fakes import FakeSink

WHERE = "api:443, service shop/greeter"
CUT = Failure(f"{WHERE}: the connection broke", passing=True)


def status(code: int, retry_after: str | None = None) -> Failure:
    return refused(WHERE, "shop", code, {"message": "no"}, retry_after)


def item(name: str, *addresses: str, version: str = "") -> dict[str, Any]:
    return {
        "metadata": {"name": name, **({"resourceVersion": version} if version else {})},
        "addressType": "IPv4",
        "ports": [{"port": 1}],
        "endpoints": [{"addresses": [each]} for each in addresses],
    }


def event(kind: str, version: str, name: str = "a", *addresses: str) -> Event:
    return Event(kind, item(name, *addresses, version=version), version)


class Listed(NamedTuple):
    """What a list shall answer."""

    version: str
    items: list[Any]


class Watched(NamedTuple):
    """What a watch shall do: say events, and end so many seconds later."""

    events: list[Event]
    lasts_s: float = 60.0
    end: Failure | None = None


class Slow(NamedTuple):
    """A watch that is not taken up, and how many seconds it takes to say so."""

    seconds: float
    failure: Failure


class Script:
    """An API server that does what is written; then its watches go on for ever.

    Attributes:
        asked: what it was asked, when, and for what version.
    """

    where = WHERE

    def __init__(self, *steps: Listed | Watched | Slow | Failure) -> None:
        self.steps = [*steps]
        self.asked: list[tuple[str, str, float]] = []
        self.seconds: list[float] = []
        self.over = asyncio.Event()

    async def everything(self) -> tuple[list[Any], str]:
        self._note("list", "")
        step = self.steps.pop(0)
        if isinstance(step, Failure):
            raise step
        assert isinstance(step, Listed), step
        return step.items, step.version

    async def watch(
        self, version: str, seconds: float, opened: Callable[[], None]
    ) -> AsyncGenerator[Event, None]:
        self._note("watch", version)
        self.seconds.append(seconds)
        if not self.steps:
            self.over.set()
            await asyncio.Event().wait()
        step = self.steps.pop(0)
        if isinstance(step, Slow):
            await asyncio.sleep(step.seconds)
            step = step.failure
        if isinstance(step, Failure):
            raise step
        assert isinstance(step, Watched), step
        opened()
        for each in step.events:
            yield each
        await asyncio.sleep(step.lasts_s)
        if step.end is not None:
            raise step.end

    def _note(self, what: str, version: str) -> None:
        self.asked.append((what, version, asyncio.get_running_loop().time()))

    @property
    def order(self) -> list[str]:
        """What was asked, without the times."""
        return [f"{what} {version}".strip() for what, version, _ in self.asked]

    def gaps(self) -> list[float]:
        """The seconds between the questions."""
        times = [when for _, _, when in self.asked]
        return [round(b - a, 3) for a, b in pairwise(times)]


class Hasty(FakeSink):
    """Ends every pause at once, as ``Channel.reset_backoff`` does."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []

    async def pause(self, seconds: float | None) -> bool:
        self.pauses.append(seconds)
        return True


async def follow(
    script: Script, *, resync_s: float = 1800.0, port: str = "", sink: FakeSink | None = None
) -> FakeSink:
    """Follow a script to its end, as the resolver does; give what the channel heard."""
    sink = sink or FakeSink()
    sink.clock = asyncio.get_running_loop()
    follower = Follower(
        sink,
        port,
        backoff=Backoff(BackoffPolicy(jitter=0.0, maximum_s=30.0), sink.random),
        timing=Timing(),
        resync_s=resync_s,
        complaints=Complaints("kubernetes:///greeter"),
    )

    async def run() -> None:
        try:
            while True:
                try:
                    await follower.follow(script)
                except Failure as failure:
                    pause = follower.after(failure)
                await asyncio.sleep(pause)
        finally:
            follower.close()

    task = asyncio.create_task(run())
    over = asyncio.create_task(script.over.wait())
    await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.1)  # what is paced is published
    task.cancel()
    over.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return sink


@virtual_time
async def test_watch_goes_on_from_the_list_and_then_from_the_last_event() -> None:
    script = Script(
        Listed("7", [item("a", "10.0.0.1"), item("b", "10.0.0.2")]),
        Watched([event("MODIFIED", "8", "a", "10.0.0.3"), event("DELETED", "9", "b"), event("ADDED", "10", "c", "10.0.0.4")]),
    )  # fmt: skip
    sink = await follow(script)
    assert script.order == ["list", "watch 7", "watch 10"]
    assert sink.addresses == [["10.0.0.1:1", "10.0.0.2:1"], ["10.0.0.3:1", "10.0.0.4:1"]]
    assert sink.answers[0].source == f"kubernetes {WHERE}, version 7"
    assert not sink.errors


@virtual_time
async def test_bookmark_moves_the_version_and_nothing_else() -> None:
    script = Script(Listed("7", [item("a", "10.0.0.1")]), Watched([Event("BOOKMARK", {}, "99")]))
    sink = await follow(script)
    assert script.order == ["list", "watch 7", "watch 99"]
    assert len(sink.answers) == 1


@virtual_time
async def test_last_endpoint_that_goes_leaves_an_empty_answer() -> None:
    script = Script(Listed("7", [item("a", "10.0.0.1")]), Watched([event("DELETED", "8")]))
    sink = await follow(script)
    assert sink.addresses == [["10.0.0.1:1"], []]


@virtual_time
async def test_service_without_slices_is_an_empty_answer_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = await follow(Script(Listed("7", []), Watched([]), Watched([])))
    assert sink.addresses == [[]]
    assert caplog.text.count("it has no EndpointSlices; are its name and namespace right?") == 1


@virtual_time
async def test_many_changes_at_once_are_few_answers() -> None:
    changes = [event("MODIFIED", str(n), "a", f"10.0.0.{n % 200 + 1}") for n in range(8, 500)]
    sink = await follow(Script(Listed("7", [item("a", "10.0.0.1")]), Watched(changes)))
    assert len(sink.answers) == 2
    assert sink.addresses[-1] == ["10.0.0.100:1"]


@virtual_time
async def test_good_watch_that_is_cut_goes_on_at_once_and_nobody_hears_of_it() -> None:
    script = Script(Listed("7", [item("a", "10.0.0.1")]), Watched([event("MODIFIED", "8", "a", "10.0.0.2")], end=CUT), Watched([], end=CUT))  # fmt: skip
    sink = await follow(script)
    assert script.order == ["list", "watch 7", "watch 8", "watch 8"]
    assert script.gaps() == [0.0, 60.0, 60.0]
    assert not sink.errors


@pytest.mark.parametrize("at_once", [Failure("cut", passing=True), status(410)])
@virtual_time
async def test_one_watch_that_fails_at_once_is_forgiven_after_a_good_one(at_once: Failure) -> None:
    script = Script(
        Listed("7", []), Watched([], end=CUT), at_once, *([Listed("20", [])] if at_once.expired else [])
    )
    sink = await follow(script)
    assert script.gaps()[:2] == [0.0, 60.0]
    assert set(script.gaps()[2:]) == {0.0}
    assert not sink.errors


@virtual_time
async def test_expired_version_is_listed_again_and_the_list_stays() -> None:
    script = Script(Listed("7", [item("a", "10.0.0.1")]), Watched([], end=status(410)), Listed("70", [item("b", "10.0.0.2")]))  # fmt: skip
    sink = await follow(script)
    assert script.order == ["list", "watch 7", "list", "watch 70"]
    assert sink.addresses == [["10.0.0.1:1"], ["10.0.0.2:1"]]
    assert not sink.errors


@virtual_time
async def test_server_that_expires_everything_is_not_asked_in_a_loop() -> None:
    again: list[Listed | Failure] = [Listed("7", [item("a", "10.0.0.1")]), status(410)]
    script = Script(*again * 5, again[0])
    sink = await follow(script)
    assert script.gaps()[1::2] == [1.0, 1.6, 2.56, 4.096, 6.554]
    assert {str(error) for error in sink.errors} == {
        f"{WHERE}: the API server answered 410: no; listing again"
    }
    assert set(map(tuple, sink.addresses)) == {("10.0.0.1:1",)}


@virtual_time
async def test_server_that_ends_every_watch_at_once_is_not_asked_in_a_loop() -> None:
    script = Script(Listed("7", []), *[Watched([], lasts_s=0.0)] * 8)
    sink = await follow(script)
    assert script.order == ["list", *["watch 7"] * 9]
    assert script.gaps()[1:4] == [1.0, 1.6, 2.56]
    assert not sink.errors


@virtual_time
async def test_back_off_of_a_server_that_ends_every_watch_can_be_ended() -> None:
    sink = Hasty()
    await follow(Script(Listed("7", []), *[Watched([], lasts_s=0.0)] * 4), sink=sink)
    assert sink.pauses == [1.0] * 4


@pytest.mark.parametrize("failure", [Failure("silent", passing=True), Failure("silent"), status(503)])
@virtual_time
async def test_server_that_takes_its_time_to_fail_is_reported_and_asked_less_and_less(
    failure: Failure,
) -> None:
    # As long as a good watch takes, and longer.
    script = Script(Listed("7", [item("a", "10.0.0.1")]), Watched([], end=CUT), *[Slow(30.0, failure)] * 5)
    sink = await follow(script)
    waits = [gap - 30.0 for gap in script.gaps()[2:]]
    quiet = [0.0] if failure.passing else []  # the first after a good one
    assert waits == pytest.approx([*quiet, 1.0, 1.6, 2.56, 4.096, 6.5536][:5], abs=0.01)
    assert len(sink.errors) == 5 - len(quiet)


@virtual_time
async def test_back_off_starts_over_after_a_good_watch() -> None:
    script = Script(Listed("7", []), status(500), status(500), Watched([]), status(500))
    sink = await follow(script)
    assert script.gaps() == [0.0, 1.0, 1.6, 60.0, 1.0]
    assert len(sink.errors) == 3


@pytest.mark.parametrize("code", [500, 502, 503, 504])
@virtual_time
async def test_server_in_trouble_keeps_the_list_and_is_watched_from_the_same_version(code: int) -> None:
    script = Script(Listed("7", [item("a", "10.0.0.1")]), status(code), status(code))
    sink = await follow(script)
    assert script.order == ["list", "watch 7", "watch 7", "watch 7"]
    assert sink.addresses == [["10.0.0.1:1"]]
    assert [f"answered {code}" in str(error) for error in sink.errors] == [True, True]


@virtual_time
async def test_retry_after_is_obeyed() -> None:
    script = Script(status(429, "17"), Listed("7", []), status(503, "5"))
    await follow(script)
    assert script.gaps() == [17.0, 0.0, 5.0]


@virtual_time
async def test_first_refused_token_is_read_again_at_once_and_the_second_is_reported() -> None:
    script = Script(status(401), status(401), Listed("7", []))
    sink = await follow(script)
    assert script.gaps() == [0.0, 30.0, 0.0]
    assert len(sink.errors) == 1
    assert "token" in str(sink.errors[0])


@pytest.mark.parametrize("code", [403, 404])
@virtual_time
async def test_what_a_person_must_put_right_is_asked_slowly(code: int) -> None:
    script = Script(status(code), status(code), Listed("7", []))
    sink = await follow(script)
    assert script.gaps() == [30.0, 30.0, 0.0]
    assert len(sink.errors) == 2


@virtual_time
async def test_where_only_watching_is_forbidden_the_list_is_read_now_and_then() -> None:
    script = Script(Listed("7", [item("a", "10.0.0.1")]), status(403), Listed("9", [item("a", "10.0.0.2")]))
    sink = await follow(script)
    assert script.order == ["list", "watch 7", "list", "watch 9"]
    assert script.gaps() == [0.0, 30.0, 0.0]
    assert sink.addresses == [["10.0.0.1:1"], ["10.0.0.2:1"]]


@virtual_time
async def test_everything_is_listed_again_when_it_is_time() -> None:
    lists = [Listed(str(n), [item("a", f"10.0.0.{n}")]) for n in range(1, 4)]
    script = Script(
        lists[0], *[Watched([], lasts_s=300.0)] * 3, lists[1], *[Watched([], lasts_s=300.0)] * 3, lists[2]
    )
    sink = await follow(script, resync_s=800.0)
    assert [what for what in script.order if what == "list"] == ["list"] * 3
    assert sink.addresses == [["10.0.0.1:1"], ["10.0.0.2:1"], ["10.0.0.3:1"]]
    assert all(seconds <= 330.0 for seconds in script.seconds)
    assert min(script.seconds) < 300.0  # the last before the list: no longer than until then


@pytest.mark.parametrize(
    "step",
    [Listed("7", [{"metadata": {}}]), Listed("7", [7]), Listed("7", [{"metadata": {"name": 7}}])],
)
@virtual_time
async def test_list_of_something_else_keeps_the_last_one(step: Listed) -> None:
    script = Script(Listed("6", [item("a", "10.0.0.1")]), Watched([], end=status(410)), step, Listed("8", [item("a", "10.0.0.2")]))  # fmt: skip
    sink = await follow(script)
    assert ["what is no EndpointSlice" in str(error) for error in sink.errors] == [True]
    assert sink.addresses == [["10.0.0.1:1"], ["10.0.0.2:1"]]


@virtual_time
async def test_event_about_something_else_means_to_list_again() -> None:
    script = Script(Listed("7", []), Watched([Event("ADDED", {"metadata": []}, "8")]), Listed("9", []))
    sink = await follow(script)
    assert script.order == ["list", "watch 7", "list", "watch 9"]
    assert len(sink.errors) == 1


@virtual_time
async def test_list_that_cannot_be_used_is_reported_once_and_keeps_the_last_one() -> None:
    good, bad = item("a", "10.0.0.1"), {**item("a", "10.0.0.2"), "ports": None}
    other = {**bad, "metadata": {"name": "b"}}
    script = Script(
        Listed("7", [good]),
        Watched([Event("DELETED", good, "8"), Event("ADDED", other, "9")]),
        Watched([Event("MODIFIED", other, "10")]),
        Watched([Event("ADDED", good, "11")]),
    )
    sink = await follow(script)
    assert [str(error) for error in sink.errors] == [
        f"{WHERE}: nothing in 1 EndpointSlices can be used: b: it has no TCP port; write the port's number into the target"
    ]
    assert sink.addresses == [["10.0.0.1:1"], ["10.0.0.1:1"]]


@virtual_time
async def test_long_list_lets_others_have_a_turn() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    script = Script(Listed("7", [item(f"s{n}", "10.0.0.1") for n in range(100)]))
    counter = asyncio.create_task(count())
    running = asyncio.create_task(follow(script))
    await script.over.wait()
    assert turns >= 20
    counter.cancel()
    await running
    await asyncio.gather(counter, return_exceptions=True)
