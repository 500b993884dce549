"""Servers and channels on Unix sockets."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

import lbkit
from tests.support.servers import PATIENCE_S, Backend, Item, channel_to, failure, naming, serving, unary


async def start(path: Path, name: str) -> Backend:
    backend = Backend(naming(name))
    return await backend.start(f"unix:{path}")


async def test_calls_pass_over_a_unix_socket(tmp_path: Path) -> None:
    backend = await start(tmp_path / "app.sock", "here")
    async with channel_to(f"unix:{tmp_path}/app.sock") as channel:
        assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "here"
    await backend.server.stop(None)


async def test_peer_of_a_unix_socket_is_named_so(tmp_path: Path) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        return Item(text=context.peer())

    backend = await Backend(behaviour).start(f"unix:{tmp_path}/app.sock")
    async with channel_to(f"unix:{tmp_path}/app.sock") as channel:
        assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text.startswith("unix:")
    await backend.server.stop(None)


async def test_tcp_and_unix_serve_side_by_side(tmp_path: Path) -> None:
    backend = Backend(naming("both"))
    assert backend.server.bind(f"unix:{tmp_path}/app.sock") == 0
    await backend.start()
    async with channel_to(backend, f"unix:{tmp_path}/app.sock") as channel:
        assert [(await unary(channel)(Item())).text for _ in range(4)] == ["both"] * 4
    await backend.server.stop(None)


async def test_next_server_takes_the_path_over(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    await (await start(path, "first")).server.stop(None)
    second = await start(path, "second")
    async with channel_to(f"unix:{path}") as channel:
        assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "second"
    await second.server.stop(None)


async def test_path_of_a_killed_server_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.bind(str(path))
        killed.listen()
    assert path.exists()
    await (await start(path, "next")).server.stop(None)


async def test_path_that_somebody_serves_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    first = await start(path, "first")
    with pytest.raises(OSError, match=r"cannot listen on unix:.*in use"):
        Backend().server.bind(f"unix:{path}")
    async with channel_to(f"unix:{path}") as channel:
        assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "first"
    await first.server.stop(None)


async def test_ordinary_file_at_the_path_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="cannot listen on unix:"):
        Backend().server.bind(f"unix:{path}")
    assert path.read_text() == "precious"


async def test_missing_path_is_described(tmp_path: Path) -> None:
    async with channel_to(f"unix:{tmp_path}/nobody.sock") as channel:
        error = await failure(unary(channel)(Item()))
        assert error.code() is lbkit.StatusCode.UNAVAILABLE
        assert f"unix:{tmp_path}/nobody.sock  no such file" in error.details().lower().replace(
            str(tmp_path).lower(), str(tmp_path)
        )


async def test_address_in_use_is_described() -> None:
    async with serving() as backend:
        with pytest.raises(OSError, match=f"cannot listen on {backend.address}: .*in use"):
            Backend().server.bind(backend.address)


async def test_failed_start_of_serving_leaves_nothing_open() -> None:
    async with serving() as other:
        with pytest.raises(OSError, match="cannot listen"):
            async with lbkit.Server().serving("127.0.0.1:0", other.address):
                raise AssertionError("it cannot have started")
    await asyncio.sleep(0)
