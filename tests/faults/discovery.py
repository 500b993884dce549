"""A registry that changes and breaks at random, and resolvers that are held to what it ever said."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from lbkit.address import Endpoint
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolver import Resolver, make_resolver
from lbkit.resolving import ResolverHost
from lbkit.testing import FaultProxy
from lbkit_resolvers.combinators import Fallback, Guard, LastGood

SETTLED_S = 5.0  # after the last fault, at most, where the machine does nothing else
OUTAGE_S = 5.0  # over which the CPU is looked at
CPU_SHARE = 0.05
# 20 intervals have 21 ends, and what waits goes out before an error and with a new list.
UPDATES_PER_S = 20 + 5
BACKUP = "127.9.9.9:1"
GUARDED_S = 1.0
FLEET = 6
HURRY_S = 1.2

State: TypeAlias = frozenset[tuple[str, int]]  # address and mark: whatever the registry keeps beside it
Do: TypeAlias = Callable[[], Awaitable[None] | None]


class Gate(FaultProxy):
    """A proxy that can also refuse connections, and speak for the server."""

    def __init__(self, server: str) -> None:
        super().__init__(server)
        self._place = socket.socket()  # holds the port while nobody listens on it
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self._refusing = False

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._place.close()
        await super().__aexit__(kind, error, traceback)

    @property
    def address(self) -> str:
        """Where it listens, or would."""
        return f"127.0.0.1:{self._place.getsockname()[1]}"

    def refuse(self) -> None:
        """Break all connections, and refuse new ones until ``admit``."""
        self._refusing = True
        self._listener.close()
        self.reset()

    async def admit(self) -> None:
        """Take connections again, and let everything through."""
        self.heal()
        if self._refusing:
            self._refusing = False
            await self._listen()

    def garble(self) -> None:
        """Say what no server says, on every connection there is."""
        for writer in self._writers["down"]:
            with suppress(OSError, RuntimeError):  # the latter if that direction has ended
                writer.write(b"\xff\x00 nothing of sense \r\n" * 8)

    async def cut_within(self) -> None:
        """Let a few bytes through, and then cut: whatever is said meanwhile ends in its middle."""
        self.rate(300.0)
        await asyncio.sleep(0.1)
        self.reset()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._accept, "127.0.0.1", self._place.getsockname()[1], reuse_address=True
        )


class Truth:
    """What the registry holds, and everything that it ever held, in order.

    Attributes:
        now: the mark of each address.
        versions: the states that it went through, the current one last. A write that is on its way counts already.
    """

    def __init__(self) -> None:
        self.now: dict[str, int] = {}
        self.versions: list[State] = [frozenset()]
        self.ever: set[tuple[str, int]] = set()

    def become(self, changes: Mapping[str, int | None]) -> None:
        """Take changes that come into force together; None removes."""
        for address, mark in changes.items():
            if mark is None:
                self.now.pop(address, None)
            else:
                self.now[address] = mark
                self.ever.add((address, mark))
        self.versions.append(frozenset(self.now.items()))

    def begin(self) -> None:
        """Forget what was before: nobody has seen it."""
        del self.versions[:-1]


Fits: TypeAlias = Callable[[Truth, State, State], bool]


def same(truth: Truth, state: State, shown: State) -> bool:
    """Whether a list is what the registry held."""
    return shown == state


def same_or_backup(truth: Truth, state: State, shown: State) -> bool:
    """Whether a list is what ``fallback`` makes of what the registry held."""
    return shown == (state or {(BACKUP, 1)})


def same_and_more(truth: Truth, state: State, shown: State) -> bool:
    """Whether a list is what ``guard`` may make of it: nothing is missing, and what is left over was there once."""
    rest = shown - state
    listed = {address for address, _ in state}
    return state <= shown and rest <= truth.ever and not any(address in listed for address, _ in rest)


def some(state: State) -> str:
    """A list as it may stand in the text of a failure."""
    first = ", ".join(f"{address} ({mark})" for address, mark in sorted(state)[:10])
    return f"{len(state)} backends: {first}" if state else "none"


class Recorder(ResolverHost):
    """Runs a resolver as a channel does, and holds each of its lists to the truth.

    Attributes:
        name: of the resolver.
        times: when it published a list.
        violations: what it should not have published.
        errors: what it reported.
    """

    def __init__(self, name: str, resolver: Resolver, source: Source, fits: Fits) -> None:
        self._loop = asyncio.get_running_loop()
        super().__init__(
            resolver, clock=self._loop, random=random.Random(7), update=self._check, fail=lambda _: None
        )
        self.name = name
        self.times: list[float] = []
        self.violations: list[str] = []
        self.errors: list[str] = []
        self._source = source
        self._fits = fits
        self._at = 0  # the version of the truth that the last list shows, at the earliest

    def shown(self) -> State | None:
        """The list in use; None if there is none."""
        return None if self.latest is None else self._state(self.latest.endpoints)

    def settled(self) -> bool:
        """Whether the list in use is the truth of now."""
        shown = self.shown()
        truth = self._source.truth
        exactly = same_or_backup if self._fits is same_or_backup else same
        return shown is not None and exactly(truth, truth.versions[-1], shown)

    def busiest(self) -> int:
        """How many lists came in the busiest second, wherever it begins."""
        return max((sum(at <= other < at + 1 for other in self.times) for at in self.times), default=0)

    def _check(self, resolution: Resolution) -> Verdict:
        self.times.append(self._loop.time())
        truth = self._source.truth
        shown = self._state(resolution.endpoints)
        if len({address for address, _ in shown}) != len(resolution.endpoints):
            self.violations.append(f"one endpoint twice: {resolution.endpoints}")
        for version in range(self._at, len(truth.versions)):
            if self._fits(truth, truth.versions[version], shown):
                self._at = version
                return ACCEPTED
        near = min(truth.versions[self._at :], key=lambda state: len(state ^ shown))
        self.violations.append(
            f"never the truth since version {self._at} of {len(truth.versions)}: of the nearest it lacks"
            f" {some(near - shown)}, and has besides {some(shown - near)}; {resolution.source}"
        )
        return ACCEPTED

    def _failed(self, error: Exception) -> None:
        self.errors.append(str(error))
        super()._failed(error)

    def _state(self, endpoints: Sequence[Endpoint]) -> State:
        return frozenset((str(endpoint), self._source.mark_of(endpoint)) for endpoint in endpoints)


class Source(ABC):
    """A registry, with the ways in which it breaks.

    Attributes:
        truth: what it holds.
        faults: by name, what begins each; they end with ``heal``.
        writable: it can be written to just now.
        fleets: how many backends there may be at the beginning.
        growing: its resolver waits longer with each failure, up to half a minute and more, as its page in docs/ says:
            it may need as long as the outage was.
        calm_s: seconds without a fault, after which it begins anew with short waits.
    """

    fleets: tuple[int, ...] = (FLEET,)
    growing = False
    calm_s = 0.0

    def __init__(self) -> None:
        self.truth = Truth()
        self.writable = True
        self.faults: dict[str, Do] = {}

    @abstractmethod
    def target(self) -> str:
        """What resolvers are made of."""

    @abstractmethod
    async def write(self, address: str, mark: int | None) -> None:
        """Make the registry hold what ``truth.now`` says already of one address."""

    @abstractmethod
    async def down(self) -> None:
        """Be unreachable until ``heal``."""

    @abstractmethod
    async def heal(self) -> None:
        """Be as it should be."""

    def mark_of(self, endpoint: Endpoint) -> int:
        """Return the mark that was registered with an endpoint."""
        return int(endpoint.weight)

    def mark(self, number: int) -> int:
        """Return another mark for every number, as far as the registry can keep one."""
        return number

    async def change(self, changes: Mapping[str, int | None]) -> None:
        """Change what is registered, one by one unless the registry can do better."""
        for address, mark in changes.items():
            self.truth.become({address: mark})
            await self.write(address, mark)

    async def restore(self) -> None:
        """Register everything again with a registry that has lost it."""
        lost = dict(self.truth.now)
        self.truth.now.clear()
        await self.change(lost)


def faults_of(gate: Gate) -> dict[str, Do]:
    """The faults of a network."""
    return {
        "cut": gate.reset,
        "freeze": gate.blackhole,
        "deafen": lambda: gate.blackhole("up"),
        "mute": lambda: gate.blackhole("down"),
        "delay": lambda: gate.delay(0.2),
        "trickle": lambda: gate.rate(2000.0),
        "end": gate.half_close,
        "refuse": gate.refuse,
        "garble": gate.garble,
        "cut within": gate.cut_within,
    }


class Chaos:
    """One run over one source: its seed tells everything that the script does, though not when others answer.

    Args:
        source: an empty registry.
        folder: for files.
        seed: of the script.
        settled_s: seconds after the last fault in which all must show the truth.
    """

    def __init__(self, source: Source, folder: Path, seed: int, settled_s: float = SETTLED_S) -> None:
        self.source = source
        self._settled_s = settled_s
        self.recorders: list[Recorder] = []
        self.slowest_s = 0.0
        self.cpu = 0.0
        self._file = folder / "last-good.json"
        self._random = random.Random(seed)
        self._seed = seed
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._script: list[str] = []
        self._numbers = 0
        self._gone: list[str] = []

    async def run(self, seconds: float, outage_s: float) -> None:
        """Fill the registry, let things happen for so long, and then be without it for ``outage_s``."""
        source = self.source
        await source.change({self._fresh(): self._mark() for _ in range(self._random.choice(source.fleets))})
        source.truth.begin()
        async with AsyncExitStack() as stack:
            self._follow(stack, "plain", make_resolver(source.target()), same)
            self._follow(stack, "guard", Guard(source.target(), hold_s=GUARDED_S), same_and_more)
            self._follow(stack, "last-good", self._last_good(), same)
            # A busy machine may take its time for the first answer, and the backup is not for that.
            backed = Fallback(source.target(), f"static:///{BACKUP}", wait_s=60.0, back_s=0.1)
            self._follow(stack, "fallback", backed, same_or_backup)
            await self._settle(0.0)
            steps = [self._break] * 6 + [self._hurry, self._lose_all]
            end = self._loop.time() + seconds
            while self._loop.time() < end:
                await self._random.choice(steps)()
            await self._go_without(outage_s)
        busiest = max(recorder.busiest() for recorder in self.recorders)
        assert busiest <= UPDATES_PER_S, self._story(f"{busiest} lists in a second")

    async def one(self, fault: str) -> None:
        """Fill the registry, and have one fault, soon after the first list."""
        source = self.source
        await source.change({self._fresh(): self._mark() for _ in range(FLEET)})
        source.truth.begin()
        async with AsyncExitStack() as stack:
            self._follow(stack, "plain", make_resolver(source.target()), same)
            await self._settle(0.0)
            await self._suffer([fault])

    def tell(self, name: str) -> None:
        """Print how it went."""
        print(
            f"\nchaos over {name}, seed {self._seed}: {len(self._script)} steps, {len(self.source.truth.now)} backends,"
            f" {len(self.source.truth.versions)} versions of the truth,"
            f" {[len(each.times) for each in self.recorders]} lists"
            f" ({', '.join(each.name for each in self.recorders)}),"
            f" {max(each.busiest() for each in self.recorders)} in the busiest second;"
            f" settled after {self.slowest_s:.2f} s at most; {self.cpu:.1%} of a CPU while it was down"
        )

    # Steps

    async def _break(self) -> None:
        """One fault or several at once."""
        faults = sorted(self.source.faults)
        await self._suffer(self._random.sample(faults, self._random.choice((1, 1, 2, 3))))

    async def _suffer(self, faults: Sequence[str]) -> None:
        """Faults, with changes meanwhile; then none."""
        began = self._loop.time()
        for name in faults:
            self._note(name)
            if (waiting := self.source.faults[name]()) is not None:
                await waiting
            for _ in range(self._random.randrange(6)):
                await self._change()
                await asyncio.sleep(self._random.uniform(0.0, 0.1))
            await asyncio.sleep(self._random.uniform(0.0, 0.5))
        await self.source.heal()
        await self._settle(self._loop.time() - began)
        await asyncio.sleep(self.source.calm_s)

    async def _hurry(self) -> None:
        """Many changes in a row."""
        self._note("hurry")
        end = self._loop.time() + HURRY_S
        while self._loop.time() < end:
            await self._change()
            await asyncio.sleep(0.005)
        await self._settle(0.0)

    async def _lose_all(self) -> None:
        """Everybody goes, as the registry itself says, and comes back."""
        self._note("lose all")
        everybody = dict(self.source.truth.now)
        await self.source.change(dict.fromkeys(everybody))
        await self._settle(0.0, marked=False)
        await self.source.change(everybody)
        await self._settle(0.0)

    async def _go_without(self, outage_s: float) -> None:
        """Be idle while the registry is down, and start with the list of the file."""
        self._note("down")
        began = self._loop.time()
        await self.source.down()
        async with AsyncExitStack() as stack:
            cold = Recorder("cold", self._last_good(), self.source, lambda *_: True)
            cold.start()
            stack.push_async_callback(cold.close)
            await self._until(lambda: cold.latest is not None, self._settled_s, "the list of the file")
            shown = cold.shown()
            assert shown, self._story("the list of the file is empty")
            assert shown in self.source.truth.versions, self._story(f"the file has {some(shown)}")
            if outage_s:
                before = time.process_time()
                await asyncio.sleep(outage_s)
                self.cpu = (time.process_time() - before) / outage_s
                assert self.cpu < CPU_SHARE, self._story(f"{self.cpu:.1%} of a CPU")
            await self.source.heal()
            await self._settle(self._loop.time() - began)
            await self._until(cold.settled, self._settled_s, "the truth instead of the list of the file")

    # Parts of steps

    async def _change(self) -> None:
        """Register, remove, or register anew with another mark; never nobody at all."""
        if not self.source.writable:
            return
        now = sorted(self.source.truth.now)
        changes: dict[str, int | None] = {}
        for _ in range(self._random.choice((1, 1, 1, 3))):
            what = self._random.random()
            if what < 0.4 or len(now) < 3:
                again = self._gone and self._random.random() < 0.5
                changes[self._random.choice(self._gone) if again else self._fresh()] = self._mark()
            elif what < 0.7:
                changes[self._random.choice(now)] = self._mark()
            elif len(changes) < len(now) - 1:
                changes[self._random.choice(now)] = None
        self._gone += [address for address, mark in changes.items() if mark is None]
        await self.source.change(changes)

    async def _settle(self, outage_s: float, *, marked: bool = True) -> None:
        """Wait until all show the truth of now: marked by a new backend, nothing is taken for it that was before."""
        if marked:
            oldest = min(self.source.truth.now, key=lambda address: self.source.truth.now[address])
            await self.source.change({self._fresh(): self._mark(), oldest: None})
        began = self._loop.time()
        limit = self._settled_s + (outage_s if self.source.growing else 0.0)
        await self._until(lambda: all(each.settled() for each in self.recorders), limit, "the truth")
        self.slowest_s = max(self.slowest_s, self._loop.time() - began)
        for recorder in self.recorders:
            assert not recorder.violations, self._story(f"{recorder.name}: {recorder.violations[:3]}")

    async def _until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():  # noqa: ASYNC110 -- several resolvers, and time, have a say
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(self._story(f"{what} was not there after {seconds:.1f} s")) from None

    def _follow(self, stack: AsyncExitStack, name: str, resolver: Resolver, fits: Fits) -> None:
        recorder = Recorder(name, resolver, self.source, fits)
        recorder.start()
        stack.push_async_callback(recorder.close)
        self.recorders.append(recorder)

    def _last_good(self) -> LastGood:
        return LastGood(self.source.target(), file=self._file, wait_s=0.5)

    def _fresh(self) -> str:
        self._numbers += 1
        return f"127.0.{self._numbers // 250}.{1 + self._numbers % 250}:50051"

    def _mark(self) -> int:
        self._numbers += 1
        return self.source.mark(self._numbers)

    def _note(self, step: str) -> None:
        self._script.append(f"{self._loop.time() - self._began:.2f} s {step}")

    def _story(self, problem: str) -> str:
        """All that helps to find out why."""
        truth = self.source.truth
        lines = [f"seed {self._seed}: {problem}", f"script: {', '.join(self._script[-12:])}"]
        lines += [f"truth, version {len(truth.versions) - 1}: {some(truth.versions[-1])}"]
        for each in self.recorders:
            settled = "settled" if each.settled() else f"shows {some(each.shown() or frozenset())}"
            lines += [f"{each.name}: {settled}; violations {each.violations[:3]}; errors {each.errors[-3:]}"]
        return "\n".join(lines)
