"""The code blocks of docs/migration.md do what the text says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import lbkit
from lbkit.compat.options import CHANNEL, SERVER
from tests.support.servers import PATIENCE_S, QUICK
from tests.support.tied import tied

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/migration.md").read_text()
BLOCKS: list[str] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ANSWERS = "hello ann\nTrue who are you?\n"
PORT = re.compile(r"127\.0\.0\.1:50051")

# What a block of grpc.aio looks like before the change that the page describes.
BEFORE = {
    "lbkit.Server()": "grpc.aio.server()",
    'lbkit.Channel("static:///127.0.0.1:50051")': 'grpc.aio.insecure_channel("127.0.0.1:50051")',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the generated modules under the names that the page gives them."""
    for name in ("helloworld_pb2", "helloworld_pb2_grpc"):
        (tmp_path / f"{name}.py").write_text(f"from tests.support.protos.{name} import *\n")
    return tmp_path


def block(text: str) -> str:
    (found,) = [code for code in BLOCKS if text in code]
    return found


@contextmanager
def running(folder: Path, code: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program, and end it."""
    process = subprocess.Popen(
        tied([sys.executable, "-W", "error", "-c", code]),
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}:{folder}", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def undone(code: str) -> str:
    for after, before in BEFORE.items():
        code = code.replace(after, before)
    return code


def one_line_changed(code: str) -> str:
    """The program of grpc.aio with the import that the page names first."""
    line = block("import lbkit.compat as grpc").partition("#")[0].strip()
    return undone(code).replace("import grpc.aio", line).replace("import lbkit\n", "")


FORMS: dict[str, Callable[[str], str]] = {"lbkit": str, "lbkit.compat": one_line_changed, "grpcio": undone}


@pytest.mark.parametrize("server_is", FORMS)
@pytest.mark.parametrize("client_is", FORMS)
async def test_server_and_client_talk_before_and_after_the_change(
    folder: Path, server_is: str, client_is: str
) -> None:
    server, client = block("# server.py"), block("# client.py")
    server, client = FORMS[server_is](server), FORMS[client_is](client)
    # Port 0, and told to the test: a port that was free a moment ago may be another's now.
    server = server.replace('server.add_insecure_port("127.0.0.1:50051")',
                            'print(server.add_insecure_port("127.0.0.1:0"), flush=True)')  # fmt: skip
    with ExitStack() as stack:
        stdout = stack.enter_context(running(folder, server)).stdout
        assert stdout is not None
        port = int(stdout.readline())
        async with lbkit.Channel(f"static:///127.0.0.1:{port}", backoff=QUICK) as channel:
            await channel.ready(PATIENCE_S)
        program = stack.enter_context(running(folder, PORT.sub(f"127.0.0.1:{port}", client)))
        assert program.communicate(timeout=30) == (ANSWERS, "")


def test_shim_is_installed_before_generated_code_is_imported(folder: Path) -> None:
    with running(folder, block("install_grpc_shim()")) as program:
        out, errors = program.communicate(timeout=30)
        assert (out.split()[0], errors) == ("StatusCode.OK", "")
    refused = "import sys; sys.modules['grpc'] = None\n" + block("install_grpc_shim()")
    with running(folder, refused) as program:
        out, errors = program.communicate(timeout=30)
        assert (out.split()[0], errors) == ("StatusCode.OK", "")


def test_every_option_that_the_page_names_is_there() -> None:
    for owner, names in re.findall(r"`(Channel|Server)\(([a-z_=, ]+)\)`", PAGE):
        parameters = getattr(lbkit, owner).__init__.__annotations__
        for name in names.split(","):
            assert name.strip(" =") in parameters, f"{owner}({name})"


def test_table_has_every_option_and_what_becomes_of_it() -> None:
    rows = re.findall(r"^\| `(grpc\.[a-z0-9_.]+)` \|(.*)\|(.*)\|$", PAGE, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted({*CHANNEL, *SERVER})
    for name, channel, server in rows:
        for text, table in ((channel, CHANNEL), (server, SERVER)):
            assert bool(text.strip()) == (name in table)
            keyword = table[name][0] if name in table else ""
            if keyword.startswith("limits."):
                assert f"`{keyword.partition('.')[2]}` of `" in text
            elif "." not in keyword:
                assert keyword in text


def test_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 200
