"""Real Knot DNS as a process on loopback, with one zone that knsupdate changes."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.support.tied import tied
from tests.support.tools import needed, server

READY_S = 30.0
ZONE = "lbkit.test"
BROKEN = "broken.test"  # a zone whose file is missing: SERVFAIL

CONFIG = """\
server:
    rundir: "{folder}"
    listen: 127.0.0.1@{port}
log:
  - target: "{folder}/knot.log"
    any: info
database:
    storage: "{folder}"
acl:
  - id: local
    address: 127.0.0.1
    action: update
template:
  - id: default
    storage: "{folder}"
    journal-content: none
    zonefile-sync: -1
zone:
  - domain: {zone}
    acl: local
  - domain: {broken}
"""
RECORDS = """\
$ORIGIN {zone}.
@ 300 SOA ns admin 1 3600 600 86400 60
@ 300 NS ns
ns 300 A 127.0.0.1
"""


class Knot:
    """A running server.

    Attributes:
        address: where it listens, ``127.0.0.1:port``.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.address = f"127.0.0.1:{port}"

    def ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until it has loaded its zone. Blocks."""
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            assert process.poll() is None, self.log()
            if f"[{ZONE}.] loaded" in self.log():
                return
            time.sleep(0.01)
        raise AssertionError(f"Knot is not ready after {READY_S} s: {self.log()}")

    def log(self) -> str:
        """What it said."""
        path = self.folder / "knot.log"
        return path.read_text() if path.exists() else ""

    def update(self, *lines: str) -> None:
        """Change the zone by a dynamic update (RFC 2136): ``del name``, ``add name ttl kind data``. Blocks."""
        script = "\n".join([f"server 127.0.0.1 {self.port}", f"zone {ZONE}.", *lines, "send", ""])
        done = subprocess.run(
            needed(lambda: server("knsupdate")),
            input=script,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "error" not in done.stdout, done.stdout

    async def set(self, name: str, kind: str, *data: str, ttl: int = 300) -> None:
        """Set all records of one kind that a name has, as ``FakeDns.set`` does."""
        adds = [f"add {name}. {ttl} {kind} {each}" for each in data]
        await asyncio.to_thread(self.update, f"del {name}. {kind}", *adds)

    async def remove(self, name: str) -> None:
        """Forget a name, as ``FakeDns.remove`` does."""
        await asyncio.to_thread(self.update, f"del {name}.")


@contextmanager
def knot(folder: Path) -> Generator[Knot, None, None]:
    """Run Knot, ready when the block begins. ``folder`` is for its files. Blocks."""
    command = needed(lambda: server("knotd"))
    running = Knot(folder, _free_port())
    names = {"folder": folder, "port": running.port, "zone": ZONE, "broken": BROKEN}
    (folder / "knot.conf").write_text(CONFIG.format(**names))
    (folder / f"{ZONE}.zone").write_text(RECORDS.format(**names))
    process = subprocess.Popen(
        tied([*command, "-c", str(folder / "knot.conf")]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        running.ready(process)
        yield running
    finally:
        process.kill()
        process.wait(30)


def _free_port() -> int:
    """A port that nobody has just now, for UDP and TCP."""
    while True:
        with closing(socket.socket()) as tcp, closing(socket.socket(type=socket.SOCK_DGRAM)) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            return int(tcp.getsockname()[1])
