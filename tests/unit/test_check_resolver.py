"""``check_resolver`` catches a resolver that breaks a rule, every rule."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from lbkit.address import Endpoint
from lbkit.errors import ResolverError, TargetError, UnknownPluginError
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver, Sink
from lbkit.target import Target
from lbkit.testing import ConformanceError, check_resolver, virtual_time
from lbkit.testing.resolver_run import RULES

TARGET = "check:///greeter"
BACKENDS = ["10.0.0.1:1", "10.0.0.2:1"]


def answer(*addresses: str) -> Resolution:
    return Resolution(tuple(Endpoint(address) for address in addresses or BACKENDS))


class Fixed(Resolver):
    """Keeps to all rules: one answer, and back."""

    async def run(self, sink: Sink) -> None:
        sink.update(answer())


class Source:
    """What a resolver asks; it can be down."""

    def __init__(self) -> None:
        self.down = False
        self.lookups = 0

    async def ask(self) -> list[str]:
        self.lookups += 1
        await asyncio.sleep(0)
        if self.down:
            raise ConnectionError("no route")
        return BACKENDS

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.down = True
        yield
        self.down = False


async def polls(target: Target) -> list[str]:
    return BACKENDS


async def watches(target: Target) -> AsyncIterator[list[str]]:
    yield BACKENDS
    await asyncio.Event().wait()


# What is broken, by rule.


class NeedsALoop(Fixed):
    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.loop = asyncio.get_running_loop()


class ReadsAFile(Fixed):
    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.text = Path(__file__).read_text()


class Slow(Fixed):
    def __init__(self, target: Target) -> None:
        super().__init__(target)
        until = time.perf_counter() + 0.11
        while time.perf_counter() < until:
            pass


class TakesAnything(Fixed):
    parameters = None


class DiesOfParameters(Fixed):
    parameters = None

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        if target.query:
            raise KeyError(target.query)


class Silent(Fixed):
    async def run(self, sink: Sink) -> None:
        await asyncio.Event().wait()


class Returns(Fixed):
    async def run(self, sink: Sink) -> None:
        return


class Raises(Fixed):
    async def run(self, sink: Sink) -> None:
        raise ResolverError("nobody is there")


class RaisesLater(Fixed):
    async def run(self, sink: Sink) -> None:
        sink.update(answer())
        await sink.wanted()
        raise KeyError("leader")


class PublishesAList(Fixed):
    async def run(self, sink: Sink) -> None:
        sink.update(cast("Resolution", BACKENDS))


class PublishesAListOfEndpoints(Fixed):
    async def run(self, sink: Sink) -> None:
        sink.update(Resolution(cast("Any", list(answer().endpoints))))


class PublishesText(Fixed):
    async def run(self, sink: Sink) -> None:
        sink.update(Resolution(cast("Any", tuple(BACKENDS))))


class ListsTwice(Fixed):
    async def run(self, sink: Sink) -> None:
        sink.update(answer("10.0.0.1:1", "10.0.0.2:1", "10.0.0.1:1"))


class Other(Fixed):
    async def run(self, sink: Sink) -> None:
        sink.update(answer("10.0.0.9:1"))


class Turns(Fixed):
    """The order of each answer is another, as that of DNS servers."""

    async def run(self, sink: Sink) -> None:
        order = list(BACKENDS)
        while True:
            sink.update(answer(*order))
            order.reverse()
            await sink.wanted()


class Differences(Fixed):
    """Publishes what is new instead of all there is."""

    async def run(self, sink: Sink) -> None:
        sink.update(answer())
        await sink.wanted()
        sink.update(Resolution(()))
        await sink.wanted()


class FailsWithText(Fixed):
    async def run(self, sink: Sink) -> None:
        sink.fail(cast("Exception", "no route"))


class WantsBackwards(Fixed):
    async def run(self, sink: Sink) -> None:
        sink.update(answer())
        await sink.wanted(minimum=-1.0)


class RefreshesAlways(Fixed):
    async def run(self, sink: Sink) -> None:
        sink.update(answer())
        await sink.wanted(refresh=0.0)


class Spins(Fixed):
    async def run(self, sink: Sink) -> None:
        while True:
            sink.update(answer())
            await asyncio.sleep(0)


class SpinsWithoutAwait(Fixed):
    async def run(self, sink: Sink) -> None:
        while True:
            with suppress(Exception):
                sink.update(answer())


class SpinsWhenRejected(Fixed):
    async def run(self, sink: Sink) -> None:
        while True:
            if sink.update(answer()).accepted:
                return
            await asyncio.sleep(0.001)


class Deaf(Fixed):
    """Takes its cancellation for an error."""

    async def run(self, sink: Sink) -> None:
        sink.update(answer())
        for _ in range(2):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue


class RaisesWhenCancelled(Fixed):
    async def run(self, sink: Sink) -> None:
        sink.update(answer())
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("not connected")


class LeavesATask(Fixed):
    async def run(self, sink: Sink) -> None:
        self.task = asyncio.create_task(asyncio.sleep(3600), name="renew the lease")
        LITTER.append(self.task.cancel)
        sink.update(answer())


class LeavesASocket(Fixed):
    async def run(self, sink: Sink) -> None:
        self.sock = socket.socket()
        LITTER.append(self.sock.close)
        sink.update(answer())


class LeavesAThread(Fixed):
    async def run(self, sink: Sink) -> None:
        over = threading.Event()
        thread = threading.Thread(target=over.wait, name="watcher")
        thread.start()

        def end() -> None:
            over.set()
            thread.join()

        LITTER.append(end)
        sink.update(answer())


class RunsOnce(Fixed):
    """Uses up what its constructor made."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.answers = iter([answer()])

    async def run(self, sink: Sink) -> None:
        for each in self.answers:
            sink.update(each)


