"""The fake API server is judged by the real kubectl."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from lbkit.testing import FakeKubernetes, fake_kubernetes
from tests.support.certificates import certificates
from tests.support.servers import PATIENCE_S
from tests.support.tools import needed, server

pytestmark = pytest.mark.interop


class Kubectl:
    """Runs kubectl against a fake API server, in a home of its own."""

    def __init__(self, cluster: FakeKubernetes, home: Path) -> None:
        self._command = [*needed(lambda: server("kubectl")), "--kubeconfig", str(cluster.kubeconfig)]
        self._environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
        )

    async def fails(self, *arguments: str) -> str:
        """Run it; return what it complains of."""
        process = await self.start(*arguments)
        out, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode != 0, out
        return errors.decode()

    async def __call__(self, *arguments: str) -> str:
        """Run it; return what it prints."""
        process = await self.start(*arguments)
        out, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, errors.decode()
        return out.decode()

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncGenerator[asyncio.StreamReader, None]:
        """Run it until the block ends; give what it prints."""
        process = await self.start(*arguments)
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()
            await process.communicate()


def rows(text: str) -> list[list[str]]:
    """The cells, without the age."""
    return [line.split()[:-1] for line in text.splitlines()]


async def line(reader: asyncio.StreamReader) -> list[str]:
    found = await asyncio.wait_for(reader.readline(), PATIENCE_S)
    return found.decode().split()[:-1]


HEAD = ["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS"]
ONE = ["greeter-ipv4-50051", "IPv4", "50051", "10.0.0.1,10.0.0.2"]


@pytest.mark.parametrize("secured", [False, True])
async def test_get_in_every_form(tmp_path: Path, secured: bool) -> None:
    made = certificates()
    options: dict[str, Any] = (
        {"tls": (made.cert, made.key), "ca": made.ca, "tokens": ["abc"]} if secured else {}
    )
    async with fake_kubernetes(**options) as cluster:
        kubectl = Kubectl(cluster, tmp_path)
        cluster.set("greeter", "10.0.0.1:50051", "10.0.0.2:50051")
        cluster.set("other", "10.0.0.9:80", namespace="shop")
        table = await kubectl("get", "endpointslices")
        assert rows(table) == [HEAD, ONE]
        assert rows(await kubectl("get", "endpointslices", "-o", "wide")) == [HEAD, ONE]
        everywhere = rows(await kubectl("get", "endpointslices", "--all-namespaces"))
        assert everywhere[1:] == [["default", *ONE], ["shop", "other-ipv4-80", "IPv4", "80", "10.0.0.9"]]
        listed = json.loads(await kubectl("get", "endpointslices", "-o", "json"))
        assert [each["metadata"]["name"] for each in listed["items"]] == [ONE[0]]
        assert listed["items"][0]["endpoints"][0]["addresses"] == ["10.0.0.1"]
        one = yaml.safe_load(await kubectl("get", "endpointslice", ONE[0], "-o", "yaml"))
        assert one == cluster.slices("greeter")[0]
        assert (
            await kubectl("get", "endpointslices", "-o", "name")
            == f"endpointslice.discovery.k8s.io/{ONE[0]}\n"
        )
        selected = await kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name in (greeter)")
        assert rows(selected) == [HEAD, ONE]
        assert await kubectl("get", "endpointslices", "-l", "app=none", "-o", "name") == ""
        if secured:
            assert {request.authorization for request in cluster.asked} == {"Bearer abc"}


async def test_get_in_pages(tmp_path: Path) -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", *(f"10.0.0.1:{port}" for port in range(1, 8)))
        found = rows(await Kubectl(cluster, tmp_path)("get", "endpointslices", "--chunk-size=3"))
        assert len(found) == 8
        assert [request.query["limit"] for request in cluster.asked] == ["3"] * 3


async def test_watch_prints_each_change(tmp_path: Path) -> None:
    async with fake_kubernetes() as cluster:
        kubectl = Kubectl(cluster, tmp_path)
        cluster.set("greeter", "10.0.0.1:50051")
        async with kubectl.running("get", "endpointslices", "--watch") as printed:
            assert await line(printed) == HEAD
            assert await line(printed) == [*ONE[:3], "10.0.0.1"]
            async with asyncio.timeout(PATIENCE_S):
                while not cluster.watchers:  # noqa: ASYNC110 -- sets no event
                    await asyncio.sleep(0.01)
            cluster.set("greeter", "10.0.0.1:50051", "10.0.0.2:50051")
            assert await line(printed) == ONE
            cluster.set("greeter")
            assert await line(printed) == ONE
            cluster.set("greeter", "10.0.0.3:50051")
            assert await line(printed) == [*ONE[:3], "10.0.0.3"]


async def test_watch_of_one_says_what_kind_of_change_it_was(tmp_path: Path) -> None:
    async with fake_kubernetes() as cluster:
        kubectl = Kubectl(cluster, tmp_path)
        cluster.set("greeter", "10.0.0.1:50051")
        async with kubectl.running(
            "get", "endpointslice", ONE[0], "--watch", "--output-watch-events"
        ) as printed:
            assert await line(printed) == ["EVENT", *HEAD]
            assert await line(printed) == ["ADDED", *ONE[:3], "10.0.0.1"]
            async with asyncio.timeout(PATIENCE_S):
                while not cluster.watchers:  # noqa: ASYNC110 -- sets no event
                    await asyncio.sleep(0.01)
            cluster.set("greeter", "10.0.0.2:50051")
            assert await line(printed) == ["MODIFIED", *ONE[:3], "10.0.0.2"]
            cluster.delete(ONE[0])
            assert await line(printed) == ["DELETED", *ONE[:3], "10.0.0.2"]


async def test_create_replace_and_delete(tmp_path: Path) -> None:
    manifest = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "mine", "labels": {"kubernetes.io/service-name": "greeter"}},
        "addressType": "IPv4",
        "ports": [{"name": "grpc", "port": 50051}],
        "endpoints": [{"addresses": ["10.0.0.1"]}],
    }
    path = tmp_path / "slice.json"
    path.write_text(json.dumps(manifest))
    async with fake_kubernetes() as cluster:
        kubectl = Kubectl(cluster, tmp_path)
        assert "created" in await kubectl("create", "--validate=false", "-f", str(path))
        path.write_text(json.dumps({**manifest, "endpoints": [{"addresses": ["10.0.0.2"]}]}))
        assert "replaced" in await kubectl("replace", "--validate=false", "-f", str(path))
        assert [each["endpoints"][0]["addresses"] for each in cluster.slices("greeter")] == [["10.0.0.2"]]
        assert "AlreadyExists" in await kubectl.fails("create", "--validate=false", "-f", str(path))
        assert "deleted" in await kubectl("delete", "endpointslice", "mine")
        assert not cluster.slices("greeter")


async def test_label_and_annotate(tmp_path: Path) -> None:
    async with fake_kubernetes() as cluster:
        kubectl = Kubectl(cluster, tmp_path)
        cluster.set("greeter", "10.0.0.1:50051")
        await kubectl("annotate", "endpointslice", ONE[0], "owner=me")
        await kubectl("label", "endpointslice", ONE[0], "tier=back", "kubernetes.io/service-name-")
        assert not cluster.slices("greeter")
        await kubectl(
            "label", "endpointslice", ONE[0], "tier=front", "kubernetes.io/service-name=other", "--overwrite"
        )
        (found,) = cluster.slices("other")
        assert found["metadata"]["labels"] == {"tier": "front", "kubernetes.io/service-name": "other"}
        assert found["metadata"]["annotations"] == {"owner": "me"}
        assert found["endpoints"][0]["addresses"] == ["10.0.0.1"]
        assert "(NotFound)" in await kubectl.fails("label", "endpointslice", "absent", "a=b")
        assert [request.verb for request in cluster.asked].count("patch") == 3


async def test_errors_are_understood(tmp_path: Path) -> None:
    async with fake_kubernetes() as cluster:
        kubectl = Kubectl(cluster, tmp_path)
        absent = await kubectl.fails("get", "endpointslice", "absent")
        assert '(NotFound): endpointslices.discovery.k8s.io "absent" not found' in absent
        cluster.fail(403)
        assert "(Forbidden)" in await kubectl.fails("get", "endpointslices")
        cluster.heal()
        assert 'have a resource type "pods"' in await kubectl.fails("get", "pods")


async def test_discovery_documents_are_understood(tmp_path: Path) -> None:
    async with fake_kubernetes() as cluster:
        kubectl = Kubectl(cluster, tmp_path)
        assert json.loads(await kubectl("version", "-o", "json"))["serverVersion"]["minor"] == "32"
        assert await kubectl("api-versions") == "discovery.k8s.io/v1\n"
        found = (await kubectl("api-resources", "--no-headers")).split()
        assert found == ["endpointslices", "discovery.k8s.io/v1", "true", "EndpointSlice"]
