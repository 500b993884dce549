"""Servers and channels on names of Linux's abstract namespace, and the targets of Unix sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit.address import Address
from lbkit.transport.connector import SocketConnector
from tests.support.servers import PATIENCE_S, Backend, Item, naming, unary

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract sockets")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other process has."""
    return f"lbkit-test-{os.getpid()}-{request.node.name}"


@linux
async def test_calls_pass_over_an_abstract_socket(name: str) -> None:
    backend = await Backend(naming("here")).start(f"unix-abstract:{name}")
    for target in (f"unix-abstract:{name}", f"static:///unix-abstract:{name}"):
        async with lbkit.Channel(target) as channel:
            assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "here"
    await backend.server.stop(None)


@linux
async def test_peer_of_an_abstract_socket_is_a_unix_socket(name: str) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        return Item(text=context.peer())

    backend = await Backend(behaviour).start(f"unix-abstract:{name}")
    async with lbkit.Channel(f"unix-abstract:{name}") as channel:
        assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text.startswith("unix")
    await backend.server.stop(None)


@linux
async def test_name_is_free_when_its_server_is_gone_and_refused_before(name: str) -> None:
    first = await Backend(naming("first")).start(f"unix-abstract:{name}")
    with pytest.raises(OSError, match=rf"cannot listen on unix-abstract:{name}: .*in use"):
        Backend().server.bind(f"unix-abstract:{name}")
    await first.server.stop(None)
    second = await Backend(naming("second")).start(f"unix-abstract:{name}")
    async with lbkit.Channel(f"unix-abstract:{name}") as channel:
        assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "second"
    await second.server.stop(None)


@linux
async def test_name_that_nobody_has_is_described(name: str) -> None:
    async with lbkit.Channel(f"unix-abstract:{name}") as channel:
        with pytest.raises(lbkit.RpcError, match=f"unix-abstract:{name}.*refused"):
            await unary(channel)(Item(), timeout=PATIENCE_S)


@linux
async def test_name_has_no_zero_bytes_behind_it(name: str) -> None:
    backend = await Backend().start(f"unix-abstract:{name}")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + name)
        assert sock.getpeername() == b"\0" + name.encode()
    await backend.server.stop(None)


async def test_abstract_sockets_are_refused_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    why = f"unix-abstract:{name}: only Linux has abstract sockets; use unix:/path"
    with pytest.raises(OSError, match=why):
        await SocketConnector().connect(Address("\0" + name, None), asyncio.BufferedProtocol)
    with pytest.raises(OSError, match=r"cannot listen on .*only Linux has abstract sockets"):
        Backend().server.bind(f"unix-abstract:{name}")


async def test_unix_targets_reach_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend = await Backend(naming("here")).start("unix:app.sock")
    for target in ("unix:app.sock", f"unix:{tmp_path}/app.sock", f"unix://{tmp_path}/app.sock"):
        async with lbkit.Channel(target) as channel:
            assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "here"
    await backend.server.stop(None)
