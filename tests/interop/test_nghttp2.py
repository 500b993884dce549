"""nghttp2's client and load generator, which know HTTP/2 and nothing of gRPC, with our server: plaintext and TLS."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import lbkit
from lbkit.wire.messages import frame_message
from tests.support.secured import server_tls
from tests.support.servers import PATH, Backend, Item
from tests.support.tools import needed, nghttp2

pytestmark = pytest.mark.interop

PATIENCE_S = 60.0
REQUEST = frame_message(Item(text="hello", number=7).SerializeToString())
HEADERS = ("-H", "content-type: application/grpc", "-H", "te: trailers")
REQUESTS = 2000
CONNECTIONS = 8
STREAMS = 32
BOTH = pytest.mark.parametrize("scheme", ["http", "https"])


class Tool:
    """Runs the programs against a server that says hello."""

    def __init__(self, backend: Backend, scheme: str, body: Path) -> None:
        self.backend = backend
        self.url = f"{scheme}://127.0.0.1:{backend.port}{PATH.decode()}"
        self.body = body

    async def __call__(self, program: str, *arguments: str, url: str = "") -> str:
        """Run one to its end; give what it prints."""
        process = await asyncio.create_subprocess_exec(
            *needed(functools.partial(nghttp2, program)), *arguments, *HEADERS, "-d", str(self.body), url or self.url,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(PATIENCE_S):
                said = (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, said
        return said


async def hello(request: Any, context: lbkit.ServicerContext) -> Any:
    """Answer, or refuse; trailers have metadata either way."""
    if request.number != 7:
        await context.abort(lbkit.StatusCode.INVALID_ARGUMENT, "not seven")
    context.set_trailing_metadata((("x-trailing", "1"),))
    return Item(text="hello to you")


@pytest_asyncio.fixture
async def tool(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Tool, None]:
    """A server for the scheme that the test is given, and how to run a program against it."""
    scheme = request.getfixturevalue("scheme")
    body = tmp_path / "request"
    body.write_bytes(REQUEST)
    async with listening(scheme) as backend:
        yield Tool(backend, scheme, body)


@asynccontextmanager
async def listening(scheme: str) -> AsyncGenerator[Backend, None]:
    """Run the server."""
    backend = Backend(hello)
    backend.port = backend.server.bind("127.0.0.1:0", tls=server_tls() if scheme == "https" else None)
    await backend.server.start()
    try:
        yield backend
    finally:
        await backend.server.stop(None)


def fields(said: str) -> dict[str, str]:
    """The header fields that nghttp received, of headers and trailers."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    return dict(re.findall(r"recv \(stream_id=\d+\) (\S+): (.*)$", plain, re.MULTILINE))


@BOTH
async def test_nghttp_gets_headers_message_and_trailers(tool: Tool, scheme: str) -> None:
    said = await tool("nghttp", "-v", "--no-verify-peer")
    found = fields(said)
    assert found[":status"] == "200"
    assert found["content-type"] == "application/grpc"
    assert found["grpc-status"] == "0"
    assert found["x-trailing"] == "1"
    assert "hello to you" in said
    assert said.count("recv HEADERS frame") == 2
    assert ("The negotiated protocol: h2" in said) == (scheme == "https")
    assert "RST_STREAM" not in said


@BOTH
async def test_nghttp_gets_a_status_without_a_message(tool: Tool, scheme: str) -> None:
    tool.body.write_bytes(frame_message(b""))
    said = await tool("nghttp", "-v", "--no-verify-peer")
    assert fields(said)["grpc-status"] == "3"
    assert fields(said)["grpc-message"] == "not seven"
    assert said.count("recv HEADERS frame") == 1


@BOTH
async def test_nghttp_pads_and_ranks_its_frames(tool: Tool, scheme: str) -> None:
    said = await tool("nghttp", "-v", "--no-verify-peer", "--padding=100", "--weight=7")
    assert "padlen=" in said
    assert "send PRIORITY frame" in said
    assert fields(said)["grpc-status"] == "0"


@BOTH
async def test_nghttp_with_headers_beyond_the_limit_is_told(tool: Tool, scheme: str) -> None:
    said = await tool("nghttp", "-v", "--no-verify-peer", "--continuation")  # 32 KiB
    assert fields(said)["grpc-status"] == "8"


@BOTH
@pytest.mark.parametrize("table", [[], ["--header-table-size=0", "--encoder-header-table-size=0"]])
async def test_h2load_fails_no_request(tool: Tool, scheme: str, table: list[str]) -> None:
    said = await tool("h2load", "-n", str(REQUESTS), "-c", str(CONNECTIONS), "-m", str(STREAMS), *table)
    assert (
        f"requests: {REQUESTS} total, {REQUESTS} started, {REQUESTS} done, {REQUESTS} succeeded, 0 failed"
        in said
    )
    assert f"status codes: {REQUESTS} 2xx" in said
    assert tool.backend.calls == REQUESTS
    assert ("Application protocol: h2c" if scheme == "http" else "Application protocol: h2\n") in said


@BOTH
async def test_h2load_with_tiny_windows_fails_no_request(tool: Tool, scheme: str) -> None:
    said = await tool(
        "h2load", "-n", "200", "-c", "2", "-m", "16", "--window-bits=4", "--connection-window-bits=16"
    )
    assert "200 succeeded, 0 failed, 0 errored, 0 timeout" in said
