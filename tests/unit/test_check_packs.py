"""Every policy and resolver that ships with lbkit passes the checks that strangers run on theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from lbkit.testing import check_balancer, check_resolver
from lbkit_resolvers.manual import Manual
from tests.support.dns import SERVFAIL, name_server, records


def names(group: str) -> list[str]:
    """What lbkit's own distribution brings."""
    return sorted(point.name for point in distribution("lbkit").entry_points if point.group == group)


# How a policy spreads calls, where it says so.
SHARES: dict[str, dict[str, Any]] = {
    "round_robin": {"shares": "equal", "tolerance": 0.0},
    "random": {"shares": "weight", "tolerance": 0.25},
    "weighted_round_robin": {"shares": "weight", "tolerance": 0.2},
}
# Configurations to check besides none.
CONFIGS: dict[str, list[dict[str, Any]]] = {"pick_first": [{"shuffleAddressList": True}]}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", names("lbkit.balancers"))
def test_policy_keeps_the_rules(name: str, seed: int) -> None:
    for config in [{}, *CONFIGS.get(name, [])]:
        check_balancer(name, seed=seed, config=config, updates=1500, **SHARES.get(name, {}))


# For each scheme targets that have an answer here and now, without a network; {folder} is one that the test made.
TARGETS: dict[str, list[str]] = {
    "dns": ["dns:///127.0.0.1:50051", "dns:///[::1]:50051", "dns:///localhost:50051", "localhost:50051"],
    "file": ["file://{folder}/endpoints.json", "file://{folder}/list.json?poll=100ms"],
    "ipv4": ["ipv4:10.0.0.1:50051,10.0.0.2:50051"],
    "ipv6": ["ipv6:[2001:db8::1]:50051,[2001:db8::2]:50051"],
    "manual": ["manual:///checked"],
    "passthrough": ["passthrough:///localhost:50051"],
    "static": ["static:///10.0.0.2:50051,10.0.0.1:50051", "static:///10.0.0.1:50051?weight=3,10.0.0.2:50051"],
    "unix": ["unix:///run/lbkit/check.sock", "unix:check.sock"],
    "unix-abstract": ["unix-abstract:lbkit-check"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    listed = [{"address": "10.0.0.1:50051", "weight": 3}, {"address": "10.0.0.2:50051"}]
    (tmp_path / "endpoints.json").write_text(json.dumps({"endpoints": listed}))
    (tmp_path / "list.json").write_text(json.dumps(["10.0.0.2:50051", "10.0.0.1:50051"]))
    return tmp_path


@pytest.mark.parametrize("scheme", names("lbkit.resolvers"))
async def test_resolver_keeps_the_rules(scheme: str, folder: Path) -> None:
    assert scheme in TARGETS, "a resolver of ours needs an example target in this file"
    backends = Manual("checked")  # for manual:///checked, which lives as long as this test
    backends.update(["10.0.0.1:50051"])
    for target in TARGETS[scheme]:
        await check_resolver(target.format(folder=folder))


async def test_file_resolver_says_that_its_file_is_gone(folder: Path) -> None:
    path = folder / "endpoints.json"

    @contextmanager
    def gone() -> Iterator[None]:
        away = path.rename(folder / "away")
        yield
        away.rename(path)

    await check_resolver(
        f"file://{path}?poll=100ms", expect=["10.0.0.1:50051", "10.0.0.2:50051"], outage=gone
    )


async def test_dns_resolver_says_that_its_server_fails() -> None:
    async with name_server() as server:
        answers = records("10.0.0.2", "10.0.0.1")
        server.say("greeter.test", "A", answers)

        @contextmanager
        def failing() -> Iterator[None]:
            server.say("greeter.test", "A", SERVFAIL)
            server.say("greeter.test", "AAAA", SERVFAIL)
            yield
            server.say("greeter.test", "A", answers)
            server.say("greeter.test", "AAAA", records())

        await check_resolver(
            f"dns://{server.address}:{server.port}/greeter.test:50051",
            expect=["10.0.0.1:50051", "10.0.0.2:50051"],
            outage=failing,
            lookups=lambda: len(server.asked) // 2,
        )
