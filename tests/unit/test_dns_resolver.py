"""When the dns resolver asks, and what it does with the answer; in virtual time, without a name server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from lbkit.errors import ResolverError
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolving import ResolverHost
from lbkit.target import Target
from lbkit_resolvers.dns import DnsResolver, System
from lbkit_resolvers.dns.answers import Found, NoSuchNameError
from lbkit_resolvers.dns.hosts import HostsFile
from tests.support.fakes import FakeSink
from tests.support.servers import until
from tests.support.virtual_loop import run_virtual

NOWHERE = System(hosts="/nonexistent/hosts", resolv_conf="/nonexistent/resolv.conf")


def resolver_of(text: str, system: System = NOWHERE) -> DnsResolver:
    return DnsResolver(Target.parse(text, {"dns"}), system=system)


class World:
    """A resolver, the name servers that it asks, and the channel's end of it."""

    def __init__(self, text: str) -> None:
        self.resolver = resolver_of(text)
        self.resolver._servers = self  # type: ignore[assignment]
        self.times: list[float] = []
        self.answer: Found | Exception = Found(("10.0.0.1",), 300.0)
        self.services: dict[str, Found | Exception] = {}  # by host; all on port 80
        self.updates: list[list[str]] = []
        self.resolutions: list[Resolution] = []
        self.errors: list[str] = []
        self.verdict = ACCEPTED
        self.host: Any = None

    async def ask(self, name: str, kind: str) -> Found:
        if kind == "TXT":
            assert name == "_grpc_config.backend"
            return Found(('grpc_config=[{"serviceConfig": {}}]',), 1.0)
        if kind == "AAAA":
            return Found((), 1e9)
        answer = self.services.get(name)
        if answer is None:
            self.times.append(round(asyncio.get_running_loop().time(), 3))
            answer = self.answer
        if kind == "SRV":
            return Found(tuple(f"1 1 80 {host}" for host in self.services), 300.0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def update(self, resolution: Resolution) -> Verdict:
        self.resolutions.append(resolution)
        self.updates.append([str(endpoint) for endpoint in resolution.endpoints])
        return self.verdict

    def start(self) -> None:
        self.host = ResolverHost(
            self.resolver,
            clock=asyncio.get_running_loop(),
            random=Even(),
            update=self.update,
            fail=lambda error: self.errors.append(str(error)),
        )
        self.host.start()


class Even(random.Random):
    """Jitters by nothing."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def virtual(text: str) -> Callable[[Callable[[World], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """Run a test in virtual time with a channel to that target."""

    def decorate(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        def run() -> None:
            async def main() -> None:
                world = World(text)
                world.start()
                try:
                    await test(world)
                finally:
                    await world.host.close()

            run_virtual(main())

        run.__name__ = test.__name__
        return run

    return decorate


@virtual("backend:80")
async def test_name_is_looked_up_every_30_seconds(world: World) -> None:
    await asyncio.sleep(100)
    assert world.times == [0, 30, 60, 90]
    assert world.updates == [["10.0.0.1:80"]]


@virtual("backend:80?refresh=2s")
async def test_shorter_refresh_is_granted(world: World) -> None:
    await asyncio.sleep(7)
    assert world.times == [0, 2, 4, 6]


@virtual("backend:80?refresh=2m")
async def test_longer_refresh_is_granted(world: World) -> None:
    await asyncio.sleep(300)
    assert world.times == [0, 120, 240]


@pytest.mark.parametrize(
    ("refresh", "longest_s"), [("1s", 1), ("5s", 5), ("30s", 30), ("10m", 120), ("off", 120)]
)
def test_name_that_cannot_be_looked_up_is_asked_for_as_often_as_others_in_the_end(
    refresh: str, longest_s: int
) -> None:
    @virtual(f"backend:80?refresh={refresh}")
    async def body(world: World) -> None:
        world.answer = ResolverError("SERVFAIL")
        await asyncio.sleep(1000)
        assert world.times[1] == 1
        assert round(world.times[-1] - world.times[-2]) == longest_s

    body()


@virtual("backend:80?refresh=off")
async def test_refresh_off_looks_up_only_when_asked(world: World) -> None:
    await asyncio.sleep(1000)
    assert world.times == [0]
    world.host.want()
    await asyncio.sleep(10)
    assert world.times == [0, 1000]


@virtual("backend:80?refresh=off")
async def test_look_ups_that_are_asked_for_are_30_seconds_apart(world: World) -> None:
    await asyncio.sleep(1)
    world.host.want()
    await asyncio.sleep(1)
    world.host.want()
    await asyncio.sleep(100)
    assert world.times == [0, 30]


@virtual("backend:80?refresh=ttl")
async def test_refresh_by_ttl_has_a_floor_and_a_cap(world: World) -> None:
    world.answer = Found(("10.0.0.1",), 0.0)
    await asyncio.sleep(1)
    world.answer = Found(("10.0.0.1",), 70.0)
    await asyncio.sleep(9)
    world.answer = Found(("10.0.0.1",), 1e6)
    await asyncio.sleep(10_000)
    assert world.times == [0, 5, 75, 3675, 7275]


@virtual("backend:80")
async def test_failure_keeps_the_list_and_backs_off(world: World) -> None:
    await asyncio.sleep(29)
    world.answer = ResolverError("SERVFAIL")
    await asyncio.sleep(6)
    assert world.times == [0, 30, 31, 32.6]
    assert world.updates == [["10.0.0.1:80"]]
    assert world.errors == []
    world.answer = Found(("10.0.0.2",), 300.0)
    await asyncio.sleep(1)
    assert world.updates == [["10.0.0.1:80"], ["10.0.0.2:80"]]


@virtual("backend:80")
async def test_failure_without_a_list_reaches_the_calls(world: World) -> None:
    world.answer = NoSuchNameError("no such name")
    await asyncio.sleep(3)
    assert world.times == [0, 1, 2.6]
    assert world.errors == ["no such name"] * 3


@virtual("backend:80")
async def test_name_that_vanished_keeps_its_list_without_haste(world: World) -> None:
    await asyncio.sleep(29)
    world.answer = NoSuchNameError("no such name")
    await asyncio.sleep(40)
    assert world.times == [0, 30, 60]
    assert world.updates == [["10.0.0.1:80"]]
    world.answer = Found(("10.0.0.2",), 300.0)
    await asyncio.sleep(30)
    assert world.updates[1:] == [["10.0.0.2:80"]]


@virtual("backend:80")
async def test_name_without_addresses_empties_the_list(world: World) -> None:
    await asyncio.sleep(1)
    world.answer = Found((), 300.0)
    await asyncio.sleep(30)
    assert world.updates == [["10.0.0.1:80"], []]


@virtual("backend:80")
async def test_rejected_answer_backs_off(world: World) -> None:
    world.verdict = Verdict(accepted=False, reason="not enough")
    await asyncio.sleep(3)
    assert world.times == [0, 1, 2.6]


@virtual("backend:80?hold=60s")
async def test_address_that_is_missing_is_held(world: World) -> None:
    world.answer = Found(("10.0.0.1", "10.0.0.2"), 300.0)
    await asyncio.sleep(1)
    world.answer = Found(("10.0.0.1",), 300.0)
    await asyncio.sleep(88)
    assert world.updates == [["10.0.0.1:80", "10.0.0.2:80"]]
    await asyncio.sleep(2)
    assert world.updates[1:] == [["10.0.0.1:80"]]
    assert world.times == [0, 30, 60, 90]


@virtual("backend:80?hold=45s&refresh=off")
async def test_held_address_goes_when_it_is_time(world: World) -> None:
    world.answer = Found(("10.0.0.1", "10.0.0.2"), 300.0)
    await asyncio.sleep(1)
    world.answer = Found(("10.0.0.1",), 300.0)
    world.host.want()
    await asyncio.sleep(100)
    assert world.times == [0, 30, 75]
    assert world.updates[1:] == [["10.0.0.1:80"]]


@virtual("backend:80?hold=45s")
async def test_what_is_held_too_long_for_want_of_an_answer_makes_no_haste(world: World) -> None:
    world.answer = Found(("10.0.0.1", "10.0.0.2"), 300.0)
    await asyncio.sleep(1)
    world.answer = Found(("10.0.0.1",), 300.0)
    await asyncio.sleep(30)
    world.answer = NoSuchNameError("no such name")
    await asyncio.sleep(130)
    assert world.times == [0, 30, 60, 75, 105, 135]
    assert world.updates == [["10.0.0.1:80", "10.0.0.2:80"]]


@virtual("backend?srv=_grpc._tcp")
async def test_new_host_that_cannot_be_looked_up_is_asked_for_again_soon(world: World) -> None:
    world.services = {"a.": Found(("10.0.0.1",), 300.0)}
    await asyncio.sleep(29)
    for host, number, began in (("b.", 2, 30), ("c.", 3, 65.16)):  # the second time with short waits again
        world.times.clear()
        world.services[host] = ResolverError("SERVFAIL")
        await asyncio.sleep(began + 3 - asyncio.get_running_loop().time())
        world.services[host] = Found((f"10.0.0.{number}",), 300.0)
        await asyncio.sleep(30)
        assert world.times == pytest.approx([began, began + 1, began + 2.6, began + 5.16], abs=0.01)
    one, two, three = (f"10.0.0.{number}:80" for number in (1, 2, 3))
    assert world.updates == [[one], [one, two], [one, two, three]]
    assert world.errors == []


@virtual("backend?srv=_grpc._tcp")
async def test_host_that_is_never_found_is_asked_for_no_more_often_than_the_others(world: World) -> None:
    world.services = {"a.": Found(("10.0.0.1",), 300.0), "b.": ResolverError("SERVFAIL")}
    await asyncio.sleep(200)
    assert world.times == pytest.approx(
        [0, 1, 2.6, 5.16, 9.256, 15.81, 26.295, 43.072, 69.915, 99.915, 129.915, 159.915, 189.915],
        abs=0.01,
    )
    assert world.updates == [["10.0.0.1:80"]]


@virtual("backend?srv=_grpc._tcp&refresh=off")
async def test_host_that_cannot_be_looked_up_is_asked_for_even_without_a_refresh(world: World) -> None:
    world.services = {"a.": Found(("10.0.0.1",), 300.0), "b.": ResolverError("SERVFAIL")}
    await asyncio.sleep(2)
    world.services["b."] = Found(("10.0.0.2",), 300.0)
    await asyncio.sleep(1000)
    assert world.times == [0, 1, 2.6]
    assert world.updates == [["10.0.0.1:80"], ["10.0.0.1:80", "10.0.0.2:80"]]


@virtual("backend:80?txt=on")
async def test_service_config_comes_with_the_addresses(world: World) -> None:
    await asyncio.sleep(100)
    assert [each.service_config for each in world.resolutions] == [{}]
    assert world.updates == [["10.0.0.1:80"]]


@virtual("backend:80")
async def test_answer_says_where_it_comes_from(world: World) -> None:
    world.answer = Found(("10.0.0.1",), 300.0, "10.0.0.53:53")
    await asyncio.sleep(1)
    assert [each.source for each in world.resolutions] == ["dns 10.0.0.53:53, TTL 300 s"]
    world.answer = Found(("10.0.0.1",), 30.0, "10.0.0.54:53")
    await asyncio.sleep(60)
    assert len(world.resolutions) == 1  # which is no change


async def refreshes(world: World, seed: int) -> float | None:
    """Return the refresh that one look-up waits for."""
    sink = FakeSink()
    sink.random = random.Random(seed)
    task = asyncio.create_task(world.resolver.run(sink))
    while not sink.waits:  # noqa: ASYNC110 -- a few turns of the loop
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (wait,) = sink.waits
    return wait[1]


async def test_refresh_is_jittered_by_a_tenth() -> None:
    waits = [await refreshes(World("backend"), seed) or 0.0 for seed in range(40)]
    assert 27 <= min(waits) < 28
    assert 32 < max(waits) <= 33


async def test_what_a_list_lacks_is_asked_for_with_jitter() -> None:
    waits: list[float] = []
    for seed in range(40):
        world = World("backend?srv=_grpc._tcp")
        world.services = {"a.": Found(("10.0.0.1",), 300.0), "b.": ResolverError("SERVFAIL")}
        waits.append(await refreshes(world, seed) or 0.0)
    assert min(waits) == 1
    assert 1.1 < max(waits) <= 1.2


async def test_refresh_is_never_less_than_a_second() -> None:
    waits = [await refreshes(World("backend?refresh=1s"), seed) or 0.0 for seed in range(20)]
    assert min(waits) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10.0.0.1?txt=on", "10.0.0.1:443"), ("[::1]:80?family=6", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80")],
)
async def test_literal_is_answered_once_without_a_look_up(text: str, expected: str) -> None:
    sink = FakeSink()
    await resolver_of(text).run(sink)
    assert sink.addresses == [[expected]]
    assert sink.answers[0].source == "the target itself"
    assert not sink.waits


async def test_localhost_is_one_backend_with_two_addresses() -> None:
    sink = FakeSink()
    task = asyncio.create_task(resolver_of("localhost:80?txt=on").run(sink))
    await until(lambda: sink.answers)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sink.addresses == [["127.0.0.1:80+[::1]:80"]]
    assert sink.answers[0].source == "this machine (/nonexistent/hosts)"


# Hosts file

HOSTS = """\
127.0.0.1   localhost
::1         localhost ip6-localhost
10.0.0.7    Backend backend.example   # a comment
10.0.0.8    backend
2001:db8::7 backend
nonsense    backend
10.0.0.9    # only a comment
10.0.0.7    backend
"""


async def hosts(path: Path, name: str, versions: tuple[int, ...] = (4, 6)) -> list[str]:
    return await HostsFile(str(path)).addresses(name, versions)


async def test_all_lines_of_the_hosts_file_count(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(HOSTS)
    assert await hosts(path, "backend") == ["10.0.0.7", "10.0.0.8", "2001:db8::7"]
    assert await hosts(path, "BACKEND.example.") == ["10.0.0.7"]
    assert await hosts(path, "backend", (6,)) == ["2001:db8::7"]
    assert await hosts(path, "other") == []


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "app.localhost"])
async def test_localhost_needs_no_hosts_file(tmp_path: Path, name: str) -> None:
    assert await hosts(tmp_path / "missing", name) == ["127.0.0.1", "::1"]
    assert await hosts(tmp_path / "missing", name, (6,)) == ["::1"]
    assert await hosts(tmp_path / "missing", "mylocalhost") == []


async def test_hosts_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    known = HostsFile(str(path))
    assert await known.addresses("backend", (4,)) == []
    path.write_text("10.0.0.7 backend\n")
    assert await known.addresses("backend", (4,)) == ["10.0.0.7"]
    (tmp_path / "new").write_text("10.0.0.8 backend\n")
    (tmp_path / "new").replace(path)
    assert await known.addresses("backend", (4,)) == ["10.0.0.8"]
    path.unlink()
    assert await known.addresses("backend", (4,)) == []


async def test_hosts_file_that_is_none_is_as_good_as_missing(tmp_path: Path) -> None:
    assert await hosts(tmp_path, "backend") == []
    assert await hosts(tmp_path, "localhost", (4,)) == ["127.0.0.1"]


async def test_hosts_file_comes_before_dns(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(HOSTS)
    sink = FakeSink()
    resolver = resolver_of("backend:80", System(hosts=str(path), resolv_conf="/nonexistent/resolv.conf"))
    task = asyncio.create_task(resolver.run(sink))
    await until(lambda: sink.answers)
    assert sink.addresses == [["10.0.0.7:80", "[2001:db8::7]:80", "10.0.0.8:80"]]
    path.write_text("10.0.0.1 backend\n")
    sink.ask()
    await until(lambda: len(sink.answers) == 2)
    assert sink.addresses[1] == ["10.0.0.1:80"]
    assert sink.answers[1].source == f"this machine ({path})"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
