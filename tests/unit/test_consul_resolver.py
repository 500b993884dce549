"""When the consul resolver asks, what it asks, and what it does with the answer; in virtual time, without an agent."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import pytest

from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolving import ResolverHost
from lbkit.testing.loop import run_virtual
from lbkit_resolvers.consul import ConsulResolver


class Response(NamedTuple):
    """What py-consul hands to its callbacks."""

    code: int
    headers: dict[str, str]
    body: str


class Even(random.Random):
    """Jitters by nothing, or by as much as is allowed."""

    share = 0.5

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.share


class World:
    """A resolver, the agent that it asks through a client of the user's, and the channel's end of it."""

    base_uri = "http://agent:8500"

    def __init__(self, query: str) -> None:
        self.http = self  # as client, which is its own HTTP layer
        self.times: list[float] = []
        self.asked: list[dict[str, str]] = []
        self.hosts: list[str] = ["10.0.0.1"]
        self.index = 7
        self.status = 200
        self.silent = False
        self.body: str | None = None
        self.leader = True
        self.contact_ms = {"stale": 0}
        self.more: dict[str, str] = {}
        self.updates: list[list[str]] = []
        self.resolutions: list[Resolution] = []
        self.log: list[tuple[float, str]] = []
        self.news = asyncio.Event()
        self.resolver = ConsulResolver(f"consul:///greeter{query}", client=self)
        self.host: Any = None
        self.random = Even(1)

    async def get(self, callback: Any, path: str, params: Any) -> Any:
        assert path == "/v1/health/service/greeter"
        asked = dict(params)
        self.times.append(round(asyncio.get_running_loop().time(), 3))
        self.asked.append(asked)
        if self.silent:
            await asyncio.Event().wait()
        if "index" in asked:
            wait_s = float(asked["wait"].removesuffix("ms")) / 1000
            try:
                async with asyncio.timeout(wait_s * 17 / 16):
                    while self.index <= int(asked["index"]):
                        await self.news.wait()
            except TimeoutError:
                pass
        mode = next((mode for mode in ("stale", "consistent") if mode in asked), "default")
        headers = {
            "X-Consul-Index": str(self.index),
            "X-Consul-Knownleader": str(self.leader).lower(),
            "X-Consul-Lastcontact": str(self.contact_ms.get(mode, 0)),
            **self.more,
        }
        if self.status != 200:
            return callback(Response(self.status, {"X-Consul-Index": "1"}, "as the test wants it"))
        return callback(Response(200, headers, self.entries if self.body is None else self.body))

    @property
    def entries(self) -> str:
        return json.dumps(
            [
                {"Node": {"Node": "n"}, "Service": {"ID": host, "Address": host, "Port": 80}}
                for host in self.hosts
            ]
        )

    def change(self, *hosts: str, index: int | None = None) -> None:
        """Change the list; and wake who waits for it."""
        self.hosts = [*hosts]
        self.index = self.index + 1 if index is None else index
        self.wake()

    def wake(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    def update(self, resolution: Resolution) -> Verdict:
        self.resolutions.append(resolution)
        self.updates.append([endpoint.addresses[0].host for endpoint in resolution.endpoints])
        return ACCEPTED

    def start(self) -> None:
        self.host = ResolverHost(
            self.resolver,
            clock=asyncio.get_running_loop(),
            random=self.random,
            update=self.update,
            fail=lambda error: None,
        )
        self.host.start()

    @property
    def errors(self) -> list[str]:
        return [text for _, text in self.log]


class Notes(logging.Handler):
    """Notes what the channel is told, with its time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def emit(self, record: logging.LogRecord) -> None:
        now = round(asyncio.get_running_loop().time(), 3)
        self.world.log.append((now, record.getMessage().partition(": ")[2]))


Test = Callable[[World], Coroutine[Any, Any, None]]


