"""The ``lbkit`` command as people and health checks run it: a process, its output, its exit status."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool

from lbkit.cli import main
from lbkit.protos import POOL, demo
from tests.support.commands import LBKIT, lbkit_run, read_line, read_until, refusing_address, running

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


@contextmanager
def backend(name: str) -> Generator[tuple[subprocess.Popen[str], str], None, None]:
    """A backend that is ready, and its address."""
    with running([*LBKIT, "backend", "--name", name]) as process:
        line = read_line(process)
        assert line.startswith(f"{name} is ready on 127.0.0.1:")
        yield process, line.rpartition(" ")[2]


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
    with refusing_address() as address:
        done = lbkit_run("probe", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{address}: connection refused\n"


def test_probe_wants_http2() -> None:
    """A socket that accepts and says nothing is no backend."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        done = lbkit_run("probe", address, "--timeout", "1")
    assert done.returncode == 1
    assert "connected, but got no HTTP/2 SETTINGS within 1.0 s" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("probe", "nonsense"), "'nonsense' has no valid port"),
        (("client", "nope:///x"), "no resolver 'nope'"),
        (("client", "static:///127.0.0.1:1", "--balancer", "round_robbin"), "Did you mean 'round_robin'?"),
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("resolve", "static:///10.0.0.1:1", "--timeout", "0"), "0 must be more than 0"),
        (("watch", "static:///10.0.0.1:1", "--seconds", "nan"), "nan must be more than 0"),
        (("probe", "127.0.0.1:1", "--timeout", "inf"), "inf must be more than 0"),
        (("client", "static:///127.0.0.1:1", "--rate", "0"), "0 must be more than 0"),
        (("client", "static:///127.0.0.1:1", "--seconds", "-1"), "-1 must be more than 0"),
        (("demo", "--rate", "-1"), "-1 must be more than 0"),
        (("demo", "--seconds", "soon"), "'soon' is not a valid float"),
        (("backend", "--grace", "-1"), "-1 must be 0 or more"),
        (("backend", "--register", "etcd://127.0.0.1:1/x", "--propagation", "nan"), "nan must be 0 or more"),
        (("serve", "module:function", "--grace", "-0.1"), "-0.1 must be 0 or more"),
        (("serve", "module:function", "--propagation", "inf"), "inf must be 0 or more"),
    ],
)
def test_times_and_rates_are_numbers_that_can_be(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert f"Invalid value for '{arguments[-2]}': {said}" in errors


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
    with refusing_address() as address, running([*LBKIT, "client", f"static:///{address}"]) as client:
        assert " 0 failed" in read_line(client)
        assert "calls wait:" in read_line(client)
        assert "the only backend is down" in read_line(client)
        with running([*LBKIT, "backend", "--name", "late", "--listen", address]):
            read_until(client, "1 backends: late 100.0%")
        client.send_signal(signal.SIGINT)
        assert client.wait() == 0


def test_secrets_do_not_show_in_what_calls_wait_for() -> None:
    """A plug-in's own message may have them."""
    code = """
import sys, lbkit
from lbkit.cli import main

@lbkit.resolver("leaky")
class Leaky(lbkit.Resolver):
    parameters = frozenset({"token"})

    async def run(self, sink):
        raise lbkit.ResolverError(f"cannot log in at {self.target.text!r}")

sys.exit(main(sys.argv[1:]))
"""
    target = "leaky://root:hunter2@h/x?token=hunter2"
    with running([sys.executable, "-c", code, "client", target]) as client:
        lines = read_until(client, "not READY")
        client.send_signal(signal.SIGINT)
        assert client.stdout is not None
        text = "\n".join((*lines, client.stdout.read()))
    assert "not READY within 0.1 s: cannot log in at 'leaky://root:***@h/x?token=***'" in text
    assert "hunter2" not in text


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
