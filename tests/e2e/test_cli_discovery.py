"""`lbkit resolve` and `lbkit watch`, with answers, without, and as they change."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit.cli import main
from lbkit.cli.backend import with_port
from lbkit.cli.resolve import resolve
from lbkit.cli.watch import JsonLines, Lines, watch
from lbkit.resolver import registry

LBKIT = (sys.executable, "-m", "lbkit")
NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, UTC)


class Scripted(lbkit.Resolver):
    """Does what a test says."""

    def __init__(self, script: Callable[[lbkit.Sink], Awaitable[None]]) -> None:
        super().__init__(lbkit.Target.parse("scripted:///x", ("scripted",)))
        self._script = script

    async def run(self, sink: lbkit.Sink) -> None:
        await self._script(sink)


@contextmanager
def scheme(name: str, script: Callable[[lbkit.Sink], Awaitable[None]]) -> Generator[None, None, None]:
    """A scheme for the time of a block."""
    registry.register(name, lambda target: Scripted(script))
    try:
        yield
    finally:
        del registry._registered[name]


@contextmanager
def watching(*arguments: str) -> Generator[subprocess.Popen[str], None, None]:
    """A process of `lbkit watch`."""
    with subprocess.Popen(
        [*LBKIT, "watch", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Every line up to one with that text."""
    lines = [read(process)]
    while text not in lines[-1]:
        assert process.poll() is None or lines[-1], lines
        lines.append(read(process))
    return lines


@contextmanager
def registry_process() -> Generator[str, None, None]:
    """`lbkit registry`, and where it is."""
    command = [*LBKIT, "registry", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield read_until(process, "registry is ready on ")[-1].rpartition(" ")[2]
        finally:
            process.kill()


@contextmanager
def registered(target: str, *options: str) -> Generator[tuple[subprocess.Popen[str], str], None, None]:
    """`lbkit backend --register`, and where it is, once that is known."""
    command = [*LBKIT, "backend", "--register", target, "--propagation", "0.1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield (
                process,
                read_until(process, " is registered as ")[-1].split(" is registered as ")[1].split(" ")[0],
            )
        finally:
            process.kill()


def replace(file: Path, document: object) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(document))
    fresh.replace(file)


# resolve


