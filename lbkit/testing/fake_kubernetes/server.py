"""The HTTP side of a fake API server, on aiohttp.web. Imported when one is started."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import web

from lbkit.testing.fake_kubernetes.documents import DOCUMENTS, GROUP, VERSION, status, table
from lbkit.testing.fake_kubernetes.store import Change, Object, Refusal, Selector

if TYPE_CHECKING:
    from lbkit.testing.fake_kubernetes.cluster import FakeKubernetes

_NAMESPACED = f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/endpointslices"
_EVERYWHERE = f"/apis/{GROUP}/{VERSION}/endpointslices"
_DEFAULT_WATCH_S = 1800.0
_MERGE_PATCH = "application/merge-patch+json"


class Watcher:
    """One watch that is going on: what it has to say, line by line."""

    def __init__(self, selector: Selector, *, tables: bool, bookmarks: bool) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()  # None: end it
        self.cut = False  # end it in the middle of a line, not cleanly
        self.bookmarks = bookmarks
        self._selector = selector
        self._tables = tables
        self._columns = tables  # the first table has them

    def tell(self, change: Change) -> None:
        """Say what a change is to this watch."""
        if event := self._selector.event(change):
            self.say(*event)

    def say(self, kind: str, about: Object) -> None:
        """Say an event."""
        if self._tables and kind in {"ADDED", "MODIFIED", "DELETED"}:
            version = {"resourceVersion": about["metadata"]["resourceVersion"]}
            about = table([about], version, columns=self._columns)
            self._columns = False
        self.lines.put_nowait(json.dumps({"type": kind, "object": about}).encode() + b"\n")

    def bookmark(self, version: int) -> None:
        """Tell how far it is, if that was asked for."""
        if self.bookmarks:
            about = {"kind": "EndpointSlice", "apiVersion": f"{GROUP}/{VERSION}"}
            self.say("BOOKMARK", {**about, "metadata": {"resourceVersion": str(version)}})


def application(cluster: FakeKubernetes) -> web.Application:
    """Make the application that answers for a cluster."""
    handlers = _Handlers(cluster)
    app = web.Application(middlewares=[handlers.middleware])
    for path, document in DOCUMENTS.items():
        app.router.add_get(path, _saying(document))
    app.router.add_get(_EVERYWHERE, handlers.list)
    app.router.add_get(_NAMESPACED, handlers.list)
    app.router.add_post(_NAMESPACED, handlers.create)
    app.router.add_get(f"{_NAMESPACED}/{{name}}", handlers.get)
    app.router.add_put(f"{_NAMESPACED}/{{name}}", handlers.replace)
    app.router.add_patch(f"{_NAMESPACED}/{{name}}", handlers.patch)
    app.router.add_delete(f"{_NAMESPACED}/{{name}}", handlers.delete)
    return app


def _saying(document: Any) -> Callable[[web.Request], Any]:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(document)

    return handler


class _Handlers:
    def __init__(self, cluster: FakeKubernetes) -> None:
        self._cluster = cluster
        self._store = cluster.store

    @web.middleware
    async def middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Note the request, check who asks, and answer badly where a test wants it."""
        verb = _verb(request)
        try:
            fault = self._cluster.noted(
                verb, request.path, dict(request.query), request.headers.get("Authorization", "")
            )
            if fault == "garbage":
                return web.Response(body=b'{"kind": \x00 no JSON\n', content_type="application/json")
            if fault == "silence":
                await self._cluster.healed()
            if fault:
                _hang_up(request)
                return web.Response()
            answer: web.StreamResponse = await handler(request)
            return answer
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
            reason = "NotFound" if error.status == 404 else "MethodNotAllowed"
            return _refusing(
                Refusal(error.status, reason, "the server could not find the requested resource")
            )
        except Refusal as refusal:
            return _refusing(refusal)
        except ValueError as error:  # a number in the query that is none
            return _refusing(Refusal(400, "BadRequest", str(error)))

    async def list(self, request: web.Request) -> web.StreamResponse:
        """LIST and WATCH."""
        query = request.query
        selector = Selector(
            request.match_info.get("namespace", ""),
            query.get("labelSelector", ""),
            query.get("fieldSelector", ""),
        )
        if _verb(request) == "watch":
            return await self._watch(request, selector)
        items, metadata = self._store.page(selector, int(query.get("limit") or 0), query.get("continue", ""))
        if _wants_table(request):
            return web.json_response(table(items, metadata))
        document = {"kind": "EndpointSliceList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": metadata}
        return web.json_response({**document, "items": items})

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET of one."""
        return self._one(request, self._store.get(*_key(request)))

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST."""
        made = self._store.put(await _body(request), request.match_info["namespace"], create=True)
        return self._one(request, made, 201)

    async def replace(self, request: web.Request) -> web.StreamResponse:
        """PUT."""
        made = self._store.put(await _body(request), request.match_info["namespace"], create=False)
        return self._one(request, made)

    async def patch(self, request: web.Request) -> web.StreamResponse:
        """PATCH, in the form that ``kubectl label`` and ``kubectl annotate`` send."""
        if request.content_type != _MERGE_PATCH:
            why = f"the only patch that is understood here is {_MERGE_PATCH}"
            raise Refusal(415, "UnsupportedMediaType", why)
        patch = await _body(request)
        made = _merged(self._store.get(*_key(request)), patch)
        return self._one(request, self._store.put(made, request.match_info["namespace"], create=False))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """DELETE."""
        self._store.delete(*_key(request))
        return web.json_response(status(200, "", ""))

    def _one(self, request: web.Request, about: Object, code: int = 200) -> web.Response:
        if _wants_table(request):
            return web.json_response(
                table([about], {"resourceVersion": about["metadata"]["resourceVersion"]})
            )
        return web.json_response(about, status=code)

    async def _watch(self, request: web.Request, selector: Selector) -> web.StreamResponse:
        query = request.query
        watcher = Watcher(
            selector,
            tables=_wants_table(request),
            bookmarks=query.get("allowWatchBookmarks") in {"true", "1"},
        )
        self._begin(watcher, selector, query.get("resourceVersion", ""))
        self._cluster.watchers.add(watcher)  # before the first await: no change falls between
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        try:
            await response.prepare(request)
            with suppress(TimeoutError):
                async with asyncio.timeout(float(query.get("timeoutSeconds") or _DEFAULT_WATCH_S)):
                    while (line := await watcher.lines.get()) is not None:
                        await self._cluster.flowing()
                        await response.write(line)
                if watcher.cut:
                    await response.write(b'{"type":"MODIFIED","object":{"kind":"Endpo')
                    _hang_up(request)
                return response
            if watcher.bookmarks and not self._cluster.held:
                watcher.bookmark(self._store.version)
                await response.write(watcher.lines.get_nowait() or b"")
            await self._cluster.flowing()
            return response
        finally:
            self._cluster.watchers.discard(watcher)

    def _begin(self, watcher: Watcher, selector: Selector, version: str) -> None:
        """Say what happened since a version; without one, what there is now."""
        if version in {"", "0"}:
            for item in self._store.page(selector)[0]:
                watcher.say("ADDED", item)
            return
        if not version.isdigit():
            raise Refusal(400, "BadRequest", f"invalid resource version: {version!r}")
        try:
            for change in self._store.since(int(version)):
                watcher.tell(change)
        except Refusal as refusal:  # the real one begins to answer before it knows
            watcher.say("ERROR", status(refusal.status, refusal.reason, str(refusal)))
            watcher.lines.put_nowait(None)


