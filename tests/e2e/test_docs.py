"""The code blocks of README.md and of the packs' READMEs do what the text says."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lbkit
from tests.support.protos import helloworld_pb2
from tests.support.tied import tied

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def block_with(page: str, text: str) -> str:
    (found,) = [block for block in blocks(page) if text in block]
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A folder with the generated module under the name that the README gives it."""
    (tmp_path / "helloworld_pb2.py").write_text("from tests.support.protos.helloworld_pb2 import *\n"
                                                "from tests.support.protos.helloworld_pb2 import DESCRIPTOR\n")  # fmt: skip
    return tmp_path


def run(folder: Path, name: str, code: str) -> subprocess.Popen[str]:
    (folder / name).write_text(code)
    return subprocess.Popen(
        tied([sys.executable, "-W", "error", name]),
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}:{folder}", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def restored() -> Iterator[None]:
    """Forget the plug-ins that a block registers."""
    modules = [sys.modules["lbkit.resolver"], sys.modules["lbkit.balancer"]]
    before = [dict(module.registry._registered) for module in modules]
    yield
    for module, registered in zip(modules, before, strict=True):
        module.registry._registered = registered


async def reachable(address: str) -> None:
    """Return when a server listens there."""
    async with lbkit.Channel(f"static:///{address}", backoff=lbkit.BackoffPolicy(initial_s=0.02)) as channel:
        await channel.ready(10.0)


async def test_server_and_client_of_the_readme_talk_and_the_server_stops_cleanly(scripts: Path) -> None:
    ports = free_port(), free_port()
    server = block_with("README.md", "# server.py")
    client = block_with("README.md", "# client.py")
    running = []
    try:
        for number, port in enumerate(ports):
            running.append(run(scripts, f"server{number}.py", server.replace("50051", str(port))))
        for port in ports:
            await reachable(f"127.0.0.1:{port}")
        code = client.replace("50051", str(ports[0])).replace("50052", str(ports[1]))
        out, errors = run(scripts, "client.py", code).communicate(timeout=20)
        assert (out, errors) == ("hello ann\n", "")
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            assert process.communicate(timeout=20) == ("", "")
            assert process.returncode == 0
    finally:
        for process in running:
            process.kill()
            process.communicate()


class Greeter:
    def __init__(self, name: str) -> None:
        self.name = name

    async def SayHello(self, request: Any, context: lbkit.ServicerContext) -> Any:
        return helloworld_pb2.HelloReply(message=self.name)


@pytest.mark.usefixtures("restored")
async def test_resolver_and_balancers_of_the_readme_work_together() -> None:
    names: dict[str, Any] = {}
    exec(block_with("README.md", '"inventory", refresh'), names)  # the project's own README
    exec(block_with("README.md", '"least_busy"'), names)
    servers = []
    for name in ("one", "two"):
        server = lbkit.Server()
        server.add(helloworld_pb2, "Greeter", Greeter(name))
        servers.append((server, f"127.0.0.1:{server.bind('127.0.0.1:0')}"))
        await server.start()
    names["BACKENDS"]["greeter"] = [address for _, address in servers]
    answers: dict[str, Counter[str]] = {}
    for policy in ("sticky", "least_busy", "round_robin"):
        async with lbkit.Channel("inventory:///greeter", balancer=policy) as channel:
            greeter = channel.stub(helloworld_pb2, "Greeter")
            await channel.ready(5.0)
            while policy != "least_busy" and not await seen_both(greeter):
                pass
            calls = [
                await greeter.SayHello(helloworld_pb2.HelloRequest(), metadata=(("user", "ann"),))
                for _ in range(20)
            ]
            answers[policy] = Counter(reply.message for reply in calls)
    assert len(answers["sticky"]) == 1
    assert answers["round_robin"] == {"one": 10, "two": 10}
    assert answers["least_busy"].total() == 20
    await names["channel"].close()
    for server, _ in servers:
        await server.stop()


async def seen_both(greeter: Any) -> bool:
    """Whether both backends are READY: different users, or turns, reach both."""
    replies = [
        await greeter.SayHello(helloworld_pb2.HelloRequest(), metadata=(("user", str(number)),))
        for number in range(16)
    ]
    return len({reply.message for reply in replies}) == 2


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("page", ["resolvers/README.md", "balancers/README.md", "docs/write-a-resolver.md"])
async def test_blocks_of_the_pack_pages_run(page: str) -> None:
    for code in blocks(page):
        names: dict[str, Any] = {"__name__": f"block_of_{page.replace('/', '_')}"}
        exec(compile(code, page, "exec", dont_inherit=True), names)
        for value in list(names.values()):
            if isinstance(value, lbkit.Channel):
                await value.close()


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(each.relative_to(ROOT)) for each in (ROOT / "docs").rglob("*.md"))]
)
def test_every_path_that_a_page_links_to_exists(page: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)[)#]", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / link).exists(), link


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