def virtual(query: str = "") -> Callable[[Test], Callable[[], None]]:
    """Run a test in virtual time with a channel to that target."""

    def decorate(test: Test) -> Callable[[], None]:
        @functools.wraps(test)
        def run() -> None:
            async def main() -> None:
                world = World(query)
                notes = Notes(world)
                logging.getLogger("lbkit.resolver").addHandler(notes)
                world.start()
                try:
                    await test(world)
                finally:
                    await world.host.close()
                    logging.getLogger("lbkit.resolver").removeHandler(notes)

            run_virtual(main())

        del run.__wrapped__  # pytest takes its parameters for fixtures
        return run

    return decorate


@virtual()
async def test_change_is_published_when_the_query_returns(world: World) -> None:
    await asyncio.sleep(10)
    world.change("10.0.0.1", "10.0.0.2")
    await asyncio.sleep(0.01)
    assert world.updates == [["10.0.0.1"], ["10.0.0.1", "10.0.0.2"]]
    assert [asked.get("index") for asked in world.asked] == [None, "7", "8"]


@virtual()
async def test_source_names_the_agent_and_the_index(world: World) -> None:
    await asyncio.sleep(1)
    assert world.resolutions[0].source == "consul agent:8500, index 7"


@virtual()
async def test_same_list_is_not_published_again(world: World) -> None:
    await asyncio.sleep(300)
    world.change("10.0.0.1")  # an idempotent write
    await asyncio.sleep(10)
    assert world.updates == [["10.0.0.1"]]
    assert len(world.asked) > 4
    assert world.errors == []


@virtual("?wait=10s")
async def test_query_blocks_for_the_wait_of_the_target(world: World) -> None:
    await asyncio.sleep(30)
    assert world.times == [0, 0, 10.625, 21.25]
    assert {asked.get("wait") for asked in world.asked[1:]} == {"10000ms"}


@virtual("?wait=10m")
async def test_clients_of_the_user_block_for_30_s_at_most(world: World) -> None:
    await asyncio.sleep(300)
    assert world.asked[1]["wait"] == "30000ms"
    assert world.errors == []


@virtual("?wait=16s&timeout=5s")
async def test_silent_agent_is_given_up_after_the_wait_and_the_time_out(world: World) -> None:
    await asyncio.sleep(1)
    world.silent = True
    world.change("10.0.0.2")
    await asyncio.sleep(25)
    assert world.log == [(23.0, "consul agent:8500 said nothing for 22 s")]
    assert world.asked[-1] == {"passing": "1", "stale": "1"}  # from the beginning again
    assert world.updates == [["10.0.0.1"], ["10.0.0.2"]]


@virtual()
async def test_fast_churn_is_followed_once_a_second(world: World) -> None:
    await asyncio.sleep(10)
    for n in range(1000):
        world.change(*(f"10.1.{k >> 8}.{k & 255}" for k in range(n + 1)))
        await asyncio.sleep(0.01)
    assert len(world.updates) <= 14
    await asyncio.sleep(2)
    assert len(world.updates[-1]) == 1000


@virtual()
async def test_first_change_after_a_quiet_time_waits_for_nothing(world: World) -> None:
    for n in range(5):
        await asyncio.sleep(10)
        world.change(f"10.0.0.{n}")
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        assert world.updates[-1] == [f"10.0.0.{n}"]


@virtual()
async def test_query_behind_a_pause_is_short(world: World) -> None:
    await asyncio.sleep(10)
    for number in range(3):
        world.change(f"10.0.0.{number}")
        await asyncio.sleep(0.01)
    await asyncio.sleep(9)  # the agent may have been restarted in the pause: the query would wait to its end
    assert world.times == [0, 0, 10, 10.01, 11, 13.125]
    assert [asked.get("wait") for asked in world.asked[1:]] == [*["30000ms"] * 3, "2000ms", "30000ms"]


@virtual()
async def test_query_behind_a_refusal_has_no_index(world: World) -> None:
    await asyncio.sleep(10)
    world.status = 403
    world.change("10.0.0.2")
    await asyncio.sleep(5)
    world.status = 200
    await asyncio.sleep(30)
    assert [asked.get("index") for asked in world.asked[:3]] == [None, "7", None]
    assert world.updates == [["10.0.0.1"], ["10.0.0.2"]]