class OtherAnswerTheSecondTime(Fixed):
    runs = 0

    async def run(self, sink: Sink) -> None:
        self.runs += 1
        sink.update(answer() if self.runs == 1 else answer("10.0.0.9:1"))


LITTER: list[Callable[[], object]] = []

BROKEN: list[tuple[str, Any]] = [
    ("constructor", NeedsALoop),
    ("constructor", ReadsAFile),
    ("constructor", Slow),
    ("constructor", lambda target: FakeResolver()),
    ("parameters", TakesAnything),
    ("parameters", DiesOfParameters),
    ("answers", Silent),
    ("answers", Returns),
    ("answers", Raises),
    ("answers", RaisesLater),
    ("valid", PublishesAList),
    ("valid", PublishesAListOfEndpoints),
    ("valid", PublishesText),
    ("valid", ListsTwice),
    ("expected", Other),
    ("stable", Turns),
    ("stable", Differences),
    ("sink", FailsWithText),
    ("sink", WantsBackwards),
    ("sink", RefreshesAlways),
    ("pace", Spins),
    ("pace", SpinsWithoutAwait),
    ("pace", SpinsWhenRejected),
    ("cancel", Deaf),
    ("cancel", RaisesWhenCancelled),
    ("leftovers", LeavesATask),
    ("leftovers", LeavesASocket),
    ("leftovers", LeavesAThread),
    ("again", RunsOnce),
    ("again", OtherAnswerTheSecondTime),
]


class FakeResolver:
    parameters = frozenset[str]()


async def clean_up() -> None:
    """End what a resolver left behind."""
    while LITTER:
        LITTER.pop()()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def failure(resolver: Any, **options: Any) -> ConformanceError:
    with pytest.raises(ConformanceError) as caught:
        await check_resolver(resolver, TARGET, **options)
    return caught.value


