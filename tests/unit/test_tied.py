"""What tests start does not outlive them, even if they are killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.peers import environment
from tests.support.tied import tied
from tests.support.tools import ROOT, needed, server

PATIENCE_S = 45.0
pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfds")

# Each starts something as the tests do.
PROGRAMS = {
    "a command": "subprocess.Popen(tied(['sleep', '600']))",
    "one that is stopped": (
        "running = subprocess.Popen(tied(['sh', '-c', 'echo; exec sleep 600']), stdout=subprocess.PIPE)\n"
        "running.stdout.readline(); running.send_signal(signal.SIGSTOP)"
    ),
    "etcd": "(running := etcd(Path(sys.argv[1]))).__enter__()",
    "consul": "(running := consul(Path(sys.argv[1]))).__enter__()",
    "knotd": "(running := knot(Path(sys.argv[1]))).__enter__()",
    "a peer": "(running := peer('grpclib')).__enter__()",
}
BEGIN = """
import signal, subprocess, sys, time
from pathlib import Path
from tests.support.consul_server import consul
from tests.support.etcd_server import etcd
from tests.support.knot_server import knot
from tests.support.peers import peer
from tests.support.tied import tied

{}
print("started", flush=True)
time.sleep(600)
"""


def children(parent: int) -> list[int]:
    """The processes that a process started."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if (
                entry.name.isdigit()
                and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            ):
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_killed_process_started_is_gone(name: str, tmp_path: Path) -> None:
    if name in {"etcd", "consul", "knotd"}:
        needed(lambda: server(name))
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN.format(PROGRAMS[name]), str(tmp_path)],
        stdout=subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
    ) as parent:
        assert parent.stdout is not None
        try:
            assert parent.stdout.readline() == b"started\n"
            (program,) = children(parent.pid)
            pidfd = os.pidfd_open(program)
        finally:
            parent.kill()
    try:
        assert select.select([pidfd], [], [], PATIENCE_S)[0], "it lives on"
    finally:
        os.close(pidfd)


def test_it_outlives_the_thread_that_started_it() -> None:
    started: list[subprocess.Popen[bytes]] = []
    thread = threading.Thread(
        target=lambda: started.append(
            subprocess.Popen(tied(["cat"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
    )
    thread.start()
    thread.join()
    assert started[0].communicate(b"alive", timeout=PATIENCE_S)[0] == b"alive"


def test_the_program_keeps_its_pid_its_output_and_the_signals_that_end_it() -> None:
    with subprocess.Popen(
        tied(["sh", "-c", "echo $$; kill -PIPE $$; exit 3"]), stdout=subprocess.PIPE
    ) as process:
        # Up to the end of the output: nobody else keeps it open.
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert said == b"%d\n" % process.pid
    assert process.returncode == -signal.SIGPIPE


def test_the_program_has_no_child_that_it_does_not_know() -> None:
    with subprocess.Popen(tied(["cat"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"\n"
        assert children(process.pid) == []


def test_one_whose_parent_is_gone_already_does_not_start() -> None:
    command = [*tied(["sleep", "600"])]
    command[command.index(str(os.getpid()))] = str(os.getppid())
    assert subprocess.run(command, timeout=PATIENCE_S, check=False).returncode == 1
