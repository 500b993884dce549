"""For programs that have an ``etcd3.Etcd3Client`` already: its calls, and our own watch, lists and leases on top.

What etcd3 0.12 does when etcd goes away is not used: its watches end in silence, or in a thread that spins. A program
that has no such client is better off with ``etcd://`` targets, which need neither etcd3 nor grpcio.
"""

from __future__ import annotations

import asyncio
import importlib
import queue
import random as random_module
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn
from urllib.parse import urlencode

from lbkit.eof import EOF
from lbkit.errors import Attempt, RpcError
from lbkit.protos import etcd
from lbkit.status import StatusCode
from lbkit.target import Target
from lbkit_resolvers.etcd.client import EtcdClient
from lbkit_resolvers.etcd.codecs import DEFAULT_CODEC
from lbkit_resolvers.etcd.errors import EtcdError, Kind
from lbkit_resolvers.etcd.registrar import EtcdRegistrar
from lbkit_resolvers.etcd.resolver import EtcdResolver
from lbkit_resolvers.etcd.target import EtcdTarget

_CURE = (
    "etcd3 0.12 cannot be imported with protobuf 4 or later unless PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python is in "
    "the environment before the program starts; that makes protobuf slower for all of it. Targets of the form "
    "etcd://host:2379/name need neither etcd3 nor that"
)


class Etcd3Resolver(EtcdResolver):
    """The backends of a service, asked for through a client of the application's.

    Like this::

        resolver = Etcd3Resolver(etcd3.client(), "svc/foo")
        channel = lbkit.Channel("etcd3:///svc/foo", resolver=resolver)

    Args:
        client: an ``etcd3.Etcd3Client``; stays the caller's.
        name: of the service.
        codec: the record format: ``etcd``, ``kratos`` or ``gozero``.
        namespace: goes in front of the name; None for what the format has by default.

    Raises:
        TargetError: the name is empty, or there is no such codec.
        TypeError: the client is none of etcd3's.
        ImportError: etcd3 cannot be imported; says what to do.
    """

    def __init__(
        self, client: Any, name: str, *, codec: str = DEFAULT_CODEC, namespace: str | None = None
    ) -> None:
        super().__init__(_target(client, name, codec, namespace))
        self._etcd3 = client

    def _client(self, random: random_module.Random) -> EtcdClient:
        return _Etcd3Calls(self._where, self._etcd3)


class Etcd3Registrar(EtcdRegistrar):
    """A server's record, put and kept through a client of the application's.

    Like this::

        async with server.serving("0.0.0.0:50051", register=Etcd3Registrar(etcd3.client(), "svc/foo")): ...

    Args:
        client: an ``etcd3.Etcd3Client``; stays the caller's.
        name: of the service.
        ttl: how long the record outlives its server, like ``15s``.
        codec: the record format: ``etcd``, ``kratos`` or ``gozero``.
        namespace: goes in front of the name; None for what the format has by default.
        random: for the number of the lease, and jitter.

    Raises:
        TargetError: the name is empty, there is no such codec, or ``ttl`` is not 2 s to a day.
        TypeError, ImportError: as ``Etcd3Resolver``.
    """

    def __init__(
        self,
        client: Any,
        name: str,
        *,
        ttl: str = "15s",
        codec: str = DEFAULT_CODEC,
        namespace: str | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        super().__init__(_target(client, name, codec, namespace, ttl=ttl), random=random)
        self._client = _Etcd3Calls(self._where, client)


def _target(client: Any, name: str, codec: str, namespace: str | None, **more: str) -> Target:
    if not all(hasattr(client, each) for each in ("kvstub", "leasestub", "channel", "metadata")):
        raise TypeError(f"{client!r} is no client of etcd3's, such as etcd3.client() returns")
    given = {"codec": codec, "namespace": namespace, **more}
    query = urlencode({key: value for key, value in given.items() if value is not None})
    where = getattr(client, "_url", "")  # for people: it has no public name
    return Target(f"etcd3://{where}/{name}", "etcd3", where, name, query)


def _etcdrpc() -> Any:
    """Return etcd3's messages and stubs.

    Raises:
        ImportError: they cannot be had; says what to do.
    """
    try:
        return importlib.import_module("etcd3.etcdrpc")
    except TypeError as error:  # protobuf's "Descriptors cannot be created directly"
        raise ImportError(f"{_CURE} ({str(error).partition(chr(10))[0]})") from None
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'lbkit[etcd3]'. {_CURE}") from None


class _Etcd3Calls(EtcdClient):
    """Makes its calls with the stubs of an etcd3 client: one member, whose connection grpcio keeps.

    Its credentials of calls are not used: grpcio refuses them without TLS. The token they hold goes as metadata.
    """

    def __init__(self, where: EtcdTarget, client: Any) -> None:
        super().__init__(where)
        rpc = _etcdrpc()
        self._etcd3 = client
        self._services: dict[str, Any] = {
            "KV": _Service(rpc, client.kvstub),
            "Lease": _Service(rpc, client.leasestub),
            "Watch": _Service(rpc, rpc.WatchStub(client.channel)),
        }

    def trouble(self, error: RpcError) -> EtcdError:
        """Say what a failed call means: a token that has expired stays so, as the client asks for one only once."""
        found = EtcdError.of(error, self.member)
        if found.kind is Kind.STALE_TOKEN:
            what = f"{found.what} (an etcd3 client never renews its token: make a new one, or use etcd:// targets)"
            return EtcdError(what, self.member, Kind.WRONG_PASSWORD, found.code)
        return found

    async def moved(self) -> NoReturn:
        """Wait: grpcio does not tell of it. The watch ends when the member does."""
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def _stub(self, service: str) -> Any:
        return self._services[service]

    async def _metadata(self, timeout: float, *, leader: bool) -> tuple[tuple[str, str], ...]:
        token: tuple[tuple[str, str], ...] = tuple(self._etcd3.metadata or ())
        return (("hasleader", "true"), *token) if leader else token


class _Service:
    """One of etcd3's stubs, with methods as lbkit's stubs have them, for lbkit's own messages."""

    def __init__(self, rpc: Any, stub: Any) -> None:
        self._rpc = rpc
        self._stub = stub

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._stub, name)
        if name in {"Watch", "LeaseKeepAlive"}:
            return lambda *, metadata: _Stream(self._theirs, method, metadata)

        async def call(request: Any, *, timeout: float, metadata: Any) -> Any:
            return await _call(method, self._theirs(request), timeout, metadata)

        return call

    def _theirs(self, message: Any) -> Any:
        return getattr(self._rpc, type(message).__name__).FromString(message.SerializeToString())


