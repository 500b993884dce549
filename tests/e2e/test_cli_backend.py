"""`lbkit backend --register` and `lbkit serve --register`: who enters a registry, as what, and how they leave."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager

import pytest

from lbkit.cli.backend import with_port
from tests.support.commands import read_line, read_until, running

SERVER = "tests.support.worker_app:make_server"
BOOK = """
import asyncio, sys, lbkit, lbkit.registration
from lbkit.cli import main

lbkit.registration._DEREGISTER_S = 600.0  # longer than any test waits

@lbkit.registrar("book")
class Book(lbkit.Registrar):
    tries = 0

    async def register(self, instance):
        self.tries += 1
        if self.target.path == "closed" or (self.target.path == "late" and self.tries == 1):
            raise lbkit.RegistrationError(f"{self.target.text!r} is shut")
        known = (instance.address, instance.id, f"{instance.weight:g}", instance.zone, dict(instance.metadata))
        print("in:", *known, flush=True)

    async def keep(self, instance):
        await asyncio.Event().wait()

    async def deregister(self, instance):
        print("out:", instance.id, flush=True)
        if self.target.path == "mute":
            await asyncio.Event().wait()
sys.exit(main(sys.argv[1:]))
"""


def backend(*arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A backend whose process has the registrar above."""
    return running([sys.executable, "-c", BOOK, "backend", *arguments])


def rest(process: subprocess.Popen[str]) -> str:
    """What it still says until it ends."""
    assert process.stdout is not None
    return process.stdout.read()


def test_backend_registers_and_leaves() -> None:
    """It is registered once it serves, with the port that it got; and out before it drains."""
    options = [
        "--advertise",
        "localhost",
        "--id",
        "first",
        "--weight",
        "2",
        "--zone",
        "eu",
        "--propagation",
        "0.1",
    ]
    with backend("--name", "ann", "--register", "book://me:hunter2@127.0.0.1/late", *options) as process:
        lines = read_until(process, "ann is registered as ")
        ready = next(line for line in lines if line.startswith("ann is ready on 127.0.0.1:"))
        port = ready.rpartition(":")[2]
        assert f"in: localhost:{port} first 2 eu {{'name': 'ann'}}" in lines
        assert any(line.startswith("WARNING lbkit.registration: ") and " is shut" in line for line in lines)
        assert lines[-1] == f"ann is registered as localhost:{port} with book://me:***@127.0.0.1/late"
        assert "hunter2" not in "".join(lines)
        process.send_signal(signal.SIGTERM)
        assert [read_line(process) for _ in range(2)] == ["out: first", "ann has stopped"]
        assert process.wait() == 0


def test_backend_serves_though_the_registry_is_down() -> None:
    with backend("--name", "ann", "--register", "book://127.0.0.1/closed", "--propagation", "0") as process:
        lines = [read_line(process) for _ in range(2)]
        assert any(line.startswith("ann is ready on ") for line in lines), lines
        assert any(" is shut" in line for line in lines), lines
        process.send_signal(signal.SIGTERM)
        said = rest(process)
        assert said.endswith("ann has stopped\n")
        assert "Traceback" not in said
        assert "never retrieved" not in said
        assert process.wait() == 0


def test_backend_behind_every_interface_is_found_by_the_one_to_the_registry() -> None:
    with backend("--listen", "0.0.0.0:0", "--register", "book://127.0.0.1:2379/x") as process:
        lines = read_until(process, " is registered as 127.0.0.1:")
        assert any(re.match(r"in: 127\.0\.0\.1:[1-9]\d+ 127\.0\.0\.1:\d+ 1  {}", line) for line in lines), (
            lines
        )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--register", "bock://127.0.0.1/x"), "no registrar 'bock'. Did you mean 'book'?"),
        (("--register", "book"), "names no registry"),
        (("--register", "book://h:hunter2@x/y?token=hunter2"), "no parameter 'token'"),
        (("--register", "book://h/x", "--advertise", "a b"), "has no valid host"),
        (("--register", "book://h/x", "--weight", "0"), "weight must be positive"),
        (("--advertise", "localhost"), "--register"),
    ],
)
def test_bad_registrations_exit_with_2(arguments: tuple[str, ...], text: str) -> None:
    with backend(*arguments) as process:
        output = rest(process)
        assert process.wait() == 2
        assert text in output
        assert "hunter2" not in output


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("", ""),
        ("localhost", "localhost:0"),
        ("localhost:80", "localhost:80"),
        ("[::1]", "[::1]:0"),
        ("[::1]:80", "[::1]:80"),
    ],
)
def test_port_may_be_left_out(given: str, address: str) -> None:
    assert with_port(given) == address


@pytest.mark.parametrize(
    "command", [("backend",), ("serve", SERVER, "--bind", "127.0.0.1:0", "--workers", "1")]
)
def test_a_second_signal_does_not_wait_for_a_registry_that_does_not_answer(command: tuple[str, ...]) -> None:
    with running([sys.executable, "-c", BOOK, *command, "--register", "book://127.0.0.1/mute"]) as process:
        read_until(process, "in: ")
        process.send_signal(signal.SIGTERM)
        read_until(process, "out: ")
        process.send_signal(signal.SIGTERM)
        said = rest(process)
        assert "could not be removed, and stays listed until it expires: that took too long\n" in said
        assert said.endswith(" has stopped\n")
        assert "Traceback" not in said
        assert process.wait() == 0


def test_secrets_do_not_show_in_what_serve_logs() -> None:
    """A registrar's own message may have them."""
    target = "book://root:hunter2@127.0.0.1/closed"
    arguments = ("serve", SERVER, "--bind", "127.0.0.1:0", "--workers", "1", "--register", target)
    with running([sys.executable, "-c", BOOK, *arguments]) as process:
        lines = read_until(process, " is shut")
        process.send_signal(signal.SIGTERM)
        text = "\n".join((*lines, rest(process)))
    assert "is not registered: 'book://root:***@127.0.0.1/closed' is shut" in text
    assert re.search(r"^worker 1 \(pid \d+\) serves$", text, re.MULTILINE)
    assert "hunter2" not in text
