"""The etcd resolver and a store that wants to know who asks: passwords, permissions, and tokens that end."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

import lbkit
from lbkit.protos import etcd as messages
from lbkit_resolvers.etcd import resolver
from lbkit_resolvers.etcd.client import EtcdClient
from lbkit_resolvers.etcd.errors import EtcdError, Kind
from lbkit_resolvers.etcd.target import EtcdTarget
from lbkit_resolvers.etcd.watching import watch
from tests.support.etcd_following import PATIENCE_S, following, naming, target
from tests.support.etcd_server import Etcd, etcd
from tests.support.servers import Item, failure, fleet, unary


def put(node: Etcd, key: str, address: str) -> None:
    node.ctl("put", key, naming(address).decode(), "--user", "root:all")


def turn_auth_on(node: Etcd) -> None:
    """``ann`` may read ``mine/``; ``bob`` nothing."""
    for line in (
        "user add root:all",
        "user grant-role root root",
        "user add ann:p@ss",
        "user add bob:p@ss",
        "role add reader",
        "role grant-permission --prefix=true reader read mine/",
        "user grant-role ann reader",
        "auth enable",
    ):
        node.ctl(*line.split())
    put(node, "mine/a", "10.0.0.1:80")
    put(node, "other/a", "10.0.0.2:80")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Generator[Etcd, None, None]:
    with etcd(tmp_path_factory.mktemp("etcd")) as running:
        turn_auth_on(running)
        yield running


async def test_who_has_the_permission_reads_and_watches(node: Etcd) -> None:
    async with following(f"etcd://ann:p%40ss@{node.address}/mine") as seen:
        await seen.shows("10.0.0.1:80")
        await asyncio.to_thread(put, node, "mine/b", "10.0.0.3:80")
        await seen.shows("10.0.0.1:80", "10.0.0.3:80")
        await asyncio.to_thread(node.ctl, "del", "mine/b", "--user", "root:all")
        await seen.shows("10.0.0.1:80")
        assert seen.errors == []


@pytest.mark.parametrize(
    ("user", "name", "complaint"),
    [
        ("", "mine", "user name is empty; the cluster wants to know who asks: write etcd://user:password@"),
        ("ann:wrong@", "mine", "invalid user ID or password; check user and password"),
        ("nobody:wrong@", "mine", "invalid user ID or password; check user and password"),
        ("ann:p%40ss@", "other", "permission denied; grant the user that: etcdctl role grant-permission"),
        ("bob:p%40ss@", "mine", "permission denied; grant the user that"),
    ],
)
async def test_who_has_not_is_told_why(node: Etcd, user: str, name: str, complaint: str) -> None:
    async with following(f"etcd://{user}{node.address}/{name}") as seen:
        await seen.until(lambda: seen.errors)
        assert complaint in seen.errors[0]
        assert "p@ss" not in seen.errors[0]
        await asyncio.sleep(0.3)
        assert (len(seen.errors), seen.answers) == (1, [])


async def test_a_token_lost_with_a_restart_is_asked_for_again(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        await asyncio.to_thread(turn_auth_on, node)
        async with following(f"etcd://ann:p%40ss@{node.address}/mine") as seen:
            await seen.shows("10.0.0.1:80")
            await asyncio.to_thread(node.end)
            await asyncio.to_thread(node.restart)
            await asyncio.to_thread(put, node, "mine/b", "10.0.0.3:80")
            await seen.shows("10.0.0.1:80", "10.0.0.3:80")
            assert not any("token" in error for error in seen.errors)


def signing_keys(folder: Path) -> str:
    """Make an RSA key; return what ``--auth-token`` needs to sign tokens with it."""
    private, public = folder / "jwt.key", folder / "jwt.pub"
    subprocess.run(["openssl", "genrsa", "-out", private, "2048"], check=True, capture_output=True)
    subprocess.run(
        ["openssl", "rsa", "-in", private, "-pubout", "-out", public], check=True, capture_output=True
    )
    return f"jwt,pub-key={public},priv-key={private},sign-method=RS256"


async def test_a_token_that_has_expired_or_is_older_than_the_permissions_is_renewed(tmp_path: Path) -> None:
    keys = await asyncio.to_thread(signing_keys, tmp_path)
    # The end is cut down to whole seconds: with 1 s, one asked for at the end of a second would be over at once.
    with etcd(tmp_path, "--auth-token", f"{keys},ttl=3s") as node:
        await asyncio.to_thread(turn_auth_on, node)
        client = EtcdClient(EtcdTarget.read(target(f"etcd://ann:p%40ss@{node.address}/mine")))
        request = messages.RangeRequest(key=b"mine/a")
        try:
            first = ""
            for change in ("user add eve:x --user root:all", "role add more --user root:all"):
                assert len((await client.call("KV", "Range", request)).kvs) == 1
                assert client._token != first
                first = client._token
                await asyncio.to_thread(node.ctl, *change.split())
            await asyncio.sleep(3.1)
            assert len((await client.call("KV", "Range", request)).kvs) == 1
            assert client._token != first
        finally:
            await client.close()


@pytest.mark.parametrize("why", ["unknown", "older than the permissions"])
async def test_a_watch_refused_for_its_token_is_opened_with_another(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = await asyncio.to_thread(signing_keys, tmp_path)
    with etcd(tmp_path, "--auth-token", f"{keys},ttl=5m") as node:
        await asyncio.to_thread(turn_auth_on, node)
        plain, opened = EtcdClient.stream, 0

        async def stream(self: EtcdClient, service: str, method: str) -> object:
            nonlocal opened
            opened += 1
            if opened == 1 and why == "unknown":  # which is what etcd calls one that has expired, too
                self._token = "no token"
            elif opened == 1:
                await asyncio.to_thread(node.ctl, "user", "add", "eve:x", "--user", "root:all")
            return await plain(self, service, method)

        monkeypatch.setattr(EtcdClient, "stream", stream)
        async with following(f"etcd://ann:p%40ss@{node.address}/mine") as seen:
            await seen.until(lambda: opened == 2)
            await asyncio.to_thread(put, node, "mine/b", "10.0.0.3:80")
            await seen.shows("10.0.0.1:80", "10.0.0.3:80")
            assert (opened, seen.errors) == (2, [])


async def test_auth_turned_on_under_a_running_watch_keeps_the_list(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        async with following(f"etcd://{node.address}/mine") as seen:
            await seen.shows()
            await asyncio.to_thread(turn_auth_on, node)
            await asyncio.to_thread(node.end)
            await asyncio.to_thread(node.restart)
            await seen.until(lambda: any("who asks" in error for error in seen.errors))
            assert [] not in seen.answers[1:]


@pytest.mark.parametrize(
    ("user", "complaint", "mend", "restore"),
    [
        ("bob:p%40ss", "permission denied", ["user grant-role bob reader"], "user revoke-role bob reader"),
        (
            "eve:right",
            "check user and password",
            ["user add eve:right", "user grant-role eve reader"],
            "user delete eve",
        ),
    ],
)
async def test_what_was_mended_is_used_when_the_channel_is_told(
    node: Etcd, monkeypatch: pytest.MonkeyPatch, user: str, complaint: str, mend: list[str], restore: str
) -> None:
    never = lbkit.BackoffPolicy(initial_s=3600.0, maximum_s=3600.0)  # in place of 32 s and more
    for kind in (Kind.DENIED, Kind.WRONG_PASSWORD):
        monkeypatch.setitem(resolver._WAITS, kind, never)

    async def root(command: str) -> None:
        await asyncio.to_thread(node.ctl, *command.split(), "--user", "root:all")

    async with fleet(1) as (backend,), lbkit.Channel(f"etcd://{user}@{node.address}/mine/told") as channel:
        await asyncio.to_thread(put, node, "mine/told/a", backend.address)
        call = unary(channel)
        assert complaint in (await failure(call(Item(), timeout=PATIENCE_S))).details()
        try:
            for command in mend:
                await root(command)
            channel.reset_backoff()
            answer = await call(Item(), timeout=PATIENCE_S, wait_for_ready=True)
        finally:
            await root(restore)
            await asyncio.to_thread(node.ctl, "del", "mine/told/a", "--user", "root:all")
        assert answer.text == "backend 0"


async def test_a_stream_needs_the_password_too(node: Etcd) -> None:
    client = EtcdClient(EtcdTarget.read(target(f"etcd://ann:wrong@{node.address}/mine")))
    try:
        with pytest.raises(EtcdError) as caught:
            await client.stream("Watch", "Watch")
        assert (caught.value.kind, caught.value.reached) == (Kind.WRONG_PASSWORD, True)
        assert caught.value.needs_people
    finally:
        await client.close()


async def test_a_watch_without_the_permission_says_so(node: Etcd) -> None:
    client = EtcdClient(EtcdTarget.read(target(f"etcd://ann:p%40ss@{node.address}/other")))
    try:
        with pytest.raises(EtcdError) as caught:
            await watch(client, b"other/", 1, lambda events, revision: None)
        assert caught.value.kind is Kind.DENIED
    finally:
        await client.close()
