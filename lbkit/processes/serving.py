"""The program of the supervising process, and how it starts workers."""

from __future__ import annotations

import asyncio
import os
import pickle
import random as random_module
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from lbkit.address import Address
from lbkit.backoff import Backoff, BackoffPolicy
from lbkit.processes import child
from lbkit.processes.supervisor import Start, Supervisor
from lbkit.registration import Registrations
from lbkit.transport.server import file_of, listen, port_of, remove_file

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from lbkit.registrar import Instance, Registrar
    from lbkit.security import Tls

_MAX_LOSSES = 5  # within a minute, and one more for each worker
_BACKOFF = BackoffPolicy(initial_s=0.2, maximum_s=5.0)


def supervise(
    make_server: Callable[[], Any] | str,
    addresses: Sequence[str],
    workers: int | None,
    grace: float,
    tls: Tls | None,
    start_timeout: float,
    ready: Callable[[Sequence[str]], object],
    register: str | Registrar | None,
    instance: Instance | None,
    propagation: float,
) -> None:
    """Do what ``lbkit.serve`` says; arguments and errors are its own."""
    name = make_server if isinstance(make_server, str) else _checked(make_server)
    count = _cpus() if workers is None else workers
    if count < 1 or not grace >= 0 or not start_timeout > 0 or not addresses:
        raise ValueError(
            f"serve(): it needs an address, workers >= 1, grace >= 0 and start_timeout > 0, not "
            f"{addresses}, workers={count}, grace={grace}, start_timeout={start_timeout}"
        )
    if isinstance(name, str) and not all(name.partition(":")):
        raise ValueError(f"make_server={name!r}: it must be like 'package.module:function'")
    _check_process()
    sockets: list[socket.socket] = []
    registrations = Registrations()
    try:
        sockets.extend(listen(Address.parse(address)) for address in addresses)
        where = [_told(address, sock) for address, sock in zip(addresses, sockets, strict=True)]
        if register is not None:
            sock = next((each for each in sockets if each.family != socket.AF_UNIX), None)
            registrations.add(register, instance, sock, secure=tls is not None, propagation=propagation)
        asyncio.run(
            _run(
                partial(_Process, (name, sockets, tls, grace)),
                count,
                grace,
                start_timeout,
                lambda: ready(where),
                registrations,
            )
        )
    finally:
        files = [file_of(sock) for sock in sockets]
        for sock, file in zip(sockets, files, strict=True):
            sock.close()
            if file is not None:
                remove_file(file)


async def _run(
    start: Start,
    count: int,
    grace: float,
    start_timeout: float,
    ready: Callable[[], object],
    registrations: Registrations,
) -> None:
    loop = asyncio.get_running_loop()
    leaving: list[asyncio.Task[None]] = []

    def serving() -> None:
        registrations.start()
        ready()

    async def leave() -> None:
        await registrations.leave(patient=grace > 0)
        supervisor.stop()

    def stop() -> None:
        """Leave the registries, then stop the workers; told again, wait for nobody."""
        if not leaving:
            supervisor.prepare_to_stop()
            leaving.append(loop.create_task(leave()))
        else:
            registrations.hurry()
            leaving[0].add_done_callback(lambda _: supervisor.stop())

    supervisor = Supervisor(
        start,
        count,
        grace=grace,
        start_timeout=start_timeout,
        max_losses=_MAX_LOSSES + count,
        backoff=Backoff(_BACKOFF, random_module.Random()),
        ready=serving,
    )
    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: stop,
        signal.SIGINT: stop,
        signal.SIGHUP: supervisor.renew,
        signal.SIGTTIN: lambda: supervisor.resize(1),
        signal.SIGTTOU: lambda: supervisor.resize(-1),
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        await supervisor.run()
    finally:
        await registrations.leave(patient=False)  # once more, where all workers were lost
        for number in handlers:
            loop.remove_signal_handler(number)


class _Process:
    """One worker process: a fresh interpreter (multiprocessing's ``spawn``), and a socket pair to it."""

    def __init__(
        self,
        work: tuple[Callable[[], Any] | str, list[socket.socket], Any, float],
        serves: Callable[[], None],
        asked: Callable[[], None],
        exited: Callable[[int], None],
    ) -> None:
        # Only programs that serve this way pay for the import.
        from multiprocessing import get_context, resource_tracker

        self._loop = asyncio.get_running_loop()
        self._serves = serves
        self._asked = asked
        self._exited = exited
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)
        make_server, sockets, tls, grace = work
        self._process: BaseProcess = get_context("spawn").Process(
            target=child.main, args=(make_server, sockets, tls, theirs, grace), name="lbkit-worker"
        )
        # Until the worker can handle them: Ctrl-C reaches it, too. The tracker unblocks them when it starts.
        resource_tracker.ensure_running()
        held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            theirs.close()
        self.pid = self._process.pid
        self._loop.add_reader(self._ours, self._heard)
        self._loop.add_reader(self._process.sentinel, self._ended)

    def drain(self) -> None:
        """Tell it to finish its calls and end."""
        self._say(child.DRAIN)

    def abort(self) -> None:
        """Tell it to end its calls now."""
        self._say(child.ABORT)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()

    def _say(self, what: bytes) -> None:
        with suppress(OSError):  # it is gone, which the sentinel says
            self._ours.send(what)

    def _heard(self) -> None:
        try:
            said = self._ours.recv(64)
        except OSError:
            said = b""
        if child.READY in said:
            self._serves()
        if child.ASKED in said:
            self._asked()
        if not said:
            self._loop.remove_reader(self._ours)

    def _ended(self) -> None:
        self._loop.remove_reader(self._ours)
        self._loop.remove_reader(self._process.sentinel)
        self._ours.close()
        self._process.join()
        status = self._process.exitcode
        self._process.close()
        self._exited(1 if status is None else status)


def _checked(make_server: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that another process can find.

    Raises:
        TypeError: it cannot; says what to do.
    """
    if not callable(make_server):
        raise TypeError(f"make_server={make_server!r}: it must be a function, or 'package.module:function'")
    cure = "make it a function of a module, or give its name as 'package.module:function'"
    program = sys.modules["__main__"]
    if getattr(make_server, "__module__", "") == "__main__" and not hasattr(program, "__file__"):
        raise TypeError(f"workers cannot import {make_server!r} of an interactive program; {cure}")
    try:
        pickle.dumps(make_server)
    except Exception as error:  # whatever the object's own methods raise, too
        raise TypeError(f"workers cannot import {make_server!r} ({error}); {cure}") from None
    return make_server


def _check_process() -> None:
    """Refuse where signals or workers could not be handled."""
    from multiprocessing import current_process

    if getattr(current_process(), "_inheriting", False):
        raise RuntimeError(
            "serve() was called while a worker imported the program: call it below 'if __name__ == \"__main__\":'"
        )
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("serve() handles signals, and needs the main thread for that")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("serve() runs an event loop of its own; call it where none runs")


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _told(address: str, sock: socket.socket) -> str:
    """Return an address with the port that it got."""
    port = port_of(sock)
    return f"{address.rpartition(':')[0]}:{port}" if port else address
