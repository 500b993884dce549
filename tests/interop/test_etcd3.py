"""The adapter for a program's own etcd3 client, on real etcd: in processes of their own, as etcd3 needs them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lbkit_resolvers.etcd.adapter import Etcd3Registrar, Etcd3Resolver
from tests.support.etcd_server import Etcd, etcd
from tests.support.servers import serving
from tests.support.tools import ROOT

pytestmark = pytest.mark.interop

PATIENT_S = 30.0


class Program:
    """A running ``etcd3_program``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENT_S):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def next(self, kind: str) -> str:
        """The rest of the next line that begins with that word."""
        while not (line := await self.line()).startswith(kind):
            assert line, f"the program ended, and never said {kind!r}"
        return line.removeprefix(kind).strip()

    async def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        return float(await self.next("cpu"))


@asynccontextmanager
async def program(what: str, node: Etcd) -> AsyncIterator[Program]:
    """Run it; it must end well, and quietly."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.interop.etcd3_program",
        what,
        node.address,
        cwd=ROOT,
        env={
            **os.environ,
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
            "PYTHONPATH": os.pathsep.join(str(ROOT / each) for each in ("", "resolvers", "balancers")),
            "GRPC_VERBOSITY": "NONE",
        },
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    ended = False
    try:
        yield Program(process)
        async with asyncio.timeout(PATIENT_S):
            said, errors = await process.communicate(b"")  # the end of stdin
        ended = True
        assert said.decode().splitlines()[-1:] == ["end"], errors.decode()
        assert process.returncode == 0
        assert b"Traceback" not in errors, errors.decode()
    finally:
        if not ended:
            process.kill()
            _, errors = await process.communicate()
            sys.stderr.write(errors.decode())


async def put(node: Etcd, number: int, weight: int = 1) -> None:
    value = f'{{"Op":0,"Addr":"10.0.0.{number}:1","Metadata":{{"weight":{weight}}}}}'
    await asyncio.to_thread(node.ctl, "put", f"svc/foo/{number}", value)


async def test_records_are_listed_and_followed(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        await put(node, 1, weight=3)
        async with program("resolve", node) as running:
            assert await running.next("update") == "10.0.0.1:1*3"
            await put(node, 2)
            assert await running.next("update") == "10.0.0.1:1*3 10.0.0.2:1*1"
            await asyncio.to_thread(node.ctl, "del", "svc/foo/1")
            assert await running.next("update") == "10.0.0.2:1*1"
            await asyncio.to_thread(node.ctl, "del", "svc/foo/2")
            assert await running.next("update") == ""


async def test_an_outage_costs_neither_the_list_nor_the_processor_and_changes_in_it_are_found(
    tmp_path: Path,
) -> None:
    with etcd(tmp_path) as node:
        await put(node, 1)
        async with program("resolve", node) as running:
            assert await running.next("update") == "10.0.0.1:1*1"
            await asyncio.to_thread(node.end)
            before = await running.cpu()
            await asyncio.sleep(3.0)  # in which etcd3's own watch thread uses as many seconds
            used = await running.cpu() - before
            assert used < 1.0
            await asyncio.to_thread(node.restart)
            await put(node, 2)
            revision = await asyncio.to_thread(node.ctl, "get", "svc/foo/2", "-w", "fields")
            number = next(line.split()[-1] for line in revision.splitlines() if "ModRevision" in line)
            await asyncio.to_thread(node.ctl, "compact", number)
            while (found := await running.next("update")) != "10.0.0.1:1*1 10.0.0.2:1*1":
                assert found == "10.0.0.1:1*1"  # never less
            await put(node, 3)
            assert await running.next("update") == "10.0.0.1:1*1 10.0.0.2:1*1 10.0.0.3:1*1"


async def test_a_channel_balances_over_what_the_client_finds(tmp_path: Path) -> None:
    with etcd(tmp_path) as node:
        async with serving() as backend:
            record = f'{{"Op":0,"Addr":"{backend.address}"}}'
            await asyncio.to_thread(node.ctl, "put", "svc/foo/a", record)
            async with program("call", node) as running:
                assert await running.next("answer") == "hello"


async def test_a_server_is_registered_and_comes_back_after_a_loss(tmp_path: Path) -> None:
    record = '{"Op":0,"Addr":"10.0.0.7:1","Metadata":{"weight":3}}'
    with etcd(tmp_path) as node:

        async def found() -> str:
            return await asyncio.to_thread(node.ctl, "get", "--prefix", "svc/foo", "--print-value-only")

        async with program("register", node) as running:
            await running.next("registered")
            assert (await found()).strip() == record
            await asyncio.to_thread(node.ctl, "del", "svc/foo/10.0.0.7:1")
            assert "somebody deleted the record" in await running.next("lost")
            await running.next("registered")
            await asyncio.to_thread(node.end)
            await running.next("lost")
            await asyncio.to_thread(node.restart)
            await running.next("registered")
            assert (await found()).strip() == record
        assert await found() == ""


@pytest.mark.parametrize("kind", [Etcd3Resolver, Etcd3Registrar])
def test_what_is_no_client_is_refused(kind: type) -> None:
    with pytest.raises(TypeError, match=r"is no client of etcd3's, such as etcd3\.client\(\) returns"):
        kind(object(), "svc/foo")


async def test_a_process_that_cannot_import_etcd3_is_told_why() -> None:
    code = "from lbkit_resolvers.etcd.adapter import _etcdrpc; _etcdrpc()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "resolvers")}
    environment.pop("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    last = errors.decode().splitlines()[-1]
    assert last.startswith("ImportError: etcd3 0.12 cannot be imported with protobuf 4 or later unless ")
    assert "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python" in last
    assert "need neither etcd3 nor that" in last
