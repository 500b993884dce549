"""The ``lbkit`` command as people and health checks run it: a process, its output, its exit status."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool

from lbkit.cli import main
from lbkit.protos import POOL, demo

LBKIT = (sys.executable, "-m", "lbkit")
ROOT = Path(__file__).resolve().parents[2]

OBSTINATE = """
import asyncio
from lbkit.cli.signals import run

async def main():
    print("up", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("asked", flush=True)
        await asyncio.Event().wait()

run(main(), lambda: print("at once", flush=True))
"""


def lbkit_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LBKIT, *arguments], capture_output=True, text=True, check=False)


@contextmanager
def running(command: Sequence[str]) -> Generator[subprocess.Popen[str], None, None]:
    """A process, killed at the end if it still runs."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


@contextmanager
def backend(name: str) -> Generator[tuple[subprocess.Popen[str], str], None, None]:
    """A backend that is ready, and its address."""
    with running([*LBKIT, "backend", "--name", name]) as process:
        line = read_line(process)
        assert line.startswith(f"{name} is ready on 127.0.0.1:")
        yield process, line.rpartition(" ")[2]


def refusing_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_version_is_one_line() -> None:
    done = lbkit_run("--version")
    assert re.fullmatch(r"lbkit \d\S*, Python 3\.\d+\.\d+\S*, protobuf \d\S*\n", done.stdout)
    assert done.returncode == 0


def test_missing_click_is_named() -> None:
    code = "import sys; sys.modules['click'] = None; from lbkit.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lbkit's command needs: pip install 'lbkit[cli]'\n"


def test_mistyped_command_is_guessed() -> None:
    done = lbkit_run("prob")
    assert done.returncode == 2
    assert "no command 'prob'. Did you mean 'probe'?" in done.stderr


def test_plugins_name_their_origin() -> None:
    done = lbkit_run("plugins")
    assert done.returncode == 0
    for text in (
        r"static://\.\.\. +lbkit_resolvers\.static:StaticResolver, lbkit \d",
        r"round_robin +lbkit_balancers\.round_robin:RoundRobin, lbkit \d",
        r"registrars\n(.*\n)* +etcd://\.\.\. +lbkit_resolvers\.etcd\.registrar:EtcdRegistrar, lbkit \d",
    ):
        assert re.search(text, done.stdout), done.stdout


def test_probe_of_backend_passes() -> None:
    with backend("ann") as (_, address):
        done = lbkit_run("probe", address)
    assert done.returncode == 0
    assert re.fullmatch(rf"{address}: ready, [\d.]+ ms\n", done.stdout)


def test_probe_says_refused() -> None:
    address = f"127.0.0.1:{refusing_port()}"
    done = lbkit_run("probe", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{address}: connection refused\n"


def test_probe_wants_http2() -> None:
    """A socket that accepts and says nothing is no backend."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        done = lbkit_run("probe", address, "--timeout", "0.2")
    assert done.returncode == 1
    assert "connected, but got no HTTP/2 SETTINGS within 0.2 s" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("probe", "nonsense"), "'nonsense' has no valid port"),
        (("client", "nope:///x"), "no resolver 'nope'"),
        (("client", "static:///127.0.0.1:1", "--balancer", "round_robbin"), "Did you mean 'round_robin'?"),
        (("client", "static:///127.0.0.1:1", "--rate", "0"), "must be more than 0"),
        (("demo", "--rate", "-1"), "must be more than 0"),
        (("backend", "--listen", "127.0.0.1"), "has no valid port"),
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert text in errors


def test_taken_port_exits_with_1() -> None:
    with backend("ann") as (_, address):
        done = lbkit_run("backend", "--listen", address)
    assert done.returncode == 1
    assert f"cannot listen on {address}" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_backend_stops_on_signal(number: signal.Signals) -> None:
    with backend("ann") as (process, _):
        process.send_signal(number)
        assert read_line(process) == "ann has stopped"
        assert process.wait() == 0


def test_client_says_who_answers() -> None:
    with backend("ann") as (_, ann), backend("bob") as (_, bob):
        done = lbkit_run("client", f"static:///{ann},{bob}", "--seconds", "2.5")
    assert done.returncode == 0, done.stderr
    assert re.search(r" 0 failed  2 backends: ann [45]\d\.\d%  bob [45]\d\.\d%\n", done.stdout), done.stdout
    assert re.search(r"\n\d+ calls answered, 0 failed\n$", done.stdout)


def test_client_outlives_its_backends() -> None:
    """It starts with nobody there, says what it waits for, and goes on when somebody comes."""
    port = refusing_port()
    with running([*LBKIT, "client", f"static:///127.0.0.1:{port}"]) as client:
        assert " 0 failed" in read_line(client)
        assert "calls wait:" in read_line(client)
        assert "the only backend is down" in read_line(client)
        with running([*LBKIT, "backend", "--name", "late", "--listen", f"127.0.0.1:{port}"]):
            lines = [""]
            while "1 backends: late 100.0%" not in lines[-1]:
                lines.append(read_line(client))
                assert len(lines) < 40, lines
        client.send_signal(signal.SIGINT)
        assert client.wait() == 0


def test_second_signal_ends_at_once() -> None:
    with running([sys.executable, "-c", OBSTINATE]) as process:
        assert read_line(process) == "up"
        process.send_signal(signal.SIGINT)
        assert read_line(process) == "asked"
        process.send_signal(signal.SIGINT)
        assert read_line(process) == "at once"
        assert process.wait() == 130


def test_messages_stay_in_a_pool_of_their_own() -> None:
    request = demo.SayRequest(text="hello", work_s=0.5)
    assert demo.SayRequest.FromString(request.SerializeToString()) == request
    assert demo.DESCRIPTOR.pool is POOL
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindFileByName(demo.DESCRIPTOR.name)


def test_commands_of_the_page_exist() -> None:
    """Every command and every option that docs/command.md names."""
    page = (ROOT / "docs" / "command.md").read_text()
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) >= 7
    helps: dict[str, str] = {}
    for line in lines:
        program, command, *arguments = line.split()
        assert program == "lbkit"
        text = helps.setdefault(command, lbkit_run(command, "--help").stdout)
        for option in arguments:
            assert not option.startswith("--") or option in text, line
    section = page.partition("## A backend")[2].partition("\n## ")[0]
    for option in re.findall(r"--[a-z]+", section):
        assert option in helps["backend"], option
