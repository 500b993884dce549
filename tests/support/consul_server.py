"""A real Consul agent in dev mode, as a process on loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.etcd_server import free_ports
from tests.support.tied import tied
from tests.support.tools import needed, server

READY_S = 30.0


class Consul:
    """One agent, which is its own server.

    Attributes:
        address: of its HTTP API, ``127.0.0.1:port``.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        http, rpc, lan, wan = free_ports(4)
        self.address = f"127.0.0.1:{http}"
        self.log = folder / "consul.log"
        self.token = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [
            *needed(lambda: server("consul")),
            "agent",
            "-dev",
            "-bind=127.0.0.1",
            "-client=127.0.0.1",
            f"-http-port={http}",
            "-dns-port=-1",
            "-grpc-port=-1",
            f"-server-port={rpc}",
            f"-serf-lan-port={lan}",
            f"-serf-wan-port={wan}",
            "-hcl",
            'check_update_interval="0s"',
            "-hcl",
            "disable_update_check=true",
            *options,
        ]

    def start(self) -> None:
        """Start it, with nothing registered; see ``ready``."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(tied(self._command), stdout=log, stderr=log)

    def ready(self) -> None:
        """Wait until it has a leader, and has put itself into the catalogue, with all that it knows of its node. Blocks.

        That comes a moment later, and ends the blocking queries for all services of the node.
        """
        assert self.process is not None
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            try:
                if self.api("GET", "/v1/status/leader"):
                    entries = self.api("GET", "/v1/health/service/consul")
                    if entries and entries[0]["Node"]["Meta"]:
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"consul is not ready after {READY_S} s: {self.log.read_text()[-2000:]}")

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the process and wait for it. What it knew is gone."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def pause(self) -> None:
        """Stop it as it is: connections stay, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def restart(self) -> None:
        """Start it again on the same ports, and wait until it serves."""
        self.start()
        self.ready()

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Ask it, and return what it says, parsed if that is JSON. Blocks."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-Consul-Token": self.token} if self.token else {}
        request = urllib.request.Request(
            f"http://{self.address}{path}", data=data, method=method, headers=headers
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.lstrip()[:1] in {"[", "{", '"'} else text

    def put(self, service: str, address: str, **fields: Any) -> None:
        """Register an instance, as ``service-address`` and without a check unless the fields say otherwise. Blocks."""
        host, port = address.rsplit(":", 1)
        body = {"ID": f"{service}-{address}", "Name": service, "Address": host, "Port": int(port), **fields}
        self.api("PUT", "/v1/agent/service/register", body)

    def remove(self, id: str) -> None:
        """Deregister an instance. Blocks."""
        self.api("PUT", f"/v1/agent/service/deregister/{id}")


@contextmanager
def consul(folder: Path, *options: str) -> Generator[Consul, None, None]:
    """Run an agent, ready when the block begins. ``folder`` is for its log."""
    agent = Consul(folder, *options)
    try:
        agent.start()
        agent.ready()
        yield agent
    finally:
        agent.end()
