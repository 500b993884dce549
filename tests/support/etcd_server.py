"""Real etcd, one node or several, as processes on loopback; and etcdctl."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tests.support.tied import tied
from tests.support.tools import needed, server

READY_S = 30.0


_claims: list[IO[bytes]] = []  # a file in which a byte is locked for each port that this process was given
_claimed: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Ports that nobody has just now, and that nobody will be given by chance: below those of outgoing connections.

    They are this process's until it ends: another one that runs tests could take them before the program that they are
    for has started, or while it is down.
    """
    if not _claims:
        _claims.append((Path(tempfile.gettempdir()) / f"lbkit-test-ports-{os.getuid()}").open("ab"))
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(12_000, 32_000)
        if port in _claimed:
            continue
        with suppress(OSError), socket.socket() as sock:
            fcntl.lockf(_claims[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            _claimed.add(port)
            sock.bind(("127.0.0.1", port))
            found.append(port)
    return found


class Etcd:
    """One node.

    Attributes:
        address: where clients connect, ``127.0.0.1:port``.
        data: the folder of its data.
    """

    def __init__(self, name: str, folder: Path, client: int, peer: int, options: Sequence[str]) -> None:
        self.name = name
        self.address = f"127.0.0.1:{client}"
        self.peer = f"http://127.0.0.1:{peer}"
        self.data = folder / name
        self.log = folder / f"{name}.log"
        self.options = [*options]
        self.scheme = "http"
        self.health = ""  # another address to ask for health, where clients need a certificate
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with the data that it left; see ``ready``."""
        url = f"{self.scheme}://{self.address}"
        command = [*needed(lambda: server("etcd")), "--name", self.name, "--data-dir", str(self.data)]
        command += ["--listen-client-urls", url, "--advertise-client-urls", url]
        command += ["--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer]
        command += [
            "--unsafe-no-fsync",
            "--log-level",
            "warn",
            "--heartbeat-interval",
            "50",
            "--election-timeout",
            "500",
            "--bcrypt-cost",  # of passwords: the least
            "4",
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(tied([*command, *self.options]), stdout=log, stderr=log)

    def ready(self) -> None:
        """Wait until it serves. Blocks."""
        assert self.process is not None
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            try:
                with urllib.request.urlopen(
                    self.health or f"http://{self.address}/health", timeout=2
                ) as answer:
                    if b'"true"' in answer.read():
                        return
            except (OSError, urllib.error.URLError):
                time.sleep(0.02)
        raise AssertionError(f"etcd is not ready after {READY_S} s: {self.log.read_text()[-2000:]}")

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the process and wait for it; its data stays."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def restart(self) -> None:
        """Start it again on the same port, and wait until it serves."""
        self.start()
        self.ready()

    def ctl(self, *arguments: str, **variables: str) -> str:
        """Run etcdctl against this node; return what it prints."""
        return etcdctl(self.address, *arguments, **variables)


def etcdctl(address: str, *arguments: str, **variables: str) -> str:
    """Run etcdctl, of API version 3, against any server; return what it prints."""
    command = [*needed(lambda: server("etcdctl")), "--endpoints", address]
    command += ["--command-timeout", "30s", "--dial-timeout", "30s", *arguments]  # not 5 s, and 2 s
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env={**os.environ, "ETCDCTL_API": "3", **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def etcd(folder: Path, *options: str) -> Generator[Etcd, None, None]:
    """Run one node, ready when the block begins. ``folder`` is for its data and its log."""
    with etcd_cluster(folder, 1, *options) as (node,):
        yield node


@contextmanager
def etcd_cluster(folder: Path, count: int, *options: str) -> Generator[list[Etcd], None, None]:
    """Run several nodes of one cluster, ready when the block begins."""
    ports = free_ports(2 * count)
    nodes = [Etcd(f"n{n}", folder, ports[2 * n], ports[2 * n + 1], options) for n in range(count)]
    cluster = ",".join(f"{node.name}={node.peer}" for node in nodes)
    try:
        for node in nodes:
            node.options += ["--initial-cluster", cluster]
            node.start()
        for node in nodes:
            node.ready()
        yield nodes
    finally:
        for node in nodes:
            node.end()
            shutil.rmtree(node.data, ignore_errors=True)
