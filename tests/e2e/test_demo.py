"""``lbkit demo``: the whole of it for real, how it is interrupted, and that its verdicts can fail."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lbkit.cli import demo, main
from lbkit.cli.demo.fleet import LEASE_S
from lbkit.cli.demo.show import Show, make_show
from lbkit.cli.demo.stage import Stage
from lbkit.cli.demo.verdicts import (
    Check,
    Verdict,
    at_most,
    enough_calls,
    even_shares,
    exit_by_itself,
    not_found,
    same_file,
    same_subchannels,
    soon,
    weighted_shares,
)
from tests.support.etcd_server import etcd

DEMO = (sys.executable, "-m", "lbkit", "demo", "--seconds", "2")
GONE_WITHIN_S = 10.0
MIB = 2**20
ON_LINUX = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")


def children_of(parent: int) -> list[int]:
    """The processes that the demo with this process id has started."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if f"--parent\0{parent}\0" in read_cmdline(path)
    ]


def read_cmdline(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # ended meanwhile
        return ""


def start_demo(temporary: Path) -> subprocess.Popen[str]:
    """A demo that runs for longer than any test of it."""
    return subprocess.Popen(
        [*DEMO[:-1], "60"],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"the demo ended without {text!r}")


@pytest.fixture(scope="module")
def report() -> tuple[dict[str, Any], str]:
    """What a short run says: as JSON, and in lines."""
    done = subprocess.run([*DEMO, "--seed", "1", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout), done.stderr


def test_all_acts_pass(report: tuple[dict[str, Any], str]) -> None:
    _, text = report
    for number, title in enumerate(
        (
            "equal shares over four backends",
            "weights 1:1:2:4, put into the registry",
            r"32 MiB from backend-\d, as calls go on",
            "kill -9 of backend-2, and its lease of 3 s ends",
            "backend-5 registers itself",
            "backend-1 leaves on SIGTERM: off the list, then drained",
            "kill -9 of the registry: calls go on",
        ),
        start=1,
    ):
        assert re.search(rf"PASS  act {number}: {title}\n( +.* expected .* seen .*\n)+", text), text
    assert "PASS  7 of 7 acts as expected" in text
    assert re.search(r"WARNING lbkit.resolver: resolver of etcd://127\.0\.0\.1:\d+/demo: ", text), (
        "act 7 shows"
    )
    assert "try next" in text
    assert "demo --registry 127.0.0.1:2379" in text


def test_weights_show_in_the_shares(report: tuple[dict[str, Any], str]) -> None:
    outcome, _ = report
    checks = {check["what"]: check for check in outcome["acts"][1]["checks"]}
    seen = [float(share) for share in checks["shares of 4"]["seen"].removesuffix(" %").split()]
    assert seen == pytest.approx([12.5, 12.5, 25.0, 50.0], abs=1.5)
    assert checks["subchannels kept"]["seen"] == "4"


def test_file_comes_through_the_same_channel(report: tuple[dict[str, Any], str]) -> None:
    outcome, text = report
    checks = {check["what"]: check for check in outcome["acts"][2]["checks"]}
    assert re.fullmatch(r"32\.0 MiB, sha256 [0-9a-f]{8}", checks["file"]["seen"])
    assert checks["missing file"]["seen"] == "NOT_FOUND at once"
    assert int(checks["failed calls"]["seen"].removeprefix("0 of ")) > 0, "calls go on meanwhile"
    assert re.search(r"\[#+ *\] +\d+% of 32 MiB\n", text)


def test_report_has_every_figure(report: tuple[dict[str, Any], str]) -> None:
    outcome, _ = report
    assert outcome["ok"] is True
    assert [act["act"] for act in outcome["acts"]] == [1, 2, 3, 4, 5, 6, 7]
    for act in outcome["acts"]:
        assert act["checks"]
        assert all(check["ok"] and check["expected"] and check["seen"] for check in act["checks"])
    assert outcome["calls"] >= 5 * demo.FEWEST_CALLS
    assert 5 <= outcome["p50_ms"] <= outcome["p99_ms"]


def test_live_on_a_terminal() -> None:
    """On a terminal it draws; what stays is the verdicts, and a visible cursor."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
    environment.pop("CI", None)
    with subprocess.Popen(DEMO, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        try:
            while piece := os.read(ours, 65536):
                written += piece
        except OSError:  # how Linux says that nobody has the other end open any more
            pass
        os.close(ours)
        assert process.wait() == 0, written.decode()
    text = written.decode()
    assert "share of the last 1 s" in text
    assert "transient failure" in text
    assert text.count("PASS") == 8
    assert "% of 32 MiB" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


@ON_LINUX
def test_ctrl_c_is_tidy(tmp_path: Path) -> None:
    with start_demo(tmp_path) as process:
        read_until(process, "act 1:")
        children = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert process.returncode == 130
    assert len(children) == 5, "four backends and the registry"
    assert output.splitlines()[-1] == "interrupted; all 4 backends are gone, and the registry"
    assert "Traceback" not in output
    assert children_of(process.pid) == []
    assert list(tmp_path.iterdir()) == []


@ON_LINUX
def test_processes_die_with_the_demo(tmp_path: Path) -> None:
    """Even ``kill -9`` of the demo leaves no orphan."""
    with start_demo(tmp_path) as process:
        read_until(process, "act 1:")
        ends = [os.pidfd_open(child) for child in children_of(process.pid)]
        process.kill()
    assert len(ends) == 5, "four backends and the registry"
    left = set(ends)
    while left:
        ended, _, _ = select.select(left, [], [], GONE_WITHIN_S)
        assert ended, f"{len(left)} processes outlive the demo"
        left.difference_update(ended)
    for end in ends:
        os.close(end)


def test_failing_act_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(stage: Stage) -> Verdict:
        return Verdict(
            1, "planted", [even_shares({"backend-1": 3, "backend-2": 1}, ["backend-1", "backend-2"])]
        )

    monkeypatch.setattr(demo, "ACTS", [("act 1", fail)])
    assert main(["demo"]) == 1
    output = capsys.readouterr().out
    assert "FAIL  act 1: planted" in output
    assert "expected 50.0 % each, +-1   seen backend-1 75.0  backend-2 25.0 %   <- not as expected" in output
    assert "FAIL  0 of 1 acts as expected" in output


def test_process_that_cannot_start_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert main(["demo"]) == 1
    assert re.search(r"Error: registry did not start", capsys.readouterr().err)


def test_real_etcd_does_as_well(tmp_path: Path) -> None:
    """All acts but the one that would kill it; and what is left in it is gone with the last lease."""
    with etcd(tmp_path) as node:
        options = ("--registry", node.address, "--json")
        done = subprocess.run([*DEMO, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert [act["act"] for act in json.loads(done.stdout)["acts"]] == [1, 2, 3, 4, 5, 6]
        assert re.search(rf"etcd://{node.address}/lbkit-demo-\d+\n", done.stderr)
        until = time.monotonic() + 10 * LEASE_S
        while node.ctl("get", "--prefix", "--keys-only", "lbkit-demo-").strip():
            assert time.monotonic() < until, "records outlive their leases"
            time.sleep(0.1)


def test_etcd_that_is_not_there_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound, and not listening
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        assert main(["demo", "--registry", address]) == 1
    assert f"Error: etcd does not answer at {address}: " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "root:pw@127.0.0.1:2379", "etcd://127.0.0.1:2379", "a b:1"])
def test_registry_is_host_and_port(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--registry", text]) == 2
    assert "write host:port" in capsys.readouterr().err


# What is judged, with figures that must not pass


@pytest.mark.parametrize(
    ("check", "ok", "seen"),
    [
        (even_shares({"a": 50, "b": 50}, ["a", "b"]), True, "50.0 50.0 %"),
        (even_shares({"a": 509, "b": 491}, ["a", "b"]), True, "50.9 49.1 %"),
        (even_shares({"a": 52, "b": 48}, ["a", "b"]), False, "a 52.0  b 48.0 %"),
        (even_shares({"a": 99, "b": 99, "c": 1}, ["a", "b"]), False, "a 49.7  b 49.7  c 0.5 %"),
        (even_shares({"a": 50}, ["a", "b"]), False, "a 100.0  b 0.0 %"),
        (even_shares({}, ["a", "b"]), False, "a 0.0  b 0.0 %"),
        (weighted_shares({"a": 100, "b": 300}, {"a": 1, "b": 3}), True, "25.0 75.0 %"),
        (weighted_shares({"a": 52, "b": 148}, {"a": 1, "b": 3}), True, "26.0 74.0 %"),
        (weighted_shares({"a": 54, "b": 146}, {"a": 1, "b": 3}), False, "a 27.0  b 73.0 %"),
        (weighted_shares({"a": 200, "b": 200}, {"a": 1, "b": 3}), False, "a 50.0  b 50.0 %"),
        (weighted_shares({"a": 99, "b": 300, "c": 1}, {"a": 1, "b": 3}), False, "a 24.8  b 75.0  c 0.2 %"),
        (weighted_shares({}, {"a": 1, "b": 3}), False, "a 0.0  b 0.0 %"),
        (same_subchannels("ab", "ba"), True, "2"),
        (same_subchannels("ab", "ac"), False, "1"),
        (same_file((MIB, "12345678"), (MIB, "12345678"), ""), True, "1.0 MiB, sha256 12345678"),
        (same_file((MIB, "12345678"), (MIB, "1234567f"), ""), False, "1.0 MiB, sha256 1234567f"),
        (same_file((MIB, "123456789"), (MIB, "12345678a"), ""), False, "1.0 MiB, sha256 12345678"),
        (same_file((MIB, "12345678"), (0, "12345678"), ""), False, "0.0 MiB, sha256 12345678"),
        (same_file((MIB, "12345678"), (MIB, "12345678"), "UNAVAILABLE: x"), False, "UNAVAILABLE: x"),
        (not_found("NOT_FOUND", 0), True, "NOT_FOUND at once"),
        (not_found("NOT_FOUND", 1), False, "NOT_FOUND after 1 pieces"),
        (not_found("OK", 0), False, "OK at once"),
        (enough_calls(200, 200, 20.0), True, "200"),
        (enough_calls(199, 200, 20.0), False, "199"),
        (at_most("failed", [], 0, 200), True, "0 of 200"),
        (at_most("failed", ["UNAVAILABLE: gone"], 0, 200), False, "1 of 200 (UNAVAILABLE: gone)"),
        (at_most("lost", ["x", "y"], 2, 2, "in flight"), True, "2 of 2"),
        (at_most("lost", ["x", "y", "z"], 2, 3, "in flight"), False, "3 of 3 (z)"),
        (soon("noticed", 0.0021, 1.0), True, "2.1 ms"),
        (soon("noticed", 1.01, 1.0), False, "1010.0 ms"),
        (soon("noticed", None, 1.0), False, "nothing"),
        (exit_by_itself(0, 0.06, 6.0), True, "0 after 60 ms"),
        (exit_by_itself(1, 0.06, 6.0), False, "1 after 60 ms"),
        (exit_by_itself(-9, 0.06, 6.0), False, "-9 after 60 ms"),
        (exit_by_itself(None, 6.0, 6.0), False, "still running"),
    ],
)
def test_check_judges_figures(check: Check, ok: bool, seen: str) -> None:
    assert (check.ok, check.seen) == (ok, seen)


def test_one_failed_check_fails_the_act() -> None:
    good, bad = enough_calls(2, 1, 1.0), enough_calls(0, 1, 1.0)
    assert Verdict(1, "x", [good, good]).ok
    assert not Verdict(1, "x", [good, bad, good]).ok
    assert Verdict(1, "x", [bad]).lines()[1].endswith("expected 1 within 1 s   seen 0   <- not as expected")


def test_plain_lines_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "lbkit.cli.demo.live", raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert type(make_show(as_json=False)) is Show
