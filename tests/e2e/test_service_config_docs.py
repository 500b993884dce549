"""The code blocks of docs/service-config.md do what the text says."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

import lbkit
from tests.e2e import test_docs
from tests.e2e.test_docs import block_with
from tests.support.protos import helloworld_pb2

PAGE = "docs/service-config.md"
ROOT = Path(__file__).parents[2]

scripts = test_docs.scripts  # a fixture


class Greeter:
    async def SayHello(self, request: Any, context: lbkit.ServicerContext) -> Any:
        return helloworld_pb2.HelloReply(message=f"hello {request.name}")


async def test_the_channel_of_the_page_has_the_policy_and_the_timeout_of_its_config(scripts: Path) -> None:
    server = lbkit.Server()
    server.add(helloworld_pb2, "Greeter", Greeter())
    port = server.bind("127.0.0.1:0")
    await server.start()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", block_with(PAGE, "CONFIG").replace("50051", str(port)), cwd=scripts,
        env={"PYTHONPATH": f"{ROOT}:{scripts}", "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(20):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await server.stop()
    assert (out, errors) == (b"hello ann\nround_robin 0.5\n", b"")


def test_the_error_of_the_page_is_the_one_that_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    block = block_with(PAGE, "ServiceConfigError")
    exec(block, {})
    assert f"print(error)  # {capsys.readouterr().out}" in block