@pytest.mark.parametrize(("rule", "resolver"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
@virtual_time
async def test_broken_resolver_is_caught_by_its_rule(rule: str, resolver: Any) -> None:
    error = await failure(resolver, expect=BACKENDS)
    await clean_up()
    assert error.rule == rule, error


# With a source that goes down.


class Down:
    """Resolvers that differ in what they do when the source is down."""

    def __init__(self, source: Source) -> None:
        self.source = source

    async def raises(self, target: Target) -> list[str]:
        return await self.source.ask()

    async def empties(self, target: Target) -> list[str]:
        try:
            return await self.source.ask()
        except ConnectionError:
            return []

    async def hides(self, target: Target) -> list[str]:
        with suppress(ConnectionError):
            await self.source.ask()
        return BACKENDS

    async def spins(self, target: Target) -> list[str]:
        while True:
            with suppress(ConnectionError):
                return await self.source.ask()

    def reports(self, target: Target) -> Resolver:
        source = self.source

        class Reports(Resolver):
            async def run(self, sink: Sink) -> None:
                while True:
                    try:
                        sink.update(answer(*await source.ask()))
                    except ConnectionError as error:
                        sink.fail(error)
                    await sink.wanted()

        return Reports(target)

    def clears(self, target: Target) -> Resolver:
        source = self.source

        class Clears(Resolver):
            async def run(self, sink: Sink) -> None:
                while True:
                    try:
                        sink.update(answer(*await source.ask()))
                    except ConnectionError as error:
                        sink.fail(error)
                        sink.update(Resolution(()))
                    await sink.wanted()

        return Clears(target)

    def gives_up(self, target: Target) -> Resolver:
        source = self.source

        class GivesUp(Resolver):
            async def run(self, sink: Sink) -> None:
                with suppress(ConnectionError):
                    while True:
                        sink.update(answer(*await source.ask()))
                        await sink.wanted()

        return GivesUp(target)

    def reports_without_pause(self, target: Target) -> Resolver:
        source = self.source

        class ReportsWithoutPause(Resolver):
            async def run(self, sink: Sink) -> None:
                while True:
                    try:
                        sink.update(answer(*await source.ask()))
                        await sink.wanted()
                    except ConnectionError as error:
                        sink.fail(error)

        return ReportsWithoutPause(target)

    def stays_down(self, target: Target) -> Resolver:
        source = self.source

        class StaysDown(Resolver):
            failed = False

            async def run(self, sink: Sink) -> None:
                while not self.failed:
                    try:
                        sink.update(answer(*await source.ask()))
                        await sink.wanted()
                    except ConnectionError:
                        self.failed = True
                raise ConnectionError

        return StaysDown(target)


@pytest.mark.parametrize("name", ["raises", "reports"])
@virtual_time
async def test_resolver_that_says_that_its_source_is_down_passes(name: str) -> None:
    source = Source()
    await check_resolver(
        getattr(Down(source), name), TARGET, outage=source.outage, lookups=lambda: source.lookups
    )


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("outage", "empties"),
        ("outage", "hides"),
        ("outage", "clears"),
        ("outage", "gives_up"),
        ("outage", "stays_down"),
        ("pace", "reports_without_pause"),
    ],
)
@virtual_time
async def test_resolver_that_does_wrong_in_an_outage_is_caught(rule: str, name: str) -> None:
    source = Source()
    error = await failure(getattr(Down(source), name), outage=source.outage, lookups=lambda: source.lookups)
    assert error.rule == rule, error


async def test_look_ups_without_pause_are_caught_though_nobody_hears_of_them() -> None:
    source = Source()
    options = {"outage": source.outage, "lookups": lambda: source.lookups}
    assert (await failure(Down(source).spins, **options, patience=0.5)).rule == "pace"


def test_every_rule_is_broken_by_somebody() -> None:
    assert {rule for rule, _ in BROKEN} | {"outage"} == set(RULES)


@pytest.mark.parametrize("resolver", [Fixed, polls, watches], ids=lambda value: value.__name__)
async def test_resolvers_that_keep_the_rules_pass(resolver: Any) -> None:
    await check_resolver(resolver, TARGET, expect=reversed(BACKENDS))


@virtual_time
async def test_check_runs_in_virtual_time_too() -> None:
    class Slowly(Fixed):
        async def run(self, sink: Sink) -> None:
            while True:
                await asyncio.sleep(3000)
                sink.update(answer())
                await sink.wanted(refresh=30.0)

    await check_resolver(Slowly, TARGET, patience=4000)


@virtual_time
async def test_report_names_the_rule_and_the_last_events() -> None:
    error = await failure(Turns)
    lines = str(error).splitlines()
    assert lines[0].startswith(
        f"resolver Turns of '{TARGET}' breaks the rule 'stable': while nothing changes"
    )
    assert [line.strip().partition("(")[0] for line in lines[3:8]] == [
        "run",
        "update",
        "wanted",
        "asked for a new answer",
        "update",
    ]


async def test_target_of_a_registered_resolver_is_enough() -> None:
    await check_resolver("static:///10.0.0.1:1,10.0.0.2:1", expect=BACKENDS)


async def test_what_cannot_be_made_at_all_is_no_broken_rule() -> None:
    with pytest.raises(TargetError):
        await check_resolver("static:///")
    with pytest.raises(UnknownPluginError):
        await check_resolver("nobody-has-that://x")
    with pytest.raises(TypeError, match="needs a target"):
        await check_resolver(Fixed)
    with pytest.raises(TypeError, match="is no resolver"):
        await check_resolver(cast("Any", 5), TARGET)


async def test_known_parameters_stay_allowed() -> None:
    class Zoned(Fixed):
        parameters = frozenset({"zone"})

    await check_resolver(Zoned, f"{TARGET}?zone=eu")
    await check_resolver(TakesAnything, TARGET, unknown_parameter="")
    with pytest.raises(TargetError):
        await check_resolver(Zoned, f"{TARGET}?zoen=eu")
