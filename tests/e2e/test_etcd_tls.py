"""The etcd resolver over TLS: members with certificates of their own, client certificates, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

import lbkit
from lbkit_resolvers.etcd import EtcdResolver
from tests.support.certificates import certificates
from tests.support.etcd_following import following, naming, store, target
from tests.support.etcd_server import Etcd, etcd, free_ports


def path(file: Path) -> str:
    """A path as it stands in a target."""
    return quote(str(file))


@contextmanager
def secured(folder: Path, *options: str, names: str = "") -> Generator[Etcd, None, None]:
    """Run a node that takes TLS only; it is asked for its health on a port of its own."""
    known = certificates()
    cert, key = known.authority.issue("etcd", names) if names else (known.cert, known.key)
    folder.mkdir(exist_ok=True)
    client, peer, metrics = free_ports(3)
    node = Etcd("n0", folder, client, peer, options)
    node.scheme, node.health = "https", f"http://127.0.0.1:{metrics}/health"
    node.options += ["--cert-file", str(cert), "--key-file", str(key)]
    node.options += ["--listen-metrics-urls", f"http://127.0.0.1:{metrics}"]
    node.options += ["--initial-cluster", f"n0={node.peer}"]
    try:
        node.start()
        node.ready()
        yield node
    finally:
        node.end()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Generator[Etcd, None, None]:
    with secured(tmp_path_factory.mktemp("etcd")) as running:
        yield running


async def test_an_authority_in_the_target_turns_tls_on(node: Etcd) -> None:
    options = f"?ca={path(certificates().ca)}"
    async with store(node.address, options) as hand, following(f"etcd://{node.address}/tls{options}") as seen:
        await hand.put("tls/a", naming("10.0.0.1:80"))
        await seen.shows("10.0.0.1:80")
        await hand.put("tls/b", naming("10.0.0.2:80"))
        await seen.shows("10.0.0.1:80", "10.0.0.2:80")
        assert seen.errors == []


async def test_tls_settings_can_be_given_in_code(node: Etcd) -> None:
    made = EtcdResolver(target(f"etcd://{node.address}/code"), tls=lbkit.tls(ca=certificates().ca))
    async with following(made) as seen:
        await seen.shows()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("", "before HTTP/2 began; if it expects TLS, use tls="),
        ("?tls=on", "certificate"),
        (f"?ca={path(certificates().other.ca)}", "certificate"),
        (f"?ca={path(certificates().ca)}&server-name=etcd.example", "etcd.example"),
        ("?ca=/nowhere/ca.pem", "/nowhere/ca.pem"),
    ],
    ids=["plaintext", "unknown authority", "other authority", "other name", "no such file"],
)
async def test_what_is_wrong_with_the_settings_is_said_once(node: Etcd, options: str, complaint: str) -> None:
    async with following(f"etcd://{node.address}/tls{options}") as seen:
        await seen.until(lambda: seen.errors)
        assert complaint in seen.errors[0]
        assert node.address in seen.errors[0]
        await asyncio.sleep(0.3)
        assert (len(seen.errors), seen.answers) == (1, [])


async def test_a_store_without_tls_is_told_from_one_that_is_down(tmp_path: Path) -> None:
    with etcd(tmp_path) as plain:
        async with following(f"etcd://{plain.address}/tls?ca={path(certificates().ca)}") as seen:
            await seen.until(lambda: seen.errors)
            assert "TLS" in seen.errors[0]


async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    known = certificates()
    with secured(tmp_path, "--client-cert-auth", "--trusted-ca-file", str(known.ca)) as strict:
        options = f"?ca={path(known.ca)}&cert={path(known.client_cert)}&key={path(known.client_key)}"
        async with store(strict.address, options) as hand:
            await hand.put("mutual/a", naming("10.0.0.1:80"))
        async with following(f"etcd://{strict.address}/mutual{options}") as seen:
            await seen.shows("10.0.0.1:80")
        async with following(f"etcd://{strict.address}/mutual?ca={path(known.ca)}") as seen:
            await seen.until(lambda: seen.errors)
            assert "certificate" in seen.errors[0]


async def test_each_member_shows_a_certificate_of_its_own_name(tmp_path: Path) -> None:
    """``localhost`` and ``127.0.0.1`` are two hosts here, and neither has the other's name."""
    ca = path(certificates().ca)
    with (
        secured(tmp_path / "one", names="DNS:localhost") as one,
        secured(tmp_path / "two", names="IP:127.0.0.1") as two,
    ):
        hosts = [f"localhost:{one.address.rpartition(':')[2]}", two.address]
        for each in hosts:
            async with following(f"etcd://{','.join(hosts)}/own?ca={ca}") as seen:
                await seen.shows()
                assert seen.errors == []
            async with following(f"etcd://{each}/own?ca={ca}") as seen:
                await seen.shows()
