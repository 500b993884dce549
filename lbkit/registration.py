"""Keeps one instance registered: tries, tries again after a loss, and takes the record back at the end."""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import os
import random as random_module
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from types import TracebackType
from typing import Self

from lbkit.address import Address
from lbkit.backoff import Backoff
from lbkit.errors import RegistrationError
from lbkit.own_address import ANY, own_address
from lbkit.registrar import Instance, Registrar, make_registrar

_log = logging.getLogger("lbkit.registration")

_REGISTER_S = 15.0  # that one try may take: a registrar should give up sooner, and say why
_DEREGISTER_S = 3.0  # that taking the record back may take; after that it has to expire
_HURRY_S = 0.5  # that it may still take once somebody has lost patience: a registry that is well needs less
_WAIT_JITTER = 0.2  # of the waits that registrars ask for


class RegistrationState(enum.Enum):
    """Where a registration is."""

    REGISTERING = "registering"  # not yet, for the first time
    REGISTERED = "registered"
    LOST = "lost"  # was registered, and tries to be again
    CLOSED = "closed"


class RegistrationEvent(enum.Enum):
    """What happens to a registration."""

    ACCEPTED = "accepted"  # the registry has the record
    FAILED = "failed"  # it has not taken it, or may have lost it
    LEFT = "left"  # the instance leaves


_State, _Event = RegistrationState, RegistrationEvent

# Every legal move. What is missing cannot happen: one task registers and keeps, and it is gone once CLOSED.
MOVES: dict[tuple[RegistrationState, RegistrationEvent], RegistrationState] = {
    (_State.REGISTERING, _Event.ACCEPTED): _State.REGISTERED,
    (_State.REGISTERING, _Event.FAILED): _State.REGISTERING,
    (_State.REGISTERED, _Event.FAILED): _State.LOST,
    (_State.LOST, _Event.ACCEPTED): _State.REGISTERED,
    (_State.LOST, _Event.FAILED): _State.LOST,
    (_State.REGISTERING, _Event.LEFT): _State.CLOSED,
    (_State.REGISTERED, _Event.LEFT): _State.CLOSED,
    (_State.LOST, _Event.LEFT): _State.CLOSED,
}


