"""`lbkit watch`: every change, failure and return, in lines and as JSON."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit.cli.watch import JsonLines, Lines, watch
from tests.support.commands import LBKIT, lbkit_run, read_line, read_until, running
from tests.support.scripted import Scripted, replace

NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, UTC)


def test_watch_prints_every_change(tmp_path: Path) -> None:
    """A process of its own, and a file that is changed, broken and mended under it; Ctrl-C ends it."""
    file = tmp_path / "backends.json"
    replace(file, {"endpoints": [{"address": "10.0.0.1:1"}, {"address": "10.0.0.2:1"}]})
    time = r"\d\d:\d\d:\d\d\.\d{3}  "
    with running([*LBKIT, "watch", f"file:{file}?poll=100ms"]) as process:
        assert re.fullmatch(time + "2 endpoints.*", read_line(process))
        assert [read_line(process).strip() for _ in range(2)] == ["+ 10.0.0.1:1", "+ 10.0.0.2:1"]
        replace(file, {"endpoints": [{"address": "10.0.0.2:1", "weight": 3}, {"address": "10.0.0.3:1"}]})
        assert re.fullmatch(time + "1 added, 1 removed, 1 changed; 2 endpoints.*", read_line(process))
        assert [read_line(process).strip() for _ in range(3)] == [
            "+ 10.0.0.3:1",
            "- 10.0.0.1:1",
            "~ 10.0.0.2:1  weight 1 -> 3",
        ]
        replace(file, {"endpoints": 7})
        assert re.fullmatch(time + "! .*there is no list of endpoints.*; 2 stay in use", read_line(process))
        replace(file, {"endpoints": []})
        assert re.fullmatch(time + "2 removed; 0 endpoints.*", read_line(process))
        assert [read_line(process).strip()[0] for _ in range(2)] == ["-", "-"]
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


def test_watch_ends_when_nobody_reads_it(tmp_path: Path) -> None:
    """As ``lbkit watch ... | head -1`` does, at the next change."""
    file = tmp_path / "backends.json"
    replace(file, {"endpoints": []})
    with running([*LBKIT, "watch", f"file:{file}?poll=100ms"]) as process:
        read_until(process, "0 endpoints")
        assert process.stdout is not None
        process.stdout.close()
        replace(file, {"endpoints": [{"address": "10.0.0.1:1"}]})
        assert process.wait() == 128 + signal.SIGPIPE


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


# With the registry that comes with lbkit, and its resolver and registrar


@contextmanager
def registry_process() -> Generator[str, None, None]:
    """`lbkit registry`, and where it is."""
    with running([*LBKIT, "registry", "--listen", "127.0.0.1:0"]) as process:
        yield read_until(process, "registry is ready on ")[-1].rpartition(" ")[2]


@contextmanager
def registered(target: str, *options: str) -> Generator[tuple[subprocess.Popen[str], str], None, None]:
    """`lbkit backend --register`, and where it is, once that is known."""
    with running([*LBKIT, "backend", "--register", target, "--propagation", "0.1", *options]) as process:
        said = read_until(process, " is registered as ")[-1]
        yield process, said.split(" is registered as ")[1].split(" ")[0]


def test_watch_follows_backends_in_a_registry() -> None:
    """As it is meant to be used: a registry, a watch, a backend that comes and goes."""
    with registry_process() as address:
        target = f"etcd://{address}/greeter"
        with running([*LBKIT, "watch", target]) as process:
            assert re.search(rf"  0 endpoints, from etcd {address}, revision \d+$", read_line(process))
            with registered(target, "--name", "ann", "--zone", "eu") as (ann, where):
                assert re.search(
                    rf"  1 added; 1 endpoint, from etcd {address}, revision \d+$", read_line(process)
                )
                assert read_line(process).strip() == f"+ {where}  zone eu  name=ann"
                done = lbkit_run("resolve", target)
                assert re.fullmatch(
                    rf"1 endpoint, from etcd {address}, revision \d+, in [\d.]+ ms\n  {where}  zone eu  name=ann\n",
                    done.stdout,
                )
                ann.send_signal(signal.SIGTERM)
                assert re.search(r"  1 removed; 0 endpoints, ", read_line(process))
                assert read_line(process).strip() == f"- {where}  zone eu  name=ann"
                assert ann.wait() == 0
