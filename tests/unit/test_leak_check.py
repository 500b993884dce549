"""The leak check of tests/conftest.py catches each kind of litter, and lets tidy tests pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TESTS = """
import asyncio, gc, socket, threading
import pytest
from tests import conftest

kept = []
conftest.GRACE_S["thread"] = 0.25  # none of those here ends by itself

async def test_tidy():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    writer.close()
    server.close()
    await asyncio.gather(asyncio.create_task(asyncio.sleep(0)), asyncio.to_thread(int))

@pytest.fixture
async def server():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    yield server
    server.close()
    await server.wait_closed()

async def test_tidy_fixture(server):
    assert server.is_serving()

async def test_task():
    kept.append(asyncio.create_task(asyncio.sleep(3600), name="forgotten"))

async def test_socket():
    kept.append(socket.socket())

async def test_thread():
    kept.append(threading.Event())
    threading.Thread(target=kept[-1].wait, name="forgotten", daemon=True).start()

async def test_exception():
    async def fail():
        raise LookupError("nobody looks")
    asyncio.create_task(fail())
    await asyncio.sleep(0.01)

async def test_exception_in_cycle():
    future = asyncio.get_running_loop().create_future()
    future.set_exception(LookupError("nobody looks"))
    cycle = [future]
    cycle.append(cycle)

async def test_callback():
    def fail():
        raise LookupError("nobody looks")
    asyncio.get_running_loop().call_soon(fail)

async def test_resource():
    forgotten = [socket.socket()]
    forgotten.append(forgotten)

@pytest.mark.may_leak("thread", reason="shows the way out")
async def test_allowed():
    threading.Thread(target=threading.Event().wait, daemon=True).start()
"""

LITTER = {
    "test_task": "name='forgotten'",
    "test_socket": "socket:[",
    "test_thread": "<Thread(forgotten",
    "test_exception": "Task exception was never retrieved: LookupError('nobody looks')",
    "test_exception_in_cycle": "Future exception was never retrieved: LookupError('nobody looks')",
    "test_callback": "LookupError('nobody looks')",
    "test_resource": "unclosed <socket.socket fd=",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says about the tests above, run with the check as a plug-in."""
    folder = tmp_path_factory.mktemp("litter")
    (folder / "test_litter.py").write_text(TESTS)
    pytest_ = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rA"]
    done = subprocess.run(
        [*pytest_, "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", LITTER)
def test_litter_is_caught(report: str, name: str) -> None:
    _, _, section = report.partition(f"ERROR at teardown of {name} ")
    section, _, _ = section.partition("\n____")
    assert "left behind:" in section, report
    assert LITTER[name] in section, section


@pytest.mark.parametrize("name", ["test_tidy", "test_tidy_fixture", "test_allowed"])
def test_tidy_test_passes(report: str, name: str) -> None:
    assert f"ERROR at teardown of {name} " not in report, report
    assert f"PASSED test_litter.py::{name}" in report, report