def _verb(request: web.Request) -> str:
    """Return what the API calls a request."""
    if request.method != "GET":
        return {"POST": "create", "PUT": "update"}.get(request.method, request.method.lower())
    if not request.path.endswith("/endpointslices"):
        return "get"
    return "watch" if request.query.get("watch") in {"true", "1"} else "list"


def _key(request: web.Request) -> tuple[str, str]:
    return request.match_info["namespace"], request.match_info["name"]


def _wants_table(request: web.Request) -> bool:
    """Whether a table is what is wanted most."""
    first = request.headers.get("Accept", "").partition(",")[0]
    return "as=Table" in first and "v=v1;" in f"{first};"


async def _body(request: web.Request) -> Object:
    try:
        found = json.loads(await request.read())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refusal(400, "BadRequest", "the body is no JSON object")
    return found


def _merged(about: Any, patch: Any) -> Any:
    """Return what a JSON merge patch (RFC 7386) makes of something."""
    if not isinstance(patch, dict):
        return patch
    made = dict(about) if isinstance(about, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), value)
    return made


def _refusing(refusal: Refusal) -> web.Response:
    document = status(refusal.status, refusal.reason, str(refusal))
    headers = {"Retry-After": refusal.retry_after} if refusal.retry_after else None
    return web.json_response(document, status=refusal.status, headers=headers)


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
