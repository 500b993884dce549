"""``lbkit registry`` as people run it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from lbkit.cli import main
from tests.support.etcd_server import etcdctl

LBKIT = (sys.executable, "-m", "lbkit")


@contextmanager
def running(*options: str) -> Generator[tuple[subprocess.Popen[str], str], None, None]:
    """A registry that is ready, and its address."""
    command = [*LBKIT, "registry", "--listen", "127.0.0.1:0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            first, second = process.stdout.readline(), process.stdout.readline()
            assert first.startswith("registry is ready on 127.0.0.1:"), first
            assert "in memory: for development" in second
            yield process, first.split()[-1]
        finally:
            process.kill()


def test_it_serves_until_it_is_told_to_stop() -> None:
    with running() as (process, address):
        done = subprocess.run([*LBKIT, "probe", address], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.read() == "registry has stopped\n"
        assert process.wait(10) == 0


@pytest.mark.interop
def test_etcdctl_works_with_it() -> None:
    with running("--history", "5") as (process, address):
        for number in range(20):
            assert etcdctl(address, "put", "greeter/127.0.0.1:50051", str(number)) == "OK\n"
        assert etcdctl(address, "get", "--prefix", "greeter/", "--print-value-only") == "19\n"
        with pytest.raises(AssertionError, match="required revision has been compacted"):
            etcdctl(address, "get", "greeter/127.0.0.1:50051", "--rev", "3")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_a_taken_port_exits_with_1() -> None:
    with running() as (_, address):
        done = subprocess.run(
            [*LBKIT, "registry", "--listen", address], capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert f"cannot listen on {address}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--listen", "127.0.0.1"), "has no valid port"),
        (("--history", "0"), "0 is not in the range"),
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(("registry", *arguments)) == 2
    assert text in capsys.readouterr().err
