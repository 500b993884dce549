"""`lbkit resolve`: an answer, none, and bad targets; the last concern `lbkit watch` and others as well."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import lbkit
from lbkit.cli import main
from lbkit.cli.resolve import resolve
from tests.support.commands import read_line, running
from tests.support.scripted import Scripted, replace, scheme


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
    with running([sys.executable, "-c", code]) as process:
        assert read_line(process) == "asked"
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