def test_resolve_prints_what_is_known(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "backends.json"
    replace(
        file, {"endpoints": [{"address": "10.0.0.1:1", "weight": 2, "zone": "eu"}, {"address": "10.0.0.2:1"}]}
    )
    assert main(["resolve", f"file:{file}"]) == 0
    output, errors = capsys.readouterr()
    assert re.fullmatch(
        r"2 endpoints.*, in [\d.]+ ms\n  10\.0\.0\.1:1  weight 2  zone eu\n  10\.0\.0\.2:1\n", output
    ), output
    assert errors == ""


def test_resolve_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resolve", "static:///10.0.0.1:1,10.0.0.2:1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["target"] == "static:///10.0.0.1:1,10.0.0.2:1"
    assert 0 < answer["took_s"] < 5
    assert [each["addresses"] for each in answer["endpoints"]] == [["10.0.0.1:1"], ["10.0.0.2:1"]]


def test_resolve_takes_an_empty_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """That there is nobody is an answer."""

    async def nobody(sink: lbkit.Sink) -> None:
        sink.update(lbkit.Resolution((), source="the book"))

    with scheme("empty", nobody):
        assert main(["resolve", "empty:///x"]) == 0
    assert capsys.readouterr().out.startswith("0 endpoints, from the book, in ")


def test_resolve_without_answer_exits_with_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["resolve", f"file:{tmp_path}/missing.json"]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert re.fullmatch(rf"file:{tmp_path}/missing\.json: .*missing\.json.*\n", errors), errors


def test_resolve_is_not_patient(capsys: pytest.CaptureFixture[str]) -> None:
    async def mute(sink: lbkit.Sink) -> None:
        await asyncio.Event().wait()

    with scheme("mute", mute):
        assert main(["resolve", "mute:///x", "--timeout", "0.01"]) == 1
    assert capsys.readouterr().err == "mute:///x: no answer within 0.01 s\n"


async def test_resolver_that_ends_without_answer_is_told_of() -> None:
    async def leave(sink: lbkit.Sink) -> None:
        pass

    with pytest.raises(lbkit.ResolverError, match="it ended without an answer"):
        await resolve(Scripted(leave), 5.0)


async def test_first_word_counts() -> None:
    """What comes after it, on its way out, changes nothing."""

    async def talk(sink: lbkit.Sink) -> None:
        sink.update(lbkit.Resolution((lbkit.Endpoint("10.0.0.1:1"),)))
        sink.update(lbkit.Resolution(()))
        sink.fail(RuntimeError("broken"))

    assert len((await resolve(Scripted(talk), 5.0)).endpoints) == 1


def test_ctrl_c_ends_resolve() -> None:
    code = """
import asyncio, sys, lbkit
from lbkit.cli import main

@lbkit.resolver("mute")
async def resolve(target):
    print("asked", flush=True)
    await asyncio.Event().wait()

sys.exit(main(["resolve", "mute:///x", "--timeout", "60"]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert read(process) == "asked"
        process.send_signal(signal.SIGINT)
        assert process.communicate()[0] == "", "no traceback, and no warning"
        assert process.returncode == 130


@pytest.mark.parametrize("command", ["resolve", "watch"])
@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("dnss:///x:1", "no resolver 'dnss'. Did you mean 'dns'?"),
        ("static:///", "static:///"),
        ("dns:///x:1?refersh=1s", "Did you mean 'refresh'?"),
        ("nope://root:hunter2@h/x?token=hunter2", "no resolver 'nope'"),
        ("static://root:hunter2@h/x?token=hunter2", "static"),
    ],
)
def test_bad_targets_exit_with_2(
    command: str, target: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, target]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert text in errors
    assert "hunter2" not in errors


@pytest.mark.parametrize("arguments", [("resolve", "--timeout"), ("watch", "--seconds")])
def test_times_are_above_0(arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    command, option = arguments
    assert main([command, "static:///10.0.0.1:1", option, "0"]) == 2
    assert "must be more than 0" in capsys.readouterr().err


def test_warnings_show_and_secrets_do_not() -> None:
    """What plug-ins log comes out on stderr; a password comes out nowhere."""
    code = """
import logging, sys, lbkit
from lbkit.cli import main

@lbkit.resolver("leaky")
class Leaky(lbkit.Resolver):
    parameters = frozenset({"token"})

    async def run(self, sink):
        logging.getLogger("some.plugin").warning("logs in at %s", self.target.text)
        if self.target.path == "bad":
            raise lbkit.ResolverError(f"cannot log in at {self.target.text!r}")
        sink.update(lbkit.Resolution((), source=f"leaky {self.target.text}"))

sys.exit(main(sys.argv[1:]))
"""
    for command, path, status in (("resolve", "good", 0), ("resolve", "bad", 1), ("watch", "bad", 1)):
        target = f"leaky://root:hunter2@h/{path}?token=hunter2"
        more = ("--seconds", "0.3") if command == "watch" else ()
        done = subprocess.run(
            [sys.executable, "-c", code, command, target, *more], capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        text = done.stdout + done.stderr
        assert "logs in at leaky://root:***@h/" in text
        assert "hunter2" not in text
        if command == "resolve":
            assert "WARNING some.plugin: logs in" in done.stderr


# watch


def test_watch_prints_every_change(tmp_path: Path) -> None:
    """A process of its own, and a file that is changed, broken and mended under it; Ctrl-C ends it."""
    file = tmp_path / "backends.json"
    replace(file, {"endpoints": [{"address": "10.0.0.1:1"}, {"address": "10.0.0.2:1"}]})
    time = r"\d\d:\d\d:\d\d\.\d{3}  "
    with watching(f"file:{file}?poll=100ms") as process:
        assert re.fullmatch(time + "2 endpoints.*", read(process))
        assert [read(process).strip() for _ in range(2)] == ["+ 10.0.0.1:1", "+ 10.0.0.2:1"]
        replace(file, {"endpoints": [{"address": "10.0.0.2:1", "weight": 3}, {"address": "10.0.0.3:1"}]})
        assert re.fullmatch(time + "1 added, 1 removed, 1 changed; 2 endpoints.*", read(process))
        assert [read(process).strip() for _ in range(3)] == [
            "+ 10.0.0.3:1",
            "- 10.0.0.1:1",
            "~ 10.0.0.2:1  weight 1 -> 3",
        ]
        replace(file, {"endpoints": 7})
        assert re.fullmatch(time + "! .*there is no list of endpoints.*; 2 stay in use", read(process))
        replace(file, {"endpoints": []})
        assert re.fullmatch(time + "2 removed; 0 endpoints.*", read(process))
        assert [read(process).strip()[0] for _ in range(2)] == ["-", "-"]
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


async def test_watch_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    one = lbkit.Resolution((lbkit.Endpoint("10.0.0.1:1"),), source="the book")

    async def script(sink: lbkit.Sink) -> None:
        sink.update(one)
        sink.fail(RuntimeError("no book"))
        sink.update(one)
        sink.update(lbkit.Resolution((), source="the book"))

    out = JsonLines(lambda: NOON)
    assert await watch(Scripted(script), out, None) == 0
    out.warn("careful")
    said: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["event"] for each in said] == ["update", "failure", "again", "update", "end", "warning"]
    assert {each["time"] for each in said} == {"2026-11-22T12:00:00.123456+00:00"}
    assert said[0]["added"][0]["addresses"] == ["10.0.0.1:1"]
    assert said[0]["source"] == "the book"
    assert said[1]["text"] == "no book"
    assert said[2]["endpoints"] == 1
    assert said[3]["removed"][0]["addresses"] == ["10.0.0.1:1"]
    assert said[5]["text"] == "careful"


async def test_watch_says_that_the_same_answer_came_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Without it nobody would know that a failure is over; a mere repetition is no news."""
    one = lbkit.Resolution((lbkit.Endpoint("10.0.0.1:1"),), source="the book")

    async def script(sink: lbkit.Sink) -> None:
        sink.fail(RuntimeError(""))
        sink.update(one)
        sink.update(one)
        sink.fail(RuntimeError("no book"))
        sink.update(one)

    assert await watch(Scripted(script), Lines(lambda: NOON), None) == 0
    assert capsys.readouterr().out.splitlines() == [
        "12:00:00.123  ! RuntimeError",
        "12:00:00.123  1 endpoint, from the book",
        "              + 10.0.0.1:1",
        "12:00:00.123  ! no book; 1 stays in use",
        "12:00:00.123  answers again, the same: 1 endpoint, from the book",
        "12:00:00.123  this never changes",
    ]


async def test_watch_without_answer_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    async def script(sink: lbkit.Sink) -> None:
        sink.fail(RuntimeError("no book"))
        await asyncio.Event().wait()

    assert await watch(Scripted(script), Lines(lambda: NOON), 0.01) == 1
    assert capsys.readouterr().out == "12:00:00.123  ! no book\n"


# backend --register

BOOK = """
import asyncio, sys, lbkit
from lbkit.cli import main

@lbkit.registrar("book")
class Book(lbkit.Registrar):
    tries = 0

    async def register(self, instance):
        self.tries += 1
        if self.target.path == "closed" or (self.target.path == "late" and self.tries == 1):
            raise lbkit.RegistrationError(f"{self.target.text} is shut")
        known = (instance.address, instance.id, f"{instance.weight:g}", instance.zone, dict(instance.metadata))
        print("in:", *known, flush=True)

    async def keep(self, instance):
        await asyncio.Event().wait()

    async def deregister(self, instance):
        print("out:", instance.id, flush=True)

sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def backend(*arguments: str) -> Generator[subprocess.Popen[str], None, None]:
    """A backend whose process has the registrar above."""
    with subprocess.Popen(
        [sys.executable, "-c", BOOK, "backend", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


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
        assert [read(process) for _ in range(2)] == ["out: first", "ann has stopped"]
        assert process.wait() == 0


def test_backend_serves_though_the_registry_is_down() -> None:
    with backend("--name", "ann", "--register", "book://127.0.0.1/closed", "--propagation", "0") as process:
        lines = [read(process) for _ in range(2)]
        assert any(line.startswith("ann is ready on ") for line in lines), lines
        assert any(" is shut" in line for line in lines), lines
        process.send_signal(signal.SIGTERM)
        rest = process.communicate()[0]
        assert rest.endswith("ann has stopped\n")
        assert "Traceback" not in rest
        assert "never retrieved" not in rest
        assert process.returncode == 0


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
        output = process.communicate()[0]
        assert process.returncode == 2
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
    "arguments",
    [
        ("resolve", "consul://127.0.0.1:1/x"),
        ("watch", "consul://127.0.0.1:1/x"),
        ("client", "consul://127.0.0.1:1/x"),
        ("backend", "--register", "consul://127.0.0.1:1/x"),
    ],
)
def test_missing_package_is_named(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys; sys.modules['consul'] = None; from lbkit.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'lbkit[consul]'" in done.stderr
    assert "Traceback" not in done.stderr


# With the registry that comes with lbkit, and its resolver and registrar


def test_watch_follows_backends_in_a_registry() -> None:
    """As it is meant to be used: a registry, a watch, a backend that comes and goes."""
    with registry_process() as address:
        target = f"etcd://{address}/greeter"
        with watching(target) as process:
            assert re.search(rf"  0 endpoints, from etcd {address}, revision \d+$", read(process))
            with registered(target, "--name", "ann", "--zone", "eu") as (ann, where):
                assert re.search(rf"  1 added; 1 endpoint, from etcd {address}, revision \d+$", read(process))
                assert read(process).strip() == f"+ {where}  zone eu  name=ann"
                done = subprocess.run(
                    [*LBKIT, "resolve", target], capture_output=True, text=True, check=False
                )
                assert re.fullmatch(
                    rf"1 endpoint, from etcd {address}, revision \d+, in [\d.]+ ms\n  {where}  zone eu  name=ann\n",
                    done.stdout,
                )
                ann.send_signal(signal.SIGTERM)
                assert re.search(r"  1 removed; 0 endpoints, ", read(process))
                assert read(process).strip() == f"- {where}  zone eu  name=ann"
                assert ann.wait() == 0
