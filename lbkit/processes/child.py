"""What runs in a worker process: one server on the sockets that it was given, until it is told to stop."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from lbkit.server import Server

# What the supervisor says, a byte each; that it is gone is said by the end of the pipe.
DRAIN, ABORT = b"d", b"a"
# What the worker says: that it serves; that somebody asked it to end, which the supervisor decides about.
READY, ASKED = b"r", b"e"


def main(
    make_server: Callable[[], Any] | str,
    sockets: Sequence[socket.socket],
    tls: Any,
    pipe: socket.socket,
    grace: float,
) -> None:
    """Serve until told to stop. The body of a worker process; errors end it with a traceback and status 1.

    Args:
        make_server: builds the server: a function, a coroutine function, or the name of one.
        sockets: listening, shared with all other workers.
        tls: for these sockets, as ``Server.bind`` takes it.
        pipe: to the supervisor.
        grace: seconds that running calls get at the end.
    """
    # The supervisor decides when workers stop: Ctrl-C reaches it as well, and would count twice. Both signals are
    # blocked from before the process began to here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for sock in sockets:
        sock.set_inheritable(False)  # what handlers start must not keep the port
    pipe.set_inheritable(False)
    pipe.setblocking(False)
    asyncio.run(_serve(make_server, sockets, tls, pipe, grace))


async def _serve(
    make_server: Callable[[], Any] | str,
    sockets: Sequence[socket.socket],
    tls: Any,
    pipe: socket.socket,
    grace: float,
) -> None:
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    at_once = asyncio.Event()

    def told() -> None:
        try:
            said = pipe.recv(64)
        except OSError:
            said = b""
        if not said:  # the supervisor is gone, and nobody would ever tell us
            loop.remove_reader(pipe)
        if ABORT in said:
            at_once.set()
        end.set()

    def asked() -> None:
        with suppress(OSError):  # the reader notices as well
            pipe.send(ASKED)

    loop.add_reader(pipe, told)
    # Service managers send it to every process of a service: who drained by itself would be missed.
    loop.add_signal_handler(signal.SIGTERM, asked)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        if isinstance(make_server, str):
            make_server = _found(make_server)
        server = make_server()
        if inspect.isawaitable(server):
            server = await server
        if not isinstance(server, Server):
            raise TypeError(f"{make_server!r} returned {server!r}; it has to return an lbkit.Server")
        for sock in sockets:
            server.bind_socket(sock, tls=tls, shared=True)
        await asyncio.sleep(0)  # for what was said meanwhile
        if end.is_set():
            await server.stop()
            return
        await server.start()
        with suppress(OSError):  # the reader notices as well
            pipe.send(READY)
        stopped = loop.create_task(server.wait_for_termination())  # the program may stop it itself
        ending = loop.create_task(end.wait())
        await asyncio.wait({stopped, ending}, return_when=asyncio.FIRST_COMPLETED)
        aborting = loop.create_task(_abort(at_once, server))
        await server.stop(grace)
        for task in (stopped, ending, aborting):
            task.cancel()
        await asyncio.wait({stopped, ending, aborting})
    finally:
        loop.remove_reader(pipe)


async def _abort(at_once: asyncio.Event, server: Server) -> None:
    """Cut the grace short when it is asked for."""
    await at_once.wait()
    await server.stop(None)


def _found(name: str) -> Callable[[], Any]:
    """Return the function that is called ``package.module:function``.

    Raises:
        ImportError, AttributeError: there is none.
    """
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]  # what it returns is checked
