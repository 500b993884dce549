"""Every policy and resolver that ships with lbkit passes the checks that strangers run on theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from lbkit.testing import check_balancer, check_resolver, fake_consul, fake_dns, fake_kubernetes, registry
from lbkit_resolvers.manual import Manual


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
    "consul": ["consul://{consul}/checked"],
    "debounce": ["debounce:///?quiet=1s&of=manual:///checked"],
    "dns": ["dns:///127.0.0.1:50051", "dns:///[::1]:50051", "dns:///localhost:50051", "localhost:50051"],
    "etcd": ["etcd://{registry}/checked"],
    "fallback": ["fallback:///?a=manual:///checked&b=static:///10.0.0.2:50051"],
    "file": ["file://{folder}/endpoints.json", "file://{folder}/list.json?poll=100ms"],
    "filter": ["filter:///?zone=eu,&version!=6&of=manual:///checked"],
    "guard": ["guard:///?max_loss=30&of=static:///10.0.0.1:50051"],
    "ipv4": ["ipv4:10.0.0.1:50051,10.0.0.2:50051"],
    "ipv6": ["ipv6:[2001:db8::1]:50051,[2001:db8::2]:50051"],
    "k8s": ["k8s:///checked:grpc?kubeconfig={kubeconfig}"],
    "kubernetes": ["kubernetes:///checked.default?kubeconfig={kubeconfig}"],
    "last-good": ["last-good:///?file={folder}/good.json&of=guard:///?of=manual:///checked"],
    "manual": ["manual:///checked"],
    "merge": ["merge:///?a=manual:///checked&b=ipv4:10.0.0.2:50051"],
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
    async with registry() as store, fake_kubernetes() as cluster, fake_consul() as consul:
        consul.put("checked", "10.0.0.1:50051")
        cluster.set("checked", "10.0.0.1:50051")
        store.put("checked/a", json.dumps({"Op": 0, "Addr": "10.0.0.1:50051", "Metadata": None}))
        for target in TARGETS[scheme]:
            await check_resolver(
                target.format(
                    folder=folder,
                    registry=store.address,
                    kubeconfig=cluster.kubeconfig,
                    consul=consul.address,
                )
            )


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
    async with fake_dns() as server:
        server.set("greeter.test", "A", "10.0.0.2", "10.0.0.1")

        @contextmanager
        def failing() -> Iterator[None]:
            server.fail("REFUSED")
            yield
            server.heal()

        await check_resolver(
            server.target("greeter.test:50051"),
            expect=["10.0.0.1:50051", "10.0.0.2:50051"],
            outage=failing,
            lookups=lambda: len(server.asked) // 2,
        )