class Registration:
    """One instance in one registry, from ``async with`` or ``start`` to ``close``.

    For servers there is ``server.serving(address, register=target)``. This is for what is not served by lbkit::

        async with lbkit.Registration("etcd://127.0.0.1:2379/greeter", lbkit.Instance("10.0.0.7:50051")):
            ...

    It belongs to the process that started it: a forked child neither keeps the record nor takes it back.

    Args:
        target: the registry and the name, as text or a registrar.
        instance: what is registered. With ``0.0.0.0`` or ``[::]`` as its host, the address of the interface that
            leads to the registry.
        random: for the jitter of the back-off.
        locate: finds that address.

    Attributes:
        state: where it is now.
        error: why it was not possible the last time; None once it was.

    Raises:
        TargetError, UnknownPluginError: the target cannot be understood.
        RegistrationError: the instance has no address, or no port.
    """

    def __init__(
        self,
        target: str | Registrar,
        instance: Instance,
        *,
        random: random_module.Random | None = None,
        locate: Callable[[str, str], Awaitable[str]] = own_address,
    ) -> None:
        if not instance.address or Address.parse(instance.address).port == 0:
            raise RegistrationError(f"{instance!r} has no address to register; write host:port")
        self.registrar = make_registrar(target) if isinstance(target, str) else target
        self.instance = instance
        self.state = RegistrationState.REGISTERING
        self.error: Exception | None = None
        self._random = random or random_module.Random()
        self._backoff = Backoff(self.registrar.backoff, self._random)
        self._locate = locate
        self._changed = asyncio.Event()  # a new one for every change of the state
        self._since = 0.0  # when it was registered
        self._listed = False  # it was, at any time
        self._pid = 0
        self._task: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to register, on the running event loop, and stay registered until ``close``."""
        if self._task is None and self.state is not RegistrationState.CLOSED:
            self._pid = os.getpid()
            # A context of its own: it is no part of what it was started in.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def registered(self, timeout: float | None = None) -> None:
        """Wait until it is registered.

        Raises:
            RegistrationError: it is not within ``timeout`` seconds, and why; or it was closed.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.state is not RegistrationState.REGISTERED:
                    if self.state is RegistrationState.CLOSED:
                        raise RegistrationError(f"{self._what} was taken back: the registration is closed")
                    await self._changed.wait()
        except TimeoutError:
            raise RegistrationError(
                f"{self._what} is not registered after {timeout:g} s: {self.error or 'no answer yet'}"
            ) from None

    async def close(self) -> None:
        """Take the record back and end. Does not raise: what cannot be removed expires by itself, and is logged.

        Who calls it once more waits for the same end; who is cancelled meanwhile does not stop it.
        """
        if self._task is not None and self._pid != os.getpid():  # the record is the parent's
            self.state = RegistrationState.CLOSED
            return
        if self._leaving is None:
            self._move(RegistrationEvent.LEFT)
            self._leaving = asyncio.get_running_loop().create_task(self._leave(), context=Context())
        await asyncio.shield(self._leaving)

    def abandon(self) -> None:
        """Tell that nobody waits for ``close`` any more, if it has not done yet what it does."""
        if not self.ended:
            self._log_leftover("that took too long")

    @property
    def ended(self) -> bool:
        """Whether ``close`` has done all that it does."""
        return self._leaving is not None and self._leaving.done()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _what(self) -> str:
        return f"{self.registrar.target}: {self.instance.id}"

    def _move(self, event: RegistrationEvent) -> None:
        self.state = MOVES[self.state, event]
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while True:
            try:
                await self._hold()
                return
            except asyncio.CancelledError:
                if task.cancelling():
                    raise
                error: Exception = RegistrationError("something that it waited for was cancelled")
            except Exception as raised:  # a stranger's code: whatever it raises is "report, back off, again"
                error = raised
            if task.cancelling():  # that is how it ended when told to
                return
            await asyncio.sleep(self._failed(error))

    async def _hold(self) -> None:
        """Register, and keep the record for as long as it can be kept."""
        host = Address.parse(self.instance.address)
        if host.host in ANY:
            own = await self._locate(self.registrar.target.authority, host.host)
            self.instance = self.instance.at(str(Address(own, host.port)))
        async with asyncio.timeout(_REGISTER_S) as limit:
            try:
                await self.registrar.register(self.instance)
            except asyncio.CancelledError:
                if limit.expired():
                    raise RegistrationError(f"no answer within {_REGISTER_S:g} s") from None
                raise
        self._succeeded()
        await self.registrar.keep(self.instance)

    def _succeeded(self) -> None:
        if self.state is RegistrationState.LOST or self.error is not None:
            _log.warning("%s is registered now", self._what)
        self.error = None
        self._listed = True
        self._since = asyncio.get_running_loop().time()
        self._move(RegistrationEvent.ACCEPTED)

    def _failed(self, error: Exception) -> float:
        """Take note of a failure; return the seconds to wait."""
        if self.state is RegistrationState.REGISTERED:
            held_s = asyncio.get_running_loop().time() - self._since
            # Else it would be lost at once, for ever, without pause.
            if held_s >= self.registrar.backoff.maximum_s:
                self._backoff.reset()
        self._move(RegistrationEvent.FAILED)
        if str(error) != str(self.error):  # once, as it may stay so for long
            _log.warning("%s is not registered: %s", self._what, _text(error))
        self.error = error
        wait_s = self._backoff.next_delay()
        asked_s = getattr(error, "wait_s", None)
        if asked_s is not None:
            wait_s = max(wait_s, asked_s * self._random.uniform(1 - _WAIT_JITTER, 1 + _WAIT_JITTER))
        return wait_s

    async def _leave(self) -> None:
        if self._task is not None:
            self._task.cancel()
            _, running = await asyncio.wait({self._task}, timeout=_DEREGISTER_S)
            if running:
                error: Exception | None = RegistrationError("its registrar does not end when it is cancelled")
            else:
                error = await _attempt(self.registrar.deregister(self.instance))
            if error is not None:
                self._log_leftover(_text(error))
        if (error := await _attempt(self.registrar.close())) is not None:
            _log.warning("%s: close() of its registrar: %s", self._what, _text(error))

    def _log_leftover(self, why: str) -> None:
        _log.log(
            logging.WARNING if self._listed else logging.INFO,  # nobody misses what never was there
            "%s could not be removed, and stays listed until it expires: %s",
            self._what,
            why,
        )


