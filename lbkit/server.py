"""The server: handlers, listening sockets, connections, and how it stops without losing a call."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random as random_module
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lbkit.address import Address
from lbkit.dispatch import Dispatcher
from lbkit.dispatch.dispatcher import at_least_one
from lbkit.dispatch.encoded import Answers
from lbkit.foreign import AioServer, register
from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.idleness import checked_timeout
from lbkit.inventory import CallCounts, servers
from lbkit.limits import Counters, Limits
from lbkit.security import Tls, tls_of
from lbkit.service import HandlerTable, handler_of_grpc, handlers_of_object
from lbkit.transport.keepalive import KeepalivePolicy
from lbkit.transport.server import ServerConnection, file_of, listen, port_of, remove_file, serve
from lbkit.transport.setup import ConnectionSetup, MaxAge

if TYPE_CHECKING:
    from lbkit.dispatch.intercepted import InterceptedHandlers
    from lbkit.registrar import Instance, Registrar
    from lbkit.registration import Registration, Registrations
    from lbkit.transport.tls_context import Contexts

_log = logging.getLogger("lbkit.server")

# Turns of the loop, from the kernel's connection to ours: a client may have written to it already.
_ACCEPT_TURNS = 3


class Server(AioServer):
    """Serves gRPC methods on any number of addresses.

    Generated ``add_XServicer_to_server(servicer, server)`` functions work; ``server.add(pb2, "X", servicer)`` needs
    no generated servicer. Methods are coroutine functions, asynchronous generators, or plain functions and
    generators, which run in threads.

    Args:
        max_request_bytes: larger requests end with RESOURCE_EXHAUSTED; by default ``limits.max_message``.
        max_response_bytes: larger responses end with RESOURCE_EXHAUSTED; None for no limit.
        threads: where methods run that are plain functions; by default up to 32 threads of the server's own.
        max_concurrent_streams: calls that one connection may have open; more are refused, and retried by clients. By
            default that of ``limits``.
        max_concurrent_rpcs: calls of all connections that may run at a time; more end with RESOURCE_EXHAUSTED at once.
            A call counts until its handler has ended. None for no limit.
        interceptors: surround each call, the first one outermost; see ``lbkit.ServerInterceptor`` and
            docs/interceptors.md.
        compression: how responses are compressed where a handler does not say: ``lbkit.Compression.Gzip``, or the name
            of a compressor; ``"identity"`` for not at all, None for as their request was. See docs/compression.md.
        shared_workers: how many long-lived tasks run the handlers; calls that find all of them busy get a task of
            their own. None for a task for each call. See docs/server-modes.md.
        max_connection_age: seconds, +-10 %, after which a client is told to make a new connection, so that clients
            spread over servers that came later (gRFC A9); calls go on where they are. None lets connections live.
        max_connection_age_grace: seconds that those calls get; then the connection is closed. None for no limit.
        max_connection_idle: seconds without a call after which a client is told the same (gRFC A9), at most a quarter
            late. None keeps idle connections.
        keepalive: seconds without a byte from a client after which it is sent a PING (gRFC A9); None for never.
        keepalive_timeout: seconds to answer it; then the connection is closed, and its calls are cancelled. On Linux
            the kernel gives up as soon on what a client does not acknowledge (gRFC A18).
        keepalive_min_interval: seconds between PINGs of one client, unless it was sent something in between; who sends
            them faster loses the connection after a third one, with ``too_many_pings`` (gRFC A8). By default that of
            ``limits``: five minutes.
        keepalive_without_calls: grant the same to clients without calls, instead of one PING in two hours.
        reuse_port: let other servers of the same user bind the same ports, if they say so as well; the kernel spreads
            connections over them.
        limits: what clients may do to us.
        engine: ``"native"`` or ``"h2"``, whose HTTP/2 it is; by default what ``LBKIT_HTTP2_ENGINE`` says.
        random: the source of randomness for jitter.

    Raises:
        ValueError: a time or a number makes no sense, or there is no such engine.
        UnknownPluginError: no such compressor; says the nearest.
        TypeError: an interceptor is none.
        ImportError: the engine's package is not installed.
    """

    def __init__(
        self,
        *,
        max_request_bytes: int | None = None,
        max_response_bytes: int | None = None,
        threads: Executor | None = None,
        max_concurrent_streams: int | None = None,
        max_concurrent_rpcs: int | None = None,
        shared_workers: int | None = None,
        interceptors: Iterable[object] | None = None,
        compression: Any = None,
        max_connection_age: float | None = None,
        max_connection_age_grace: float | None = None,
        max_connection_idle: float | None = None,
        keepalive: float | None = 7200.0,
        keepalive_timeout: float = 20.0,
        keepalive_min_interval: float | None = None,
        keepalive_without_calls: bool = False,
        reuse_port: bool = False,
        limits: Limits | None = None,
        engine: str | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        register("Server", Server)
        limits = limits or Limits()
        if max_concurrent_streams is not None:
            limits = replace(limits, max_concurrent_streams=max_concurrent_streams)
        if keepalive_min_interval is not None:
            limits = replace(limits, ping_interval_s=keepalive_min_interval)
        if keepalive_without_calls:
            limits = replace(limits, idle_ping_interval_s=limits.ping_interval_s)
        max_age = None
        if max_connection_age is not None:
            max_age = MaxAge(max_connection_age, max_connection_age_grace, random or random_module.Random())
        self._setup = ConnectionSetup(
            limits,
            engine,
            keepalive=None if keepalive is None else KeepalivePolicy(keepalive, keepalive_timeout),
            max_age=max_age,
            max_idle_s=checked_timeout("max_connection_idle", max_connection_idle),
        )
        self._handlers = HandlerTable()
        self._intercepted: InterceptedHandlers | None = None
        if interceptors:
            from lbkit.dispatch.intercepted import InterceptedHandlers

            self._intercepted = InterceptedHandlers(self._handlers, interceptors)
        self._reuse_port = reuse_port
        self._sockets: list[socket.socket] = []
        self._shared: set[socket.socket] = set()  # those that other processes accept from as well
        self._files: list[tuple[str, int]] = []  # of Unix sockets
        self._contexts: dict[socket.socket, Contexts] = {}  # of those with TLS
        self._listeners: list[asyncio.Server] = []
        self._unbound = False  # connections come without a socket of ours too
        self._connections: set[ServerConnection] = set()
        self._max_request_bytes = limits.max_message if max_request_bytes is None else max_request_bytes
        self._max_response_bytes = max_response_bytes
        self._answers = Answers(compression)
        self._threads = threads
        self._max_concurrent_rpcs = at_least_one("max_concurrent_rpcs", max_concurrent_rpcs)
        self._shared_workers = at_least_one("shared_workers", shared_workers)
        self._peers: Counter[str] = Counter()  # connections of each IP address, where that is limited
        self._dispatcher: Dispatcher | None = None  # made by start()
        self._draining = False
        self._stops: set[asyncio.Task[None]] = set()
        self._stopped: asyncio.Event | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._on_stopping: list[Callable[[], object]] = []
        self._registrations: Registrations | None = None  # of most servers there are none
        self.number = servers.add(self)

    @property
    def counters(self) -> Counters:
        """What clients did that ``limits`` are about, counted over all connections."""
        return self._setup.counters

    def call_counts(self) -> CallCounts:
        """Return what became of its calls."""
        calls = self._dispatcher
        return CallCounts(0, 0, 0, None) if calls is None else calls.counts()

    def connections(self) -> list[ServerConnection]:
        """Return the connections that are open, oldest first."""
        return sorted(self._connections, key=lambda connection: connection.number)

    def listeners(self) -> tuple[socket.socket, ...]:
        """Return the sockets that it listens on, to look at."""
        return tuple(self._sockets)

    # What it serves

    def add(self, pb2: ModuleType, service: str | None, servicer: object) -> None:
        """Serve a service of a ``_pb2`` module with an object that has its methods.

        Raises:
            LookupError: the module has no such service; names those it has.
            TypeError: no ``_pb2`` module, or the object has none of the service's methods.
        """
        self._handlers.add(handlers_of_object(pb2, service, servicer)[1])

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Serve grpcio method handlers by name. Called by generated code."""
        paths = {f"/{service_name}/{name}": handler for name, handler in method_handlers.items()}
        self._handlers.add({path: handler_of_grpc(path, handler) for path, handler in paths.items()})

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Ask grpcio generic handlers about methods that are not known by name. Called by generated code."""
        register("Server", Server)  # once more: grpcio may have been loaded for them
        for handler in generic_rpc_handlers:
            self._handlers.add_generic(handler)

    def service_names(self) -> list[str]:
        """Return the full names of the services added so far, sorted. Called by reflection."""
        return self._handlers.services()

    def on_stopping(self, callback: Callable[[], object]) -> None:
        """Call ``callback()`` when ``stop`` begins, before any client is told. Called by health."""
        self._on_stopping.append(callback)

    # Where it listens

    def bind(self, address: str, *, tls: Tls | None = None) -> int:
        """Take an address to listen on, once started; may be called several times.

        Args:
            address: ``host:port`` (port 0 takes a free one), ``[::]:port`` for every interface, ``unix:path``.
            tls: what ``lbkit.tls`` made, with a certificate and a key; None takes connections without TLS.

        Returns:
            The port; 0 for a Unix socket.

        Raises:
            AddressError: the address cannot be read.
            OSError: it cannot be had, or a file of ``tls`` cannot be used; says why.
            RuntimeError: the server has been started.
            ValueError, TypeError: ``tls`` is not what a server needs.
        """
        return self.bind_socket(lambda: listen(Address.parse(address), reuse_port=self._reuse_port), tls=tls)

    def bind_socket(
        self,
        sock: socket.socket | Callable[[], socket.socket],
        *,
        tls: Tls | None = None,
        shared: bool = False,
    ) -> int:
        """Take a socket to listen on that somebody else has bound, such as a service manager.

        Args:
            sock: the socket, or what makes it; closed when the server stops.
            tls: as for ``bind``.
            shared: other processes accept from it, too: each takes one connection at a time, so that all get some.

        Returns:
            The port; 0 for a Unix socket.

        Raises:
            OSError, RuntimeError, ValueError, TypeError: as for ``bind``.
        """
        if self._dispatcher is not None:
            raise RuntimeError("bind() after start(); bind every address first")
        contexts = None
        if (settings := tls_of(tls)) is not None:
            from lbkit.transport.tls_context import Contexts

            contexts = Contexts(settings, server=True)
            contexts.current()  # what is wrong with it is said here
        if not isinstance(sock, socket.socket):
            sock = sock()
        self._sockets.append(sock)
        if shared:
            self._shared.add(sock)
        elif (file := file_of(sock)) is not None:
            self._files.append(file)
        if contexts is not None:
            self._contexts[sock] = contexts
        return port_of(sock)

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports of all addresses bound, in their order; 0 for a Unix socket. Empty once the server has stopped."""
        return tuple(port_of(sock) for sock in self._sockets if sock.fileno() >= 0)

    def add_insecure_port(self, address: str) -> int:
        """Do what ``bind`` does; grpcio's name for it."""
        return self.bind(address)

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        """Do what ``bind`` does with ``tls=``; grpcio's name for it.

        Raises:
            TypeError: the credentials are none that lbkit can use, such as those of grpcio; says what can be.
        """
        if not isinstance(server_credentials, Tls):
            from lbkit.foreign_credentials import tls_of_server  # of those who use grpcio's

            server_credentials = tls_of_server(server_credentials)
        return self.bind(address, tls=server_credentials)

    def protocol_factory(self) -> Callable[[], asyncio.BufferedProtocol]:
        """Return what makes the server's end of one more connection, for byte streams that are no sockets.

        Ask for it before ``start``, which then needs no address; give each protocol its transport through
        ``connection_made``. It raises ConnectionRefusedError while the server is not running.
        """
        self._unbound = True
        return self._make_connection

    def _make_connection(self) -> ServerConnection:
        if self._dispatcher is None or self._draining:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return ServerConnection(asyncio.get_running_loop(), self, self._setup)

    # Its life

    async def start(self) -> None:
        """Start accepting connections on every address bound.

        Raises:
            RuntimeError: started before, or nothing was bound.
        """
        if self._dispatcher is not None:
            raise RuntimeError("a server is started once; make a new one")
        if not self._sockets and not self._unbound:
            raise RuntimeError("nothing to listen on; call bind() first")
        loop = asyncio.get_running_loop()
        self._dispatcher = Dispatcher(
            loop,
            self._intercepted or self._handlers,
            max_request_bytes=self._max_request_bytes,
            max_response_bytes=self._max_response_bytes,
            threads=self._threads,
            shared_workers=self._shared_workers,
            max_concurrent_rpcs=self._max_concurrent_rpcs,
            answers=self._answers,
        )
        self._stopped = asyncio.Event()

        def make() -> ServerConnection:
            return ServerConnection(loop, self, self._setup)

        for sock in self._sockets:
            contexts = self._contexts.get(sock)
            if contexts is None:
                self._listeners.append(await serve(sock, make, shared=sock in self._shared))
                continue
            from lbkit.transport.tls import accepting

            self._listeners.append(
                await serve(sock, accepting(loop, make, contexts), shared=sock in self._shared)
            )

    async def register(
        self, target: str | Registrar, instance: Instance | None = None, *, propagation: float = 2.0
    ) -> Registration:
        """Have clients find this server through a registry, until it stops. Call it once started.

        It returns at once: the server serves whether the registry is up or not, and is registered as soon as it can be.
        ``stop`` takes the record back before it tells any client, and waits until they have heard of it.

        Args:
            target: the registry and the name, like ``etcd://127.0.0.1:2379/greeter``.
            instance: what to tell clients; its address, or port 0 in it, may be left for the server to fill in with what
                it is bound to.
            propagation: seconds that clients get to hear that it leaves, while it still takes calls; only with a grace.

        Raises:
            RuntimeError: the server has not been started, or has stopped.
            ValueError: ``propagation`` is no time.
            TargetError, UnknownPluginError: the target cannot be understood.
            RegistrationError: there is no address that clients could use.
        """
        if self._dispatcher is None or self._stops or self._draining:
            raise RuntimeError(
                "register() before start(), or after stop(); only who serves can be registered"
            )
        if self._registrations is None:
            from lbkit.registration import Registrations  # few servers need it

            self._registrations = Registrations()
        sock = next((each for each in self._sockets if each.family != socket.AF_UNIX), None)
        registration = self._registrations.add(
            target, instance, sock, secure=sock in self._contexts, propagation=propagation
        )
        registration.start()
        return registration

    async def stop(self, grace: float | None = None) -> None:
        """Stop: take no new connections and calls, let running calls finish, then end what is left.

        Who is registered leaves the registries first, and goes on serving for as long as clients may not know it.

        Args:
            grace: seconds that running calls get; None or 0 cancels them at once. A second, shorter call while
                the first is waiting shortens the wait; one without grace hardly waits for the registries either.
        """
        if self._dispatcher is None:
            for sock in self._sockets:
                sock.close()
            self._remove_files()
            return
        await asyncio.shield(self._begin_stop(grace))

    def _begin_stop(self, grace: float | None) -> asyncio.Task[None]:
        """Stop, in a task of its own: a handler may ask for it, and is ended by it; and who waits may give up."""
        if self._stops and not grace and self._registrations is not None:
            self._registrations.hurry()
        task = asyncio.get_running_loop().create_task(self._stop(grace))
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)
        return task

    async def _stop(self, grace: float | None) -> None:
        callbacks, self._on_stopping = self._on_stopping, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # a stranger's: the server stops all the same
                _log.exception("an on_stopping callback raised")
        if self._registrations is not None:
            await self._registrations.leave(patient=bool(grace))
        for listener in self._listeners:
            listener.close()
        self._remove_files()
        self._draining = True
        if grace:
            for _ in range(_ACCEPT_TURNS):
                await asyncio.sleep(0)
            for connection in list(self._connections):
                connection.drain_gracefully()
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    while self._connections:  # the listener may have had another one on its way
                        await asyncio.wait([connection.closed for connection in self._connections])
        await self._end()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until the server has stopped.

        Returns:
            Whether it had not within ``timeout`` seconds, as ``grpc.aio.Server`` does.
        """
        if self._stopped is None:
            raise RuntimeError("the server has not been started")
        try:
            async with asyncio.timeout(timeout):
                await self._stopped.wait()
        except TimeoutError:
            return True
        return False

    @asynccontextmanager
    async def serving(
        self,
        *addresses: str,
        grace: float = 5.0,
        register: str | Registrar | None = None,
        instance: Instance | None = None,
        propagation: float = 2.0,
    ) -> AsyncIterator[Server]:
        """Bind, start, and stop gracefully at the end of the block, or on SIGINT and SIGTERM.

        Args:
            addresses: as for ``bind``.
            grace: seconds that running calls get at the end.
            register: a registry and a name, through which clients find the server.
            instance: as for the method ``register``.
            propagation: as for the method ``register``.

        Raises:
            AddressError, OSError, RuntimeError: as ``bind`` and ``start``; and what ``register`` raises.
        """
        try:
            for address in addresses:
                self.bind(address)
            await self.start()
            if register is not None:
                await self.register(register, instance, propagation=propagation)
        except BaseException:  # cancelled too: no socket is left behind
            await self.stop()
            raise
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            # Python lets the main thread handle signals only; a server in another one is stopped by its program.
            with suppress(RuntimeError, ValueError):
                loop.add_signal_handler(number, self._stop_on_signal, grace)
        try:
            yield self
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
            if self._stopping is not None:
                await asyncio.gather(self._stopping, *self._stops)
            else:
                await self.stop(grace)

    def _stop_on_signal(self, grace: float) -> None:
        """Drain on the first signal; end at once on the second."""
        if self._stopping is None:
            self._stopping = self._begin_stop(grace)
        else:
            self._begin_stop(None)
            for connection in list(self._connections):
                connection.abort("the server was stopped")

    def _remove_files(self) -> None:
        while self._files:
            remove_file(self._files.pop())

    async def _end(self) -> None:
        """End every connection and every handler, and wait until they are gone."""
        assert self._dispatcher is not None, "only after start()"
        assert self._stopped is not None, "only after start()"
        connections = list(self._connections)
        for connection in connections:
            connection.abort("the server was stopped")
        await asyncio.gather(*(connection.closed for connection in connections))
        await self._dispatcher.ended()
        for listener in self._listeners:
            await listener.wait_closed()
        self._dispatcher.close()
        self._setup.offload.close()
        self._stopped.set()

    # ServerOwner

    def request(
        self, connection: ServerConnection, stream: Stream, fields: tuple[Field, ...], end: bool
    ) -> None:
        """Pass a request on to the dispatcher. Called by connections."""
        assert self._dispatcher is not None, "connections come after start()"
        self._dispatcher.request(connection, stream, fields, end)

    def oversized(self, connection: ServerConnection, stream: Stream, reason: str) -> None:
        """Pass a request on that must be refused. Called by connections."""
        assert self._dispatcher is not None, "connections come after start()"
        self._dispatcher.oversized(connection, stream, reason)

    def connection_opened(self, connection: ServerConnection) -> None:
        """Keep track of a connection, or close it if there are too many. Called by connections."""
        self._connections.add(connection)
        limit = self._crowded(connection)
        if limit:
            self._setup.counters.exceeded[limit] += 1
            connection.abort("too many connections")
        elif self._draining:
            connection.drain_gracefully()

    def connection_closed(self, connection: ServerConnection) -> None:
        """Forget a connection. Called by connections."""
        self._connections.discard(connection)
        if self._setup.limits.max_connections_per_peer:
            self._peers[connection.host] -= 1
            self._peers += Counter()  # drops who has none left

    def _crowded(self, connection: ServerConnection) -> str:
        """Return the name of the limit that one more connection exceeds, if there is one."""
        limits = self._setup.limits
        if limits.max_connections_per_peer:
            self._peers[connection.host] += 1
            if self._peers[connection.host] > limits.max_connections_per_peer:
                return "max_connections_per_peer"
        return "max_connections" if len(self._connections) > limits.max_connections else ""
