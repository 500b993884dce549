"""The commands and the code of docs/etcd.md do what the text says, with a real etcd."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_docs import (
    block_with,
    scripts,  # noqa: F401 # pyright: ignore[reportUnusedImport] -- a fixture
)
from tests.support.etcd_following import following
from tests.support.etcd_server import Etcd, etcd

PAGE = "docs/etcd.md"
ROOT = Path(__file__).parents[2]


def commands(text: str) -> list[list[str]]:
    """The lines of the shell block with that text, as arguments of etcdctl."""
    found = re.findall(r"^```sh\n(.*?)^```", (ROOT / PAGE).read_text(), re.MULTILINE | re.DOTALL)
    (block,) = [each for each in found if text in each]
    return [shlex.split(line)[1:] for line in block.splitlines()]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Generator[Etcd, None, None]:
    with etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


async def test_the_records_of_the_page_are_backends(node: Etcd) -> None:
    for line in [*commands("svc/greeter/a"), *commands("greeter.rpc/")]:
        await asyncio.to_thread(node.ctl, *line)
    async with following(f"etcd://{node.address}/svc/greeter") as seen:
        await seen.shows("10.0.0.1:50051", "10.0.0.2:50051")
        second = seen.latest.endpoints[1]
        assert (second.weight, second.zone, second.metadata) == (3, "eu", {"version": "v2"})
    async with following(f"etcd://{node.address}/greeter?codec=kratos") as seen:
        await seen.shows("10.0.0.3:9000")
        assert (seen.latest.endpoints[0].weight, seen.latest.endpoints[0].metadata) == (3, {"version": "v1"})
    async with following(f"etcd://{node.address}/greeter.rpc?codec=gozero") as seen:
        await seen.shows("10.0.0.4:8080")


async def test_the_permissions_of_the_page_are_enough(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        on = ["user add root:all", "user grant-role root root", "auth enable"]
        for line in [*commands("role add reader"), *map(str.split, on)]:
            await asyncio.to_thread(node.ctl, *line)
        async with following(f"etcd://ann:secret@{node.address}/svc/greeter") as seen:
            await seen.shows()


async def test_the_server_of_the_page_registers_and_its_channel_finds_it(node: Etcd, scripts: Path) -> None:  # noqa: F811
    code = (
        block_with(PAGE, "register=TARGET").replace("127.0.0.1:2379", node.address).replace("svc/", "page/")
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", code, cwd=scripts,
        env={"PYTHONPATH": f"{ROOT}:{scripts}", "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (out.decode(), errors.decode()) == ('message: "hello ann"\n\n', "")
    assert node.ctl("get", "--prefix", "page/") == ""


async def test_the_resolver_of_the_page_can_be_made() -> None:
    names: dict[str, Any] = {}
    exec(block_with(PAGE, "EtcdResolver(target"), names)  # the project's own page
    assert names["resolver"]._where.hosts == ("10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379")
    await names["channel"].close()
