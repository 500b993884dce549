"""Several processes that serve on the same addresses, supervised by one that serves nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lbkit.registrar import Instance, Registrar
    from lbkit.security import Tls


def serve(
    make_server: Callable[[], Any] | str,
    *addresses: str,
    workers: int | None = None,
    grace: float = 5.0,
    tls: Tls | None = None,
    start_timeout: float = 60.0,
    ready: Callable[[Sequence[str]], object] = lambda _: None,
    register: str | Registrar | None = None,
    instance: Instance | None = None,
    propagation: float = 2.0,
) -> None:
    """Serve with several processes on the same addresses until SIGTERM or SIGINT, and then until calls are over.

    Workers are fresh interpreters, not forks: threads, channels and grpcio of this process do not matter to them. They
    accept from one listening socket that this process keeps, so that no connection is lost when one of them stops.

    SIGTERM and SIGINT stop all gracefully, at once the second time; SIGHUP replaces one worker after the other, with
    the program as it is on disk then; SIGTTIN and SIGTTOU add and remove one.

    Args:
        make_server: what builds the ``lbkit.Server`` of a worker: a function, or coroutine function, of a module, or
            its name as ``package.module:function``. The server is not started, and needs no address.
        addresses: as for ``Server.bind``; a port 0 is chosen once, for all workers.
        workers: how many; by default as many as there are CPUs that this process may use.
        grace: seconds that running calls get when a worker stops.
        tls: as for ``Server.bind``.
        start_timeout: seconds that a worker may take until it serves.
        ready: called with the addresses, ports filled in, when all workers serve for the first time.
        register: a registry and a name, through which clients find the service: one record for all workers, from when
            they serve until they are to stop.
        instance: as for ``Server.register``.
        propagation: as for ``Server.register``.

    Raises:
        AddressError: an address cannot be read.
        OSError: one cannot be had.
        ValueError, TypeError: there is no address, a number makes no sense, or ``make_server`` cannot be found by
            another process.
        RuntimeError: this is not the main thread, an event loop runs in it, or it is a worker already.
        TargetError, UnknownPluginError, RegistrationError: the server could not be registered like this.
        CrashLoopError: workers cannot be kept running; those that did have been stopped.
    """
    from lbkit.processes.serving import supervise  # few programs need it

    supervise(
        make_server,
        addresses,
        workers,
        grace,
        tls,
        start_timeout,
        ready,
        register,
        instance,
        propagation,
    )
