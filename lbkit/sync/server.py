"""The blocking server: a server on the loop of ``lbkit.sync``, started and stopped by threads that wait."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType, ModuleType
from typing import Any

from lbkit.limits import Counters
from lbkit.registrar import Instance, Registrar
from lbkit.server import Server as AsyncServer
from lbkit.sync.foreign import BlockingServer
from lbkit.sync.foreign import register as register_with_grpcio
from lbkit.sync.loop_thread import LoopThread, acquire, check_thread, immediate
from lbkit.sync.registration import Registration

_log = logging.getLogger("lbkit.sync")


class Server(BlockingServer):
    """``lbkit.Server`` for blocking programs: the same names; ``stop`` and the like are grpcio's blocking ones.

    Servicer methods are plain functions and generators, which run in threads; coroutine functions and asynchronous
    generators run on the loop's thread.

    Args:
        options: those of ``lbkit.Server``, and errors as there.
    """

    def __init__(self, **options: Any) -> None:
        register_with_grpcio(Server=Server)
        self._core = AsyncServer(**options)
        self._thread: LoopThread | None = None  # from start() on
        self._stopped = threading.Event()
        self._stopping: set[asyncio.Task[None]] = set()  # on the loop

    @property
    def counters(self) -> Counters:
        """What clients did that ``limits`` are about, counted over all connections."""
        return self._core.counters

    # What it serves, and where

    def add(self, pb2: ModuleType, service: str | None, servicer: object) -> None:
        """Serve a service of a ``_pb2`` module with an object that has its methods; errors as ``lbkit.Server.add``."""
        self._core.add(pb2, service, servicer)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Serve grpcio method handlers by name. Called by generated code."""
        self._core.add_registered_method_handlers(service_name, method_handlers)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Ask grpcio generic handlers about methods that are not known by name. Called by generated code."""
        self._core.add_generic_rpc_handlers(generic_rpc_handlers)

    def bind(self, address: str, *, tls: Any = None) -> int:
        """Take an address to listen on, once started; may be called several times. As ``lbkit.Server.bind``."""
        return self._core.bind(address, tls=tls)

    def add_insecure_port(self, address: str) -> int:
        """Do what ``bind`` does; grpcio's name for it."""
        return self._core.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        """Do what ``bind`` does with ``tls=``; grpcio's name for it, and errors as ``lbkit.Server.add_secure_port``."""
        return self._core.add_secure_port(address, server_credentials)

    # Its life

    def start(self) -> None:
        """Start accepting connections on every address bound, and return.

        Raises:
            RuntimeError: started before, or nothing was bound.
            UsageError: called on the loop's own thread.
        """
        check_thread()
        thread = acquire()
        try:
            thread.run(self._core.start())
        except BaseException:
            thread.release()
            raise
        self._thread = thread

    def register(
        self, target: str | Registrar, instance: Instance | None = None, *, propagation: float = 2.0
    ) -> Registration:
        """Have clients find this server through a registry, until it stops. As ``lbkit.Server.register``.

        Raises:
            RuntimeError, ValueError, TargetError, UnknownPluginError, RegistrationError: as there.
            UsageError: called on the loop's own thread.
        """
        check_thread()
        if self._thread is None:
            raise RuntimeError("register() before start(); only who serves can be registered")
        work = self._core.register(target, instance, propagation=propagation)
        return Registration._of(self._thread.run(work), self._thread)

    def stop(self, grace: float | None = None) -> threading.Event:
        """Stop: take no new connections and calls, let running calls finish, then end what is left. Does not wait.

        Args:
            grace: seconds that running calls get; None or 0 cancels them at once.

        Returns:
            What is set when it has stopped.
        """
        thread = self._thread
        if thread is None:
            immediate(self._core.stop())  # closes what was bound
            self._stopped.set()
        elif thread.forked:  # a child has nothing to stop
            self._stopped.set()
        else:
            thread.post(partial(self._begin_stop, thread, grace))
        return self._stopped

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until the server has stopped.

        Returns:
            Whether it had not within ``timeout`` seconds, as grpcio's does.

        Raises:
            RuntimeError: the server has not been started.
            UsageError: called on the loop's own thread.
        """
        if self._thread is None and not self._stopped.is_set():
            raise RuntimeError("the server has not been started")
        check_thread()
        return not self._stopped.wait(timeout)

    @contextmanager
    def serving(
        self,
        *addresses: str,
        grace: float = 5.0,
        register: str | Registrar | None = None,
        instance: Instance | None = None,
        propagation: float = 2.0,
    ) -> Generator[Server, None, None]:
        """Bind, start, and stop gracefully at the end of the block.

        In the main thread SIGINT and SIGTERM stop it, too, so that ``wait_for_termination`` in the block returns; a
        second signal ends it at once.

        Args:
            addresses: as for ``bind``.
            grace: seconds that running calls get at the end.
            register: a registry and a name, through which clients find the server.
            instance: as for the method ``register``.
            propagation: as for the method ``register``.
        """
        try:
            for address in addresses:
                self.bind(address)
            self.start()
            if register is not None:
                self.register(register, instance, propagation=propagation)
        except BaseException:
            self.stop().wait()
            raise
        before = self._take_signals(grace)
        try:
            yield self
        finally:
            try:
                self.stop(grace).wait()
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    # Inside

    def _take_signals(self, grace: float) -> dict[int, Any]:
        """Have signals stop the server; return who handled them before."""
        before: dict[int, Any] = {}

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.stop(0.0 if self._stopping else grace)

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, stop)
        return before

    def _begin_stop(self, thread: LoopThread, grace: float | None) -> None:
        """Stop, in a task. On the loop."""
        if thread.ended or self._stopped.is_set():
            self._stopped.set()
            return
        task = thread.loop.create_task(self._stop(thread, grace))
        self._stopping.add(task)

    async def _stop(self, thread: LoopThread, grace: float | None) -> None:
        try:
            await self._core.stop(grace)
        except Exception:
            _log.exception("the server did not stop well")
        if not self._stopped.is_set():
            self._stopped.set()
            thread.release()
