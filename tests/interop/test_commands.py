"""``python -m tests.interop.server`` and ``.client``, which anybody can run by hand against any other implementation."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.interop.implementations import IMPLEMENTATIONS
from tests.support.peers import ROOT, environment

pytestmark = pytest.mark.interop

PATIENCE_S = 30


@contextmanager
def server(implementation: str) -> Generator[int, None, None]:
    """Run the command; give the port that it prints."""
    command = [sys.executable, "-m", "tests.interop.server", "--port=0", f"--implementation={implementation}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), cwd=ROOT, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().rpartition(":")[2])
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def client(*flags: str) -> tuple[int, str, str]:
    """Run the command; its exit status, output and errors."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.interop.client", *flags],
        capture_output=True,
        check=False,
        env=environment(),
        cwd=ROOT,
        text=True,
        timeout=PATIENCE_S,
    )
    return found.returncode, found.stdout, found.stderr


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_commands_meet_each_other(implementation: str) -> None:
    with server(implementation) as port:
        flags = ("--server_host=127.0.0.1", f"--server_port={port}", f"--implementation={implementation}")
        assert client(*flags, "--test_case=ping_pong") == (0, "ping_pong: passed\n", "")


def test_case_that_fails_is_exit_status_one() -> None:
    with server("lbkit") as port:
        status, output, errors = client(
            f"--server_port={port}",
            "--test_case=rpc_soak",
            "--soak_per_iteration_max_acceptable_latency_ms=0",
        )
    assert (status, errors) == (1, "")
    assert output.startswith("rpc_soak: FAILED: CaseFailed: 200 of 200 calls failed, the first: took ")
    assert output.count("\n") == 1


@pytest.mark.parametrize("flag", ["--test_case=no_such_case", "--use_tls=true", "--use_tls=perhaps"])
def test_flag_that_cannot_be_is_refused(flag: str) -> None:
    status, output, errors = client("--server_port=1", "--test_case=ping_pong", flag)
    assert (status, output) == (2, "")
    assert flag.partition("=")[0] in errors
