"""The code blocks of docs/registration.md do what the text says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import lbkit
from lbkit import Instance
from lbkit.registrar import registry as registrars
from lbkit.testing import check_registrar, registry
from tests.e2e.test_docs import (
    block_with,
    free_port,
    run,
    scripts,  # noqa: F401  # pyright: ignore[reportUnusedImport]  # a fixture
)
from tests.support.protos import helloworld_pb2
from tests.support.servers import PATIENCE_S, until

PAGE = "docs/registration.md"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = dict(registrars._registered)
    yield
    registrars._registered = before


async def test_the_server_of_the_page_is_found_and_leaves(scripts: Path) -> None:  # noqa: F811
    port = free_port()
    async with registry() as etcd:
        code = block_with(PAGE, "# server.py").replace("127.0.0.1:2379", etcd.address)
        code = code.replace("register=", "propagation=600.0, register=")  # until it is told a second time
        server = run(scripts, "server.py", code.replace("50051", str(port)))
        try:
            request = helloworld_pb2.HelloRequest(name="ann")
            async with lbkit.Channel(etcd.target("greeter")) as found:
                stub = found.stub(helloworld_pb2, "Greeter")
                reply = await stub.SayHello(request, timeout=PATIENCE_S, wait_for_ready=True)
                assert reply.message == "hello ann"
            async with lbkit.Channel(f"static:///127.0.0.1:{port}") as direct:
                await direct.ready(PATIENCE_S)
                server.terminate()
                await until(lambda: not etcd.items("greeter/"))
                stub = direct.stub(helloworld_pb2, "Greeter")
                assert (await stub.SayHello(request, timeout=PATIENCE_S)).message == "hello ann"
            server.terminate()
            assert await asyncio.to_thread(server.communicate, timeout=20) == ("", "")
            assert server.returncode == 0
        finally:
            server.kill()
            server.communicate()


def test_an_instance_says_what_the_page_says() -> None:
    names: dict[str, object] = {}
    exec(block_with(PAGE, "lbkit.Instance("), names)
    assert names["instance"] == Instance(
        "10.0.0.7:50051", id="greeter-0", weight=3, zone="eu-1", metadata={"version": "7"}
    )


async def test_the_registrar_of_the_page_keeps_the_rules(tmp_path: Path) -> None:
    exec(block_with(PAGE, "class FolderRegistrar"), {})
    folder = tmp_path / "greeter"

    async def addresses() -> list[str]:
        return [file.read_text().partition(" ")[0] for file in folder.glob("*")]

    await check_registrar(f"folder://{folder}", listed=addresses)