@virtual()
async def test_index_that_goes_backwards_starts_over(world: World) -> None:
    await asyncio.sleep(5)
    world.change("10.0.0.2", index=3)  # nobody is woken: 3 is not past 7
    await asyncio.sleep(70)
    assert [asked.get("index") for asked in world.asked[:4]] == [None, "7", None, "3"]
    assert world.updates == [["10.0.0.1"], ["10.0.0.2"]]


@virtual()
async def test_index_of_0_or_none_makes_no_busy_loop(world: World) -> None:
    for more in ({"X-Consul-Index": "0"}, {"X-Consul-Index": ""}, {"X-Consul-Index": "x"}):
        world.more = more
        before = len(world.asked)
        await asyncio.sleep(60)
        assert len(world.asked) - before <= 62
    world.change("10.0.0.2")
    await asyncio.sleep(2)
    assert world.updates == [["10.0.0.1"], ["10.0.0.2"]]


@pytest.mark.parametrize("status", [400, 404, 429, 500, 502])
def test_error_keeps_the_list_backs_off_and_has_no_index(status: int) -> None:
    @virtual()
    async def check(world: World) -> None:
        await asyncio.sleep(5)
        world.status = status
        world.change()
        await asyncio.sleep(20)
        assert world.updates == [["10.0.0.1"]]
        assert all("index" not in asked for asked in world.asked[3:])
        assert 11 <= len(world.asked) <= 18  # after 0.2 s, then longer, up to 2 s
        assert world.errors[0] == f"consul agent:8500 says {status}: as the test wants it"
        world.status = 200
        world.change("10.0.0.2")
        await asyncio.sleep(2.1)
        assert world.updates[-1] == ["10.0.0.2"]

    check()


@pytest.mark.parametrize("status", [401, 403])
def test_refused_token_is_tried_again_slowly(status: int) -> None:
    @virtual()
    async def check(world: World) -> None:
        world.status = status
        await asyncio.sleep(100)
        assert world.times == [0, 30, 60, 90]
        assert (
            world.errors[0]
            == f"consul agent:8500 says {status}: as the test wants it; the token may not do that"
        )
        world.status = 200
        await asyncio.sleep(30)
        assert world.updates == [["10.0.0.1"]]

    check()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_not_all_clients_come_back_at_once_with_a_refused_token(share: float) -> None:
    @virtual()
    async def check(world: World) -> None:
        world.random.share = share
        world.status = 403
        await asyncio.sleep(40)
        assert world.times == [0, 24 + 12 * share]

    check()


@virtual()
async def test_reset_backoff_asks_again_with_a_refused_token_at_once(world: World) -> None:
    world.status = 403
    await asyncio.sleep(40)
    assert world.times == [0, 30]
    world.status = 200
    world.host.reset_backoff()
    await asyncio.sleep(0.5)
    assert world.times[:3] == [0, 30, 40]
    assert world.updates == [["10.0.0.1"]]


@virtual()
async def test_list_that_the_token_may_not_see_is_not_empty(world: World) -> None:
    await asyncio.sleep(5)
    world.more = {"X-Consul-Results-Filtered-By-ACLs": "true"}  # some are hidden, and some are not
    world.change("10.0.0.2")
    await asyncio.sleep(5)
    assert world.updates == [["10.0.0.1"], ["10.0.0.2"]]
    world.change()
    await asyncio.sleep(100)
    assert world.updates == [["10.0.0.1"], ["10.0.0.2"]]
    assert world.errors == [
        "consul agent:8500 hides all instances of 'greeter': the token may not read the service, or its nodes"
    ]
    assert world.times == [0, 0, 5, 40, 70, 100]


@virtual()
async def test_list_that_never_was_there_and_may_not_be_seen_is_an_error(world: World) -> None:
    world.more = {"X-Consul-Results-Filtered-By-ACLs": "true"}
    world.hosts = []
    await asyncio.sleep(1)
    assert world.updates == []
    assert len(world.errors) == 1


