"""Processes of the ``lbkit`` command, for tests that read what they print."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.tied import tied

ROOT = Path(__file__).resolve().parents[2]
LBKIT = (sys.executable, "-m", "lbkit")


def lbkit_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run([*LBKIT, *arguments], capture_output=True, text=True, check=False)


@contextmanager
def running(command: Sequence[str]) -> Generator[subprocess.Popen[str], None, None]:
    """A process whose output can be read, killed at the end if it still runs."""
    with subprocess.Popen(
        tied([*command]), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line, without its end; empty if there is none any more."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Every line up to one with that text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError(f"it ended without {text!r}: {lines}")


@contextmanager
def refusing_address() -> Generator[str, None, None]:
    """Where nobody listens, and nobody but who asks for this very port can."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"