class Registrations:
    """All registrations of one server, or of one that is several processes: they are left together.

    Called by servers and by the supervisor of workers.
    """

    def __init__(self) -> None:
        self._all: list[Registration] = []
        self._propagation_s = 0.0
        self._known_at: float | None = None  # when clients have heard of it
        self._hurry = asyncio.Event()
        # When nobody waits for the registries any more; None for no such time.
        self._until: float | None = None
        self._limits: list[asyncio.Timeout] = []  # of those who do
        self._abandoned = False

    def add(
        self,
        target: str | Registrar,
        instance: Instance | None,
        sock: socket.socket | None,
        *,
        secure: bool,
        propagation: float,
    ) -> Registration:
        """Make one more; start it when the server serves.

        Args:
            target: where.
            instance: what the application says of it; None for nothing.
            sock: what the server listens on, if that is not a Unix socket.
            secure: it takes TLS only.
            propagation: seconds that clients get to hear that it leaves.

        Raises:
            ValueError: ``propagation`` is no time.
            TargetError, UnknownPluginError: the target cannot be understood.
            RegistrationError: there is no address that clients could use.
        """
        if not 0 <= propagation < math.inf:
            raise ValueError(f"propagation={propagation}: it must be seconds, 0 or more")
        registration = Registration(target, completed(instance, sock, secure=secure))
        self._all.append(registration)
        self._propagation_s = max(self._propagation_s, propagation)
        return registration

    def start(self) -> None:
        """Begin to register, on the running event loop."""
        for registration in self._all:
            registration.start()

    async def leave(self, *, patient: bool) -> None:
        """Take all records back; then, if there is the time, wait until clients have heard of it.

        Who calls it once more waits for the same end, or with less patience.
        """
        if not self._all:
            return
        limit = asyncio.timeout_at(self._until)
        self._limits.append(limit)
        try:
            async with limit:  # ends the waiting only: they go on for as long as the program does
                await asyncio.gather(*(registration.close() for registration in self._all))
        except TimeoutError:
            self._abandon()
        finally:
            self._limits.remove(limit)
        if patient and not self._hurry.is_set():
            if self._known_at is None:
                self._known_at = asyncio.get_running_loop().time() + self._propagation_s
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._known_at):
                    await self._hurry.wait()

    def hurry(self) -> None:
        """Have who leaves wait no longer for clients to hear of it, and hardly for the registries."""
        if not self._hurry.is_set():
            self._hurry.set()
            self._until = asyncio.get_running_loop().time() + _HURRY_S
            for limit in self._limits:
                limit.reschedule(self._until)

    def _abandon(self) -> None:
        if not self._abandoned:
            self._abandoned = True
            for registration in self._all:
                registration.abandon()


async def _attempt(work: Awaitable[None]) -> Exception | None:
    """Await a stranger's code, for a few seconds; return what it raised."""
    task = asyncio.current_task()
    assert task is not None
    try:
        async with asyncio.timeout(_DEREGISTER_S):
            await work
    except asyncio.CancelledError:
        if task.cancelling():
            raise
        return RegistrationError("something that it waited for was cancelled")
    except TimeoutError:
        return RegistrationError(f"no answer within {_DEREGISTER_S:g} s")
    except Exception as error:
        return error
    return None


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def completed(instance: Instance | None, sock: socket.socket | None, *, secure: bool) -> Instance:
    """Fill in what an instance leaves open with what a server has bound. Called by servers.

    Args:
        instance: what the application says; None for nothing.
        sock: what the server listens on, if that is not a Unix socket.
        secure: it takes TLS only.

    Raises:
        RegistrationError: there is no address that clients could use; says what to write.
    """
    instance = instance or Instance()
    if instance.address and Address.parse(instance.address).port != 0:
        return instance.at(instance.address, secure=secure)
    if sock is None:
        raise RegistrationError(
            "the server listens on no TCP port, so that other machines cannot reach it; say where they can: "
            "instance=lbkit.Instance('10.0.0.7:50051')"
        )
    host, port = sock.getsockname()[:2]
    if instance.address:
        host = Address.parse(instance.address).host
    return instance.at(str(Address(host, port)), secure=secure)
