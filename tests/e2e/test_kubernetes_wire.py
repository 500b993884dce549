"""The fake API server's wire behaviour, as the API's documentation has it; and the resolver before servers that are none."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lbkit.testing import FakeKubernetes, fake_kubernetes
from lbkit_resolvers.kubernetes import Timing, api
from lbkit_resolvers.kubernetes.api import Api
from lbkit_resolvers.kubernetes.config import Access
from lbkit_resolvers.kubernetes.credentials import NO_TOKEN, TokenFile
from lbkit_resolvers.kubernetes.failures import Failure
from lbkit_resolvers.kubernetes.target import Service
from tests.support.servers import listening, until

SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
MANIFEST = {"metadata": {"name": "mine"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]}


async def ask(
    cluster: FakeKubernetes, path: str = SLICES, method: str = "GET", body: Any = None, **query: str
) -> tuple[int, list[Any]]:
    """Make a request; return the status, and the lines of the answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, cluster.url + path, params=query, data=body) as response,
    ):
        text = await response.text()
        assert response.content_type == "application/json"
        return response.status, [json.loads(line) for line in text.splitlines()]


async def test_watch_without_a_version_begins_with_what_there_is() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1", "10.0.0.2:2")
        for version in ("0", ""):
            _, events = await ask(cluster, watch="true", resourceVersion=version, timeoutSeconds="0.2")
            assert [event["type"] for event in events] == ["ADDED", "ADDED"]


async def test_watch_from_a_version_says_what_happened_since() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        _, (document,) = await ask(cluster)
        cluster.set("greeter", "10.0.0.2:1")
        cluster.set("greeter")
        version = document["metadata"]["resourceVersion"]
        _, events = await ask(cluster, watch="1", resourceVersion=version, timeoutSeconds="0.2")
        assert [event["type"] for event in events] == ["MODIFIED", "DELETED"]
        versions = [event["object"]["metadata"]["resourceVersion"] for event in events]
        assert versions == ["1002", "1003"]


async def test_watch_ends_with_a_bookmark_where_that_was_asked_for() -> None:
    async with fake_kubernetes() as cluster:
        cluster.compact()
        query = {"watch": "true", "resourceVersion": "1001", "timeoutSeconds": "0.2"}
        _, events = await ask(cluster, **query, allowWatchBookmarks="true")
        assert [(event["type"], event["object"]["metadata"]) for event in events] == [
            ("BOOKMARK", {"resourceVersion": "1001"})
        ]
        assert await ask(cluster, **query) == (200, [])


async def test_watch_from_a_version_that_is_forgotten_gets_an_error_event() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        cluster.compact()
        status, events = await ask(cluster, watch="true", resourceVersion="1001")
        assert status == 200
        (event,) = events
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == (
            "ERROR",
            410,
            "Expired",
        )


@pytest.mark.parametrize(
    ("path", "method", "body", "query", "status", "reason"),
    [
        (SLICES, "GET", None, {"watch": "true", "resourceVersion": "x"}, 400, "BadRequest"),
        (SLICES, "GET", None, {"fieldSelector": "spec.x=1"}, 400, "BadRequest"),
        (SLICES, "GET", None, {"limit": "x"}, 400, "BadRequest"),
        (SLICES, "GET", None, {"limit": "1", "continue": "old"}, 410, "Expired"),
        (f"{SLICES}/absent", "GET", None, {}, 404, "NotFound"),
        (f"{SLICES}/absent", "DELETE", None, {}, 404, "NotFound"),
        (
            f"{SLICES}/absent",
            "PUT",
            json.dumps({**MANIFEST, "metadata": {"name": "absent"}}),
            {},
            404,
            "NotFound",
        ),
        (SLICES, "POST", "oops", {}, 400, "BadRequest"),
        (SLICES, "POST", "[]", {}, 400, "BadRequest"),
        (SLICES, "POST", "{}", {}, 422, "Invalid"),
        (SLICES, "PATCH", "{}", {}, 405, "MethodNotAllowed"),
        (f"{SLICES}/mine", "PATCH", "{}", {}, 415, "UnsupportedMediaType"),
        ("/api/v1/pods", "GET", None, {}, 404, "NotFound"),
    ],
)
async def test_what_is_wrong_is_answered_with_a_status(
    path: str, method: str, body: str | None, query: dict[str, str], status: int, reason: str
) -> None:
    async with fake_kubernetes() as cluster:
        code, (document,) = await ask(cluster, path, method, body, **query)
        assert (code, document["kind"], document["code"], document["reason"]) == (
            status,
            "Status",
            status,
            reason,
        )


async def test_rest_writes_are_those_of_the_python_calls() -> None:
    async with fake_kubernetes() as cluster:
        code, (made,) = await ask(cluster, SLICES, "POST", json.dumps(MANIFEST))
        assert (code, made["metadata"]["namespace"], made["metadata"]["resourceVersion"]) == (
            201,
            "default",
            "1001",
        )
        made["endpoints"] = []
        code, (changed,) = await ask(cluster, f"{SLICES}/mine", "PUT", json.dumps(made))
        assert (code, changed["metadata"]["resourceVersion"]) == (200, "1002")
        code, (conflict,) = await ask(cluster, f"{SLICES}/mine", "PUT", json.dumps(made))
        assert (code, conflict["reason"]) == (409, "Conflict")
        code, (done,) = await ask(cluster, f"{SLICES}/mine", "DELETE")
        assert (code, done["status"]) == (200, "Success")


