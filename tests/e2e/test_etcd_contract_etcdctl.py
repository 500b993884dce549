"""etcdctl prints the same of the embedded registry as of a real etcd."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from lbkit.testing import registry
from tests.support.etcd_contract import Client
from tests.support.etcd_server import Etcd, etcd, etcdctl
from tests.support.tools import needed, server

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Generator[Etcd, None, None]:
    with etcd(Path(tmp_path_factory.mktemp("etcd"))) as node:
        yield node


@pytest.fixture(params=["embedded", "etcd"])
async def client(request: pytest.FixtureRequest) -> AsyncGenerator[Client, None]:
    if request.param == "embedded":
        async with registry() as embedded, Client(embedded.address) as connected:
            yield connected
    else:
        async with Client(request.getfixturevalue("real").address) as connected:
            await connected.clear()
            yield connected


async def ctl(client: Client, *arguments: str) -> str:
    return await asyncio.to_thread(etcdctl, client.address, *arguments)


async def test_put_get_and_del(client: Client) -> None:
    assert await ctl(client, "put", "greeter/a", "1") == "OK\n"
    assert await ctl(client, "put", "greeter/b", "2") == "OK\n"
    assert await ctl(client, "put", "greeter/b", "3", "--prev-kv") == "OK\ngreeter/b\n2\n"
    assert await ctl(client, "get", "greeter/a") == "greeter/a\n1\n"
    assert await ctl(client, "get", "--prefix", "greeter/") == "greeter/a\n1\ngreeter/b\n3\n"
    assert await ctl(client, "get", "--prefix", "--keys-only", "--limit", "1", "greeter/") == "greeter/a\n\n"
    assert await ctl(client, "get", "--from-key", "greeter/b", "--print-value-only") == "3\n"
    assert await ctl(client, "get", "--prefix", "", "--order", "DESCEND", "--keys-only") == (
        "greeter/b\n\ngreeter/a\n\n"
    )
    rev = await client.revision()
    assert await ctl(client, "get", "greeter/b", "--rev", str(rev - 1)) == "greeter/b\n2\n"
    assert await ctl(client, "del", "--prefix", "greeter/") == "2\n"
    assert await ctl(client, "get", "--prefix", "greeter/") == ""


async def test_json(client: Client) -> None:
    base = await client.set(a="1")
    said = json.loads(await ctl(client, "get", "a", "-w", "json"))
    assert said["header"].keys() == {"cluster_id", "member_id", "revision", "raft_term"}
    assert said["kvs"] == [
        {"key": "YQ==", "create_revision": base, "mod_revision": base, "version": 1, "value": "MQ=="}
    ]
    assert said["count"] == 1


async def test_txn(client: Client) -> None:
    await client.set(a="1")
    commands = 'value("a") = "1"\n\nput a 2\nget a\n\nput a 3\n\n'

    def run() -> str:
        command = [
            *needed(lambda: server("etcdctl")),
            "--endpoints",
            client.address,
            "--command-timeout",
            "30s",
            "txn",
        ]
        done = subprocess.run(
            command,
            input=commands,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            env={**os.environ, "ETCDCTL_API": "3"},
        )
        return done.stdout

    assert await asyncio.to_thread(run) == "SUCCESS\n\nOK\n\na\n2\n"


async def test_watch(client: Client) -> None:
    base = await client.set(greeter="1")
    command = [*needed(lambda: server("etcdctl")), "--endpoints", client.address]
    process = await asyncio.create_subprocess_exec(
        *command,
        *("watch", "--prefix", "greeter", "--prev-kv", "--rev", str(base)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "ETCDCTL_API": "3"},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            for line in ("PUT", "greeter", "1"):
                assert (await process.stdout.readline()).decode().rstrip("\n") == line
            await client.set(greeter="2")
            for line in ("PUT", "greeter", "1", "greeter", "2"):
                assert (await process.stdout.readline()).decode().rstrip("\n") == line
            await ctl(client, "del", "greeter")
            for line in ("DELETE", "greeter", "2", "greeter", ""):
                assert (await process.stdout.readline()).decode().rstrip("\n") == line
    finally:
        process.kill()
        await process.wait()


async def test_leases(client: Client) -> None:
    granted = await ctl(client, "lease", "grant", "60")
    found = re.fullmatch(r"lease ([0-9a-f]{16}) granted with TTL\(60s\)\n", granted)
    assert found is not None, granted
    lease = found[1]
    await ctl(client, "put", "a", "1", "--lease", lease)
    assert await ctl(client, "lease", "list") == f"found 1 leases\n{lease}\n"
    left = await ctl(client, "lease", "timetolive", lease, "--keys")
    assert re.fullmatch(
        rf"lease {lease} granted with TTL\(60s\), remaining\(\d+s\), attached keys\(\[a\]\)\n", left
    )
    assert (
        await ctl(client, "lease", "keep-alive", "--once", lease)
        == f"lease {lease} keepalived with TTL(60)\n"
    )
    assert await ctl(client, "lease", "revoke", lease) == f"lease {lease} revoked\n"
    assert await ctl(client, "get", "a") == ""
    assert "already expired" in await ctl(client, "lease", "timetolive", lease)


async def test_compact(client: Client) -> None:
    base = await client.set(a="1")
    await client.set(a="2")
    assert await ctl(client, "compact", str(base + 1)) == f"compacted revision {base + 1}\n"
    with pytest.raises(AssertionError, match="required revision has been compacted"):
        await ctl(client, "get", "a", "--rev", str(base))


async def test_members_and_health(client: Client) -> None:
    members = await ctl(client, "member", "list")
    assert re.fullmatch(rf"[0-9a-f]+, started, \w+, .*, http://{client.address}, false\n", members)
    assert "is healthy: successfully committed proposal" in await ctl(client, "endpoint", "health")
    assert f"{client.address}, " in await ctl(client, "endpoint", "status")
    (status,) = json.loads(await ctl(client, "endpoint", "status", "-w", "json"))
    assert status["Status"]["leader"] == status["Status"]["header"]["member_id"]
    assert await ctl(client, "alarm", "list") == ""


async def test_a_lock_is_held_by_one_at_a_time(client: Client) -> None:
    """What etcdctl makes of leases, transactions and watches."""
    assert await ctl(client, "lock", "mutex", "echo", "mine") == "mine\n"
    assert await ctl(client, "lock", "mutex", "echo", "mine too") == "mine too\n"
