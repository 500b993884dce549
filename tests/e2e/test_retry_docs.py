"""The code blocks of docs/retries.md do what the text says."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import lbkit
from lbkit import StatusCode
from lbkit.service_config import parse
from tests.e2e.test_docs import (
    block_with,
    scripts,  # noqa: F401 # pyright: ignore[reportUnusedImport] -- a fixture
)
from tests.support.protos import helloworld_pb2

PAGE = "docs/retries.md"
ROOT = Path(__file__).parents[2]


class Greeter:
    def __init__(self) -> None:
        self.calls = 0

    async def SayHello(self, request: Any, context: lbkit.ServicerContext) -> Any:
        self.calls += 1
        if self.calls <= 2:
            await context.abort(StatusCode.UNAVAILABLE, "not yet")
        return helloworld_pb2.HelloReply(message=f"hello {request.name}")


async def test_the_call_of_the_page_succeeds_at_its_third_attempt(scripts: Path) -> None:  # noqa: F811
    server = lbkit.Server()
    server.add(helloworld_pb2, "Greeter", Greeter())
    port = server.bind("127.0.0.1:0")
    await server.start()
    code = block_with(PAGE, "retryPolicy").replace("127.0.0.1:50051,127.0.0.1:50052", f"127.0.0.1:{port}")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", code, cwd=scripts,
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
    assert (out, errors) == (b"hello ann\nfirst UNAVAILABLE\nretry UNAVAILABLE\nretry OK\n", b"")


def test_the_hedging_policy_of_the_page_is_one() -> None:
    names: dict[str, Any] = {}
    exec(block_with(PAGE, "hedgingPolicy"), names)
    policy = parse(names["HEDGED"]).method("/helloworld.Greeter/SayHello").hedging
    assert policy is not None
    assert (policy.max_attempts, policy.delay_s) == (3, 0.1)
