"""Every program of ``examples/``, run as a reader would run it: processes, their output, their exit status."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import lbkit
from lbkit.http2 import frames
from lbkit.wire.messages import frame_message
from tests.support.servers import failure, raw_client, until
from tests.support.tied import tied
from tests.support.wire import REQUEST, data_frame

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*_*.py") if not path.stem.endswith("_pb2"))
MIB = 2**20
pb2 = importlib.import_module("examples.examples_pb2")
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1"}
PATIENCE_S = 30.0


def command(program: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / program), *map(str, arguments)]


class Running:
    """A program that runs, and its output so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def read_until(self, text: str) -> str:
        """Read up to a line that has this in it; return the line."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if text in line:
                return line.rstrip("\n")
        pytest.fail(f"ended without {text!r}, after: {''.join(lines)}")

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Send a signal, or close its input; return the exit status and the rest of the output."""
        if number is not None:
            self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output


@contextmanager
def running(program: str, *arguments: str | Path) -> Generator[Running, None, None]:
    """A program with a pipe at each end; killed at the end if it still runs."""
    with subprocess.Popen(
        tied(command(program, *arguments)),
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


@contextmanager
def serving(program: str, *arguments: str | Path) -> Generator[str, None, None]:
    """A server, its target for the client; it must stop by itself when it is asked to, and say nothing more."""
    with running(program, *arguments, "127.0.0.1:0") as server:
        port = server.read_until("listening on port ").rpartition(" ")[2]
        yield f"static:///127.0.0.1:{port}"
        assert server.end(signal.SIGTERM) == (0, "")


def run(program: str, *arguments: str | Path) -> tuple[int, str, str]:
    """A program that ends by itself: its exit status, output and errors."""
    done = subprocess.run(
        command(program, *arguments),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def contents(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(7).randbytes(32 * MIB)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A served folder beside a file that is none of its own."""
    (tmp_path / "secret.txt").write_text("secret")
    served = tmp_path / "served"
    (served / "inner").mkdir(parents=True)
    return served


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        ("unary", "the root of 2 is 1.414\nINVALID_ARGUMENT: -2 has no real root\n"),
        ("server_streaming", "3 ...\n2 ...\n1 ...\nlift-off\n"),
        ("client_streaming", "adding 1\nadding 2\nadding 3\nadding 4\nthe sum is 10\n"),
        ("bidirectional", "after 1: 1\nafter 10: 11\nafter 100: 111\nthe end\n"),
    ],
)
def test_each_kind_of_call(kind: str, output: str) -> None:
    with serving(f"{kind}_server.py") as target:
        assert run(f"{kind}_client.py", target) == (0, output, "")


def test_server_stops_on_ctrl_c() -> None:
    with running("unary_server.py", "127.0.0.1:0") as server:
        server.read_until("listening")
        assert server.end(signal.SIGINT) == (0, "")


# Download


def test_download_of_32_mib_is_the_same_file(folder: Path, content: bytes, tmp_path: Path) -> None:
    (folder / "big.bin").write_bytes(content)
    with serving("download_server.py", folder) as target:
        status, output, errors = run("download_client.py", "big.bin", tmp_path / "copy", target)
    assert (status, errors) == (0, "")
    digest = hashlib.sha256(content).hexdigest()
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).hexdigest() == digest
    *bars, last = output.replace("\n", "\r").removeprefix("\r").removesuffix("\r").split("\r")
    assert last == f"{32 * MIB} bytes, sha256 {digest} as sent"
    assert len(bars) == 32, "a message of 1 MiB for each step of the bar"
    assert bars[0] == f"[{'#':<40}]   3%"
    assert bars[15] == f"[{'#' * 20:<40}]  50%"
    assert bars[-1] == f"[{'#' * 40}] 100%"


def test_download_of_an_empty_file(folder: Path, tmp_path: Path) -> None:
    (folder / "empty").touch()
    with serving("download_server.py", folder) as target:
        status, output, _ = run("download_client.py", "empty", tmp_path / "copy", target)
    assert (status, output) == (0, f"\n0 bytes, sha256 {hashlib.sha256().hexdigest()} as sent\n")
    assert (tmp_path / "copy").read_bytes() == b""


def test_download_of_a_missing_file_says_so_and_makes_no_copy(folder: Path, tmp_path: Path) -> None:
    with serving("download_server.py", folder) as target:
        done = run("download_client.py", "missing", tmp_path / "copy", target)
    assert done == (1, "", "NOT_FOUND: there is no file 'missing'\n")
    assert not (tmp_path / "copy").exists(), "made before the server had answered"


async def test_download_leads_nowhere_out_of_the_folder(folder: Path) -> None:
    (folder / "here").write_text("served")
    nowhere = (
        "",
        ".",
        "..",
        "inner",
        "inner/../here",
        "../secret.txt",
        "../../etc/passwd",
        "/etc/passwd",
        "a\0b",
    )
    with serving("download_server.py", folder) as target:
        async with lbkit.Channel(target) as channel:
            download = channel.stub(pb2, "Files").Download
            assert [chunk.data async for chunk in download(pb2.File(name="here"))] == [b"served"]
            for name in nowhere:
                call = download(pb2.File(name=name))
                assert await call.code() is lbkit.StatusCode.NOT_FOUND
                assert await call.details() == f"there is no file {name!r}"


async def test_missing_file_is_answered_with_trailers_only(folder: Path) -> None:
    """No response headers and no message come first: the one header block that comes ends the stream."""
    path = (b":path", b"/lbkit.examples.Files/Download")
    request = frame_message(pb2.File(name="missing").SerializeToString())
    with serving("download_server.py", folder) as target:
        async with raw_client(int(target.rpartition(":")[2])) as client:
            fields = [path if field[0] == b":path" else field for field in REQUEST]
            client.writer.write(client.headers(1, fields) + data_frame(1, request, end=True))
            async with asyncio.timeout(PATIENCE_S):
                while (answer := await client.next_frame()).stream_id != 1:
                    pass
    assert answer.kind == frames.HEADERS
    assert answer.flags & frames.END_STREAM
    assert client.decode(answer.payload)[b"grpc-status"] == b"5"


# Upload


def test_upload_of_32_mib_is_the_same_file(folder: Path, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "big file.bin").write_bytes(content)
    with serving("upload_server.py", folder) as target:
        done = run("upload_client.py", tmp_path / "big file.bin", target)
    digest = hashlib.sha256(content).hexdigest()
    assert done == (0, f"{32 * MIB} bytes, sha256 {digest} as sent\n", "")
    assert hashlib.sha256((folder / "big file.bin").read_bytes()).hexdigest() == digest
    assert sorted(path.name for path in folder.iterdir()) == ["big file.bin", "inner"]


async def test_upload_leads_nowhere_out_of_the_folder(folder: Path) -> None:
    before = contents(folder.parent)
    nowhere = ("", ".", "..", ".hidden", "../escaped", "/tmp/escaped", "inner/escaped", "a\0b", "a\n", "a\\b")
    with serving("upload_server.py", folder) as target:
        async with lbkit.Channel(target) as channel:
            files = channel.stub(pb2, "Files")
            for name in nowhere:
                error = await failure(files.Upload([pb2.Chunk(name=name, data=b"x")]))
                assert error.code() is lbkit.StatusCode.INVALID_ARGUMENT
                assert error.details() == f"a file cannot be called {name!r}"
    assert contents(folder.parent) == before


async def test_upload_broken_off_leaves_nothing(folder: Path) -> None:
    """Neither half a file nor a folder; and the file that had the name before is what it was."""
    (folder / "data").write_text("as it was")
    before = contents(folder)
    with serving("upload_server.py", folder) as target:
        async with lbkit.Channel(target) as channel:
            call = channel.stub(pb2, "Files").Upload()
            await call.write(pb2.Chunk(name="data", data=bytes(MIB)))
            await until(lambda: contents(folder) != before)
            call.cancel()
            await until(lambda: contents(folder) == before)
    assert (folder / "data").read_text() == "as it was"


# Chat


def join(stack: ExitStack, name: str, target: str) -> Running:
    """A member who is in the room."""
    member = stack.enter_context(running("chat_client.py", name, target))
    member.read_until(f"{name}: is here")
    return member


def test_what_one_member_says_all_hear() -> None:
    with serving("chat_server.py") as target, ExitStack() as stack:
        ann = join(stack, "ann", target)
        bob = join(stack, "bob", target)
        cat = join(stack, "cat", target)
        ann.read_until("cat: is here")
        bob.read_until("cat: is here")
        for speaker, line in ((ann, "ann: hello"), (bob, "bob: hello, ann"), (ann, "ann: and cat?")):
            speaker.say(line.partition(": ")[2])
            assert [member.read_line() for member in (ann, bob, cat)] == [line] * 3
        assert cat.end() == (0, "")  # the end of its input: Ctrl-D
        assert [ann.read_line(), bob.read_line()] == ["cat: is gone"] * 2
        assert bob.end(signal.SIGINT) == (0, "")
        assert ann.read_line() == "bob: is gone"
        assert ann.end() == (0, "")


def test_all_that_was_said_is_heard_before_the_end() -> None:
    """Writing and reading at the same time: hundreds of lines, and the end of the input right behind."""
    with serving("chat_server.py") as target, ExitStack() as stack:
        ann = join(stack, "ann", target)
        for number in range(500):
            ann.say(f"line {number}")
        status, output = ann.end()
    assert status == 0
    assert output.splitlines() == [f"ann: line {number}" for number in range(500)]


def test_killed_member_is_gone_and_server_stops_with_somebody_in_the_room() -> None:
    with ExitStack() as stack:
        with serving("chat_server.py") as target:
            ann = join(stack, "ann", target)
            bob = join(stack, "bob", target)
            ann.read_until("bob: is here")
            bob.process.kill()
            assert ann.read_line() == "bob: is gone"
        status, output = ann.end()
        assert status == 1
        assert re.match(r"[A-Z]+: ", output)
        assert "Traceback" not in output


# What is true of all


def test_every_program_is_short() -> None:
    for program in PROGRAMS:
        lines = [line for line in (EXAMPLES / program).read_text().splitlines() if line.strip()]
        code = [line for line in lines if not re.match(r"import |from | *#", line)]
        assert len(lines) >= 10, program
        assert len(code) <= 40, program


def test_table_has_every_program_and_no_other() -> None:
    table = (EXAMPLES / "README.md").read_text()
    assert set(re.findall(r"\w+_(?:server|client)\.py", table)) == set(PROGRAMS)


def test_every_program_is_run_here() -> None:
    here = Path(__file__).read_text()
    kinds = re.findall(r'^        \("(\w+)", "', here, re.MULTILINE)
    named = {f"{kind}_{side}.py" for kind in kinds for side in ("server", "client")}
    assert named | set(re.findall(r'"(\w+_(?:server|client)\.py)"', here)) == set(PROGRAMS)