async def test_what_cannot_be_meant_is_refused() -> None:
    async with fake_kubernetes() as cluster:
        call: Any = cluster.fail
        with pytest.raises(
            ValueError,
            match="'hangup' is no fault; write an HTTP status, or one of silence, garbage, hang up",
        ):
            call("hangup")
        with pytest.raises(ValueError, match="'lists' is no verb; write one of list, watch, get"):
            call(503, "lists")
        wrong: Any
        for wrong in ({"draining": ["10.0.0.2:1"]}, {"not_ready": ["10.0.0.2:1"]}):
            with pytest.raises(
                ValueError, match=r"10\.0\.0\.2:1: list what drains or is not ready among the addresses"
            ):
                cluster.set("greeter", "10.0.0.1:1", **wrong)
        assert not cluster.slices("greeter")


async def test_silent_server_hangs_up_when_it_is_healed() -> None:
    async with fake_kubernetes() as cluster:
        cluster.fail("silence")
        host, port = cluster.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {SLICES} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        await until(lambda: cluster.asked)
        cluster.heal()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


def test_without_aiohttp_the_fake_says_what_to_install() -> None:
    code = """
    import asyncio, sys
    sys.modules["aiohttp"] = None
    from lbkit.testing import fake_kubernetes
    async def main():
        async with fake_kubernetes(): ...
    asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30, check=False
    )
    assert "fake_kubernetes needs aiohttp: pip install 'lbkit[kubernetes]'" in done.stderr


# Servers that are no API servers


@asynccontextmanager
async def answering(head: str, body: bytes) -> AsyncGenerator[Api, None]:
    """A server that says one thing, and the resolver's side of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {head}\r\nconnection: close\r\n\r\n".encode() + body)
        writer.close()
        await writer.wait_closed()

    async with listening(serve) as port:
        access = Access(f"http://127.0.0.1:{port}", "shop", NO_TOKEN, None)
        async with Api(access, Service("greeter", "", "", "greeter"), Timing()) as asked:
            yield asked


JSON = "200 OK\r\ncontent-type: application/json"


@pytest.mark.parametrize(
    ("head", "body", "why"),
    [
        (JSON, b"[]", "the API server's answer is no list"),
        (JSON, b'{"metadata": {}, "items": 7}', "the API server's answer is no list"),
        (JSON, b'{"metadata": [], "items": []}', "the API server's answer is no list"),
        (JSON, b'{"metadata": {}, "items": []}', "has no resourceVersion to watch from"),
        (JSON, b"", "the API server sent what is no JSON"),
        (JSON, b"\xff" * 10, "the API server sent what is no JSON"),
        (JSON + "\r\ncontent-length: 100", b'{"metadata"', "the connection broke: "),
        (JSON, b"x" * 2000, "the API server's list is longer than 1000 bytes"),
        (JSON + "\r\ncontent-encoding: gzip", b'{"a"', "the API server sent what is no JSON"),
        ("400 Bad Request\r\ncontent-type: text/html", b"<h1>No\x1b</h1>", "answered 400: '<h1>No\\x1b</h1>'; does the server speak"),
        ("500 Oops\r\ncontent-type: application/json", b"{", "the API server answered 500"),
        ("301 Moved\r\nlocation: http://elsewhere/", b"", "redirections are not followed"),
        ("nonsense", b"", "the connection broke: "),
    ],
)  # fmt: skip
async def test_server_that_is_none_is_told_from_one(
    monkeypatch: pytest.MonkeyPatch, head: str, body: bytes, why: str
) -> None:
    monkeypatch.setattr(api, "_MAX_PAGE_BYTES", 1000)
    async with answering(head, body) as asked:
        with pytest.raises(Failure) as caught:
            await asked.everything()
    assert why in str(caught.value)
    assert str(caught.value).startswith(asked.where)
    assert str(caught.value).isprintable()


async def test_list_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_MAX_PAGES", 5)
    async with fake_kubernetes() as cluster:
        monkeypatch.setattr(
            cluster.store, "page", lambda *_: ([], {"resourceVersion": "1", "continue": "again"})
        )
        access = Access(cluster.url, "default", NO_TOKEN, None)
        async with Api(access, Service("greeter", "", "", "greeter"), Timing()) as asked:
            with pytest.raises(Failure, match="the list does not end after 5 pages"):
                await asked.everything()
        assert len(cluster.asked) == 5


async def test_token_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    access = Access("http://127.0.0.1:9", "default", TokenFile(tmp_path / "gone"), None)
    async with Api(access, Service("greeter", "", "", "greeter"), Timing()) as asked:
        with pytest.raises(Failure, match=r"the token cannot be read: .*gone"):
            await asked.everything()