@virtual("?max-backoff=10s")
async def test_back_off_ends_at_the_targets_maximum(world: World) -> None:
    world.status = 500
    await asyncio.sleep(100)
    gaps = [round(b - a, 3) for a, b in zip(world.times, world.times[1:], strict=False)]
    assert gaps[0] == 0.2
    assert gaps[-1] == 10.0


@pytest.mark.parametrize("body", ["<html>502</html>", '[{"Node": {', "{}", "[1, 2]"])
def test_garbage_is_reported_and_the_list_stays(body: str) -> None:
    @virtual()
    async def check(world: World) -> None:
        await asyncio.sleep(5)
        world.body = body
        world.change("10.0.0.9")
        await asyncio.sleep(60)
        assert world.updates == [["10.0.0.1"]]
        assert len(world.asked) < 45  # no spin
        assert world.errors[0].startswith("consul agent:8500: ")
        world.body = None
        await asyncio.sleep(3)
        assert world.updates[-1] == ["10.0.0.9"]

    check()


@virtual()
async def test_broken_record_is_told_once_by_its_id(world: World) -> None:
    await asyncio.sleep(5)
    world.change("10.0.0.1", "not a host")
    await asyncio.sleep(200)
    assert world.updates == [["10.0.0.1"]]
    (said,) = world.errors
    assert said.startswith("passed over not a host: 'not a host:80' has no valid host")


@virtual()
async def test_unknown_service_has_no_backends(world: World) -> None:
    world.hosts = []
    await asyncio.sleep(1)
    assert world.updates == [[]]


@virtual()
async def test_empty_answer_of_a_good_leader_empties_the_list(world: World) -> None:
    await asyncio.sleep(5)
    world.change()
    await asyncio.sleep(0.01)
    assert world.updates == [["10.0.0.1"], []]
    assert world.errors == []


@virtual("?empty-guard=20s")
async def test_empty_answer_without_a_leader_is_held_back(world: World) -> None:
    await asyncio.sleep(5)
    world.leader = False
    world.change()
    await asyncio.sleep(19)
    assert world.updates == [["10.0.0.1"]]
    assert "has no instance of 'greeter' any more, but may have lost them" in world.errors[0]
    assert "kept for up to 20 s (empty-guard)" in world.errors[0]
    await asyncio.sleep(4)
    assert world.updates == [["10.0.0.1"], []]


@pytest.mark.parametrize("trouble", ["no leader", "refused token"])
def test_same_list_behind_an_error_says_that_all_is_well_again(trouble: str) -> None:
    @virtual()
    async def check(world: World) -> None:
        await asyncio.sleep(5)
        world.leader, world.status = trouble != "no leader", 200 if trouble == "no leader" else 403
        world.change()
        await asyncio.sleep(10)
        assert world.host.discovery().error is not None
        world.leader, world.status = True, 200
        world.change("10.0.0.1")
        await asyncio.sleep(40)
        assert world.host.discovery().error is None
        assert world.updates == [["10.0.0.1"]]

    check()


@virtual()
async def test_age_is_that_of_the_last_answer_and_not_of_the_last_change(world: World) -> None:
    await asyncio.sleep(1000)
    assert world.updates == [["10.0.0.1"]]
    assert world.host.discovery().age_s < 35


@virtual()
async def test_instances_that_come_back_within_the_guard_were_never_gone(world: World) -> None:
    await asyncio.sleep(5)
    world.status = 500  # the agent is restarted
    world.change()
    await asyncio.sleep(3)
    world.status, world.index = 200, 2
    await asyncio.sleep(10)
    world.change("10.0.0.1")  # its services register again
    await asyncio.sleep(100)
    assert world.updates == [["10.0.0.1"]]


@virtual()
async def test_empty_answer_whose_index_went_backwards_is_held_back(world: World) -> None:
    await asyncio.sleep(5)
    world.change(index=3)  # restarted, and nobody noticed
    await asyncio.sleep(50)
    assert world.updates == [["10.0.0.1"]]
    assert "may have lost them" in world.errors[0]
    await asyncio.sleep(30)
    assert world.updates == [["10.0.0.1"], []]


