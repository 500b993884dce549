"""The code blocks of docs/sync.md do what the text says."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tied import tied

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/sync.md").read_text()
BLOCKS: list[str] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ANSWERS = "hello ann\nOK 0\n['hello ann', 'hello bob']\nUNIMPLEMENTED\n"
# Port 0, and told to the test: a port that was free a moment ago may be another's now.
BOUND = 'print(server.bind("127.0.0.1:0"), flush=True)\nwith server.serving():'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the generated module under the name that the page gives it."""
    (tmp_path / "helloworld_pb2.py").write_text(
        "from tests.support.protos.helloworld_pb2 import *\n"
        "from tests.support.protos.helloworld_pb2 import DESCRIPTOR\n"
    )
    return tmp_path


def block(text: str) -> str:
    (found,) = [code for code in BLOCKS if text in code]
    return found


def run(folder: Path, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        tied([sys.executable, "-W", "error", "-c", code]),
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}:{folder}", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_server_and_client_of_the_page_talk_and_the_server_drains_on_a_signal(folder: Path) -> None:
    code = block("# server.py").replace('with server.serving("127.0.0.1:50051"):', BOUND)
    with run(folder, code) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            with run(folder, block("# client.py").replace("50051", port)) as client:
                assert client.communicate(timeout=30) == (ANSWERS, "")
            server.send_signal(signal.SIGTERM)
            assert server.communicate(timeout=30) == ("", "")
            assert server.returncode == 0
        finally:
            server.kill()


def test_each_process_gets_a_channel_of_its_own() -> None:
    names: dict[str, Any] = {}
    exec(block("# channels.py"), names)  # the project's own page
    assert names["channel"]() is names["channel"]()
    names["channel"]().close()


def test_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 110
