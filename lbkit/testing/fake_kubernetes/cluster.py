"""A Kubernetes API server on loopback that knows EndpointSlices, and nothing else."""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args
from urllib.parse import quote

from lbkit.address import Address
from lbkit.testing.fake_kubernetes.documents import status
from lbkit.testing.fake_kubernetes.store import Change, Object, Refusal, Selector, Store

if TYPE_CHECKING:
    from lbkit.testing.fake_kubernetes.server import Watcher

Verb: TypeAlias = Literal["", "list", "watch", "get", "create", "update", "patch", "delete"]
_OwnFault: TypeAlias = Literal["silence", "garbage", "hang up"]
Fault: TypeAlias = int | _OwnFault

_OWN_FAULTS = get_args(_OwnFault)
_LABEL = "kubernetes.io/service-name"
_REASONS = {
    401: ("Unauthorized", "Unauthorized"),
    403: ("Forbidden", 'endpointslices.discovery.k8s.io is forbidden: User "system:anonymous" cannot {verb} resource "endpointslices"'),
    404: ("NotFound", "the server could not find the requested resource"),
    410: ("Expired", "The resourceVersion for the provided {verb} is too old."),
    429: ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
    500: ("InternalError", "Internal error occurred: etcdserver: leader changed"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
}  # fmt: skip


class Request(NamedTuple):
    """What the server was asked."""

    verb: str
    path: str
    query: Mapping[str, str]
    authorization: str


class _Fault:
    def __init__(self, what: Fault, verb: str, times: int | None, retry_after: str) -> None:
        self.what = what
        self.verb = verb
        self.times = times
        self.retry_after = retry_after


class FakeKubernetes:
    """What a fake API server has and says. Made by ``fake_kubernetes``; everything may change while it runs.

    Attributes:
        url: where it listens.
        kubeconfig: the path of a kubeconfig for it, as ``kubectl`` and the resolver read it.
        asked: the requests it got for EndpointSlices, in order.
        tokens: those that it accepts; empty for everybody, with one or without.
        watchers: the watches that are going on.
    """

    def __init__(self, tokens: Collection[str] = ()) -> None:
        self.url = ""
        self.kubeconfig = Path()
        self.asked: list[Request] = []
        self.tokens: Collection[str] = tokens
        self.store = Store(self._tell)
        self.watchers: set[Watcher] = set()
        self._faults: list[_Fault] = []
        self._healed = asyncio.Event()
        self._flow = asyncio.Event()
        self._flow.set()

    def target(self, service: str) -> str:
        """Return the channel target for a service here: ``target("greeter.default:grpc")``."""
        path, mark, query = service.partition("?")
        rest = f"&{query}" if mark else ""
        return f"kubernetes:///{path}?kubeconfig={quote(str(self.kubeconfig))}{rest}"

    # Objects

    def set(
        self,
        service: str,
        *addresses: str,
        draining: Collection[str] = (),
        not_ready: Collection[str] = (),
        namespace: str = "default",
        port_name: str = "grpc",
    ) -> None:
        """Make the slices of a service those of these backends, as a controller would.

        A slice has one port, so that backends on different ports of this machine come in slices of their own.

        Args:
            service: its name.
            *addresses: ``10.0.0.1:50051``, ``[::1]:50051``.
            draining: those of them that are terminating, and still serve.
            not_ready: those of them that are not ready.
            namespace: the service's.
            port_name: of the one port.

        Raises:
            ValueError: an address is none, or one that is draining or not ready is not among them.
        """
        wanted: dict[str, list[Address]] = {}
        parsed = [Address.parse(text) for text in addresses]
        if others := {*draining, *not_ready} - {*map(str, parsed)}:
            raise ValueError(
                f"{', '.join(sorted(others))}: list what drains or is not ready among the addresses too"
            )
        for address in parsed:
            wanted.setdefault(f"{service}-{_family(address).lower()}-{address.port}", []).append(address)
        for name, members in wanted.items():
            endpoints = [
                _endpoint(address, draining=str(address) in draining, ready=str(address) not in not_ready)
                for address in members
            ]
            self.apply({
                "metadata": {"name": name, "labels": {_LABEL: service}},
                "addressType": _family(members[0]),
                "ports": [{"name": port_name, "port": members[0].port, "protocol": "TCP"}],
                "endpoints": endpoints,
            }, namespace)  # fmt: skip
        for each in self.slices(service, namespace):
            if each["metadata"]["name"] not in wanted:
                self.delete(each["metadata"]["name"], namespace)

    def apply(self, manifest: Mapping[str, Any], namespace: str = "default") -> None:
        """Create an EndpointSlice, or replace it.

        Raises:
            ValueError: a real API server would not take it.
        """
        try:
            self.store.put(manifest, namespace)
        except Refusal as refusal:
            raise ValueError(str(refusal)) from None

    def delete(self, name: str, namespace: str = "default") -> None:
        """Delete an EndpointSlice.

        Raises:
            LookupError: there is none of that name.
        """
        try:
            self.store.delete(namespace, name)
        except Refusal as refusal:
            raise LookupError(str(refusal)) from None

    def slices(self, service: str, namespace: str = "default") -> list[Object]:
        """Return the slices of a service."""
        return self.store.page(Selector(namespace, f"{_LABEL}={service}"))[0]

    # Faults

    def fail(self, fault: Fault, verb: Verb = "", *, times: int | None = None, retry_after: str = "") -> None:
        """Answer badly from now on. A later fault comes before an earlier one.

        Args:
            fault: an HTTP status; ``silence``; ``garbage``, which is no JSON; ``hang up``.
            verb: of requests that this is about; empty for all.
            times: how often; None for until ``heal``.
            retry_after: the header of that name.

        Raises:
            ValueError: there is no such fault, or no such verb.
        """
        if isinstance(fault, str) and fault not in _OWN_FAULTS:
            raise ValueError(
                f"{fault!r} is no fault; write an HTTP status, or one of {', '.join(_OWN_FAULTS)}"
            )
        if verb not in get_args(Verb):
            raise ValueError(f"{verb!r} is no verb; write one of {', '.join(filter(None, get_args(Verb)))}")
        self._faults.insert(0, _Fault(fault, verb, times, retry_after))
        self._healed.clear()

    def heal(self) -> None:
        """Answer as it should be again; what was held back is said now."""
        self._faults.clear()
        self._healed.set()
        self._flow.set()

    def hold(self) -> None:
        """Say nothing on any watch until ``heal``, without ending it: not even at its time-out."""
        self._flow.clear()

    def compact(self) -> None:
        """Forget all changes: who watches from before, or reads a list in pages, is told to list again (410)."""
        self.store.compact()

    def bookmark(self) -> None:
        """Send a bookmark on every watch that asked for such."""
        for watcher in self.watchers:
            watcher.bookmark(self.store.version)

    def end_watches(self, how: Literal["cleanly", "cut", "expired"] = "cleanly") -> int:
        """End every watch there is; return how many.

        Args:
            how: ``cleanly``, as at a time-out; ``cut`` in the middle of a line; ``expired``: with an ERROR event (410).
        """
        for watcher in self.watchers:
            if how == "expired":
                reason, message = _REASONS[410]
                watcher.say("ERROR", status(410, reason, message.format(verb="watch")))
            watcher.cut = how == "cut"
            watcher.lines.put_nowait(None)
        return len(self.watchers)

    def send(self, data: bytes) -> None:
        """Send bytes on every watch, whatever they are."""
        for watcher in self.watchers:
            watcher.lines.put_nowait(data)

    # For the server

    def noted(self, verb: str, path: str, query: Mapping[str, str], authorization: str) -> str:
        """Note a request for slices, check its token, and return the fault that it gets; empty for none.

        Raises:
            Refusal: the token is not accepted, or a status was asked for.
        """
        if "endpointslices" not in path:
            return ""
        self.asked.append(Request(verb, path, query, authorization))
        if self.tokens and authorization.removeprefix("Bearer ") not in self.tokens:
            raise Refusal(401, *_REASONS[401])
        for fault in self._faults:
            if fault.verb in {"", verb} and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                if isinstance(fault.what, int):
                    reason, message = _REASONS.get(fault.what, ("", ""))
                    raise Refusal(fault.what, reason, message.format(verb=verb), fault.retry_after)
                return fault.what
        return ""

    async def healed(self) -> None:
        """Wait until there are no faults any more."""
        await self._healed.wait()

    @property
    def held(self) -> bool:
        """Whether watches say nothing."""
        return not self._flow.is_set()

    async def flowing(self) -> None:
        """Wait until watches may say something."""
        await self._flow.wait()

    def _tell(self, change: Change) -> None:
        for watcher in self.watchers:
            watcher.tell(change)


def _family(address: Address) -> str:
    return "IPv6" if ":" in address.host else "IPv4"


def _endpoint(address: Address, *, draining: bool, ready: bool) -> Object:
    name = f"pod-{address.host.replace('.', '-').replace(':', '-')}-{address.port}"
    return {
        "addresses": [address.host],
        "conditions": {"ready": ready and not draining, "serving": ready, "terminating": draining},
        "targetRef": {"kind": "Pod", "name": name, "uid": f"uid-of-{name}"},
    }


@asynccontextmanager
async def fake_kubernetes(
    *,
    tokens: Collection[str] = (),
    tls: tuple[str | Path, str | Path] | None = None,
    ca: str | Path | None = None,
    client_ca: str | Path | None = None,
) -> AsyncGenerator[FakeKubernetes, None]:
    """Run a Kubernetes API server that knows EndpointSlices on loopback, in this event loop.

    It speaks what the resolver and ``kubectl`` do: discovery, get, list with pages, watch with versions and bookmarks,
    create, replace, delete, and what ``kubectl label`` and ``kubectl annotate`` change.

    Args:
        tokens: whom to let in; empty for everybody. They are only sent over TLS.
        tls: the paths of its certificate and key, both PEM; None for plain HTTP.
        ca: whom its kubeconfig trusts.
        client_ca: ask for client certificates that this authority has signed.

    Raises:
        ImportError: aiohttp is not installed.
    """
    try:
        from aiohttp import web
    except ImportError as error:
        raise ImportError("fake_kubernetes needs aiohttp: pip install 'lbkit[kubernetes]'") from error
    import tempfile

    from lbkit.testing.fake_kubernetes.server import application

    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca and str(client_ca))
        context.load_cert_chain(*map(str, tls))
        context.verify_mode = ssl.CERT_REQUIRED if client_ca else ssl.CERT_NONE
    cluster = FakeKubernetes(tokens)
    runner = web.AppRunner(
        application(cluster), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
    )
    await runner.setup()
    with tempfile.TemporaryDirectory(prefix="lbkit-kubernetes-") as folder:
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            cluster.url = f"http{'s' if context else ''}://127.0.0.1:{runner.addresses[0][1]}"
            cluster.kubeconfig = Path(folder, "config")
            cluster.kubeconfig.write_text(json.dumps(_kubeconfig(cluster, ca)))
            yield cluster
        finally:
            cluster.heal()
            cluster.end_watches()
            await runner.cleanup()


def _kubeconfig(cluster: FakeKubernetes, ca: str | Path | None) -> Object:
    """Return a kubeconfig: JSON is YAML."""
    server: Object = {"server": cluster.url}
    if ca is not None:
        server["certificate-authority-data"] = b64encode(Path(ca).read_bytes()).decode()
    user: Object = {"token": next(iter(cluster.tokens))} if cluster.tokens else {}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": server}],
        "users": [{"name": "fake", "user": user}],
        "contexts": [
            {"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": "default"}}
        ],
        "current-context": "fake",
    }