async def _call(method: Any, request: Any, timeout: float, metadata: Any) -> Any:
    """Make one of grpcio's blocking calls without blocking: its future says when it is done, in a thread of its own."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    try:
        future = method.future(request, timeout=timeout, metadata=metadata)
    except ValueError as error:  # the channel was closed
        raise RpcError(StatusCode.UNAVAILABLE, str(error)) from None
    future.add_done_callback(lambda _: _in_loop(loop, _settle, done, None))
    try:
        await done
    finally:
        future.cancel()  # does nothing to one that is done
    failed = future.exception()
    if failed is not None:
        raise _ours_of_error(failed) from None
    return _ours(future.result())


class _Stream:
    """One of grpcio's blocking streams: a thread reads a response when one is asked for."""

    def __init__(self, theirs: Callable[[Any], Any], method: Any, metadata: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._theirs = theirs
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._wanted: queue.SimpleQueue[asyncio.Future[Any] | None] = queue.SimpleQueue()
        try:
            self._call = method(iter(self._requests.get, None), metadata=metadata)
        except ValueError as error:  # the channel was closed
            raise RpcError(StatusCode.UNAVAILABLE, str(error)) from None
        # A daemon: it waits in grpcio's code, and must not keep a program from ending.
        threading.Thread(target=self._run, name="lbkit-etcd3", daemon=True).start()

    async def wait_for_connection(self) -> None:
        """Return: grpcio does not tell. What is wrong comes with the first response."""

    async def write(self, request: Any) -> None:
        """Send a request; does not wait."""
        self._requests.put(self._theirs(request))

    async def read(self) -> Any:
        """Return the next response; EOF when there are no more.

        Raises:
            RpcError: the stream ended with an error.
        """
        response = self._loop.create_future()
        self._wanted.put(response)
        return await response

    def cancel(self) -> None:
        """End it, and its threads."""
        self._call.cancel()
        self._requests.put(None)
        self._wanted.put(None)

    def _run(self) -> None:
        responses: Iterator[Any] = iter(self._call)
        while (wanted := self._wanted.get()) is not None:
            found: Any
            try:
                found = _ours(next(responses))
            except StopIteration:
                found = EOF
            except Exception as error:
                found = _ours_of_error(error)
            _in_loop(self._loop, _settle, wanted, found)


def _ours(message: Any) -> Any:
    return getattr(etcd, type(message).__name__).FromString(message.SerializeToString())


def _ours_of_error(error: Any) -> RpcError:
    where = Attempt("etcd3", 0.0)  # grpcio does not tell whether it got that far; in doubt it did
    if not hasattr(error, "code"):
        return RpcError(StatusCode.INTERNAL, repr(error), attempts=[where])
    return RpcError(StatusCode[error.code().name], error.details() or "", attempts=[where])


def _in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    with suppress(RuntimeError):  # the loop has ended, and with it who waited
        loop.call_soon_threadsafe(callback, *args)


def _settle(waiting: asyncio.Future[Any], found: object) -> None:
    if waiting.done():  # cancelled
        return
    if isinstance(found, RpcError):
        waiting.set_exception(found)
    else:
        waiting.set_result(found)