@virtual("?empty-guard=0s")
async def test_guard_can_be_switched_off(world: World) -> None:
    await asyncio.sleep(5)
    world.leader = False
    world.change()
    await asyncio.sleep(0.01)
    assert world.updates == [["10.0.0.1"], []]


@virtual("?max-age=5s")
async def test_answer_that_is_too_old_is_asked_for_again_of_the_leader(world: World) -> None:
    await asyncio.sleep(20)
    world.contact_ms["stale"] = 6000
    world.change("10.0.0.2")
    await asyncio.sleep(0.01)
    assert [("stale" in asked, asked.get("index")) for asked in world.asked[-3:]] == [
        (True, "7"),
        (False, None),
        (True, "8"),
    ]
    assert world.updates == [["10.0.0.1"], ["10.0.0.2"]]


@virtual("?max-age=5s")
async def test_old_answer_is_better_than_none_and_says_so(world: World) -> None:
    world.contact_ms["stale"] = 6000
    await asyncio.sleep(0.01)
    assert world.updates == [["10.0.0.1"]]
    assert world.resolutions[0].source.endswith(", maybe 6 s old")
    assert "stale" not in world.asked[1]


@pytest.mark.parametrize("good", [["10.0.0.1"], []])
def test_old_answer_never_replaces_a_good_list(good: list[str]) -> None:
    @virtual("?max-age=5s")
    async def check(world: World) -> None:
        world.hosts = good
        await asyncio.sleep(20)

        async def get(callback: Any, path: str, params: Any) -> Any:
            world.status = 200 if "stale" in dict(params) else 500  # no leader, but a follower that answers
            return await World.get(world, callback, path, params)

        world.get = get  # type: ignore[method-assign]
        world.contact_ms["stale"] = 6000
        world.change("10.0.0.2")
        await asyncio.sleep(60)  # also when it starts over behind the errors
        assert world.updates == [good]
        assert "says 500" in world.errors[-1]

    check()


@virtual("?tag=a,b&near=_agent&dc=dc2&healthy=false&require-consistent=true")
async def test_parameters_reach_the_agent(world: World) -> None:
    await asyncio.sleep(0.01)
    assert world.asked[0] == {"tag": "b", "near": "_agent", "dc": "dc2", "consistent": "1"}


@virtual("?limit=3")
async def test_limit_takes_some_and_keeps_to_them(world: World) -> None:
    world.hosts = [f"10.0.0.{n}" for n in range(1, 10)]
    await asyncio.sleep(5)
    (first,) = world.updates
    assert len(first) == 3
    assert first == sorted(first)
    gone = first[0]
    world.change(*(host for host in world.hosts if host != gone))
    await asyncio.sleep(0.01)
    assert set(world.updates[1]) > set(first[1:])


def test_limit_takes_others_for_other_clients() -> None:
    chosen = set()
    for seed in range(20):

        async def main(seed: int = seed) -> None:
            world = World("?limit=1")
            world.hosts = [f"10.0.0.{n}" for n in range(1, 5)]
            world.resolver._seed = bytes([seed])
            world.start()
            await asyncio.sleep(1)
            chosen.add(world.updates[0][0])
            await world.host.close()

        run_virtual(main())
    assert len(chosen) == 4


@virtual("?limit=2&near=_agent")
async def test_limit_with_near_takes_the_nearest(world: World) -> None:
    world.hosts = ["10.0.0.9", "10.0.0.1", "10.0.0.5"]
    await asyncio.sleep(1)
    assert world.updates == [["10.0.0.9", "10.0.0.1"]]


@virtual()
async def test_state_of_a_run_does_not_outlive_it(world: World) -> None:
    await asyncio.sleep(5)
    await world.host.close()  # as an idle channel does
    world.change("10.0.0.2")
    world.start()
    await asyncio.sleep(0.01)
    assert "index" not in world.asked[2]
    assert world.updates == [["10.0.0.1"], ["10.0.0.2"]]
