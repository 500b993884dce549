"""Registrations for blocking programs: on the loop of ``lbkit.sync``, whatever their own threads do."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from lbkit.registrar import Instance, Registrar
from lbkit.registration import Registration as AsyncRegistration
from lbkit.registration import RegistrationState
from lbkit.sync.loop_thread import LoopThread, acquire, check_thread


class Registration:
    """``lbkit.Registration`` for blocking programs, such as those that serve with grpcio.

    Args:
        target: the registry and the name, as text or a registrar.
        instance: what is registered.

    Raises:
        TargetError, UnknownPluginError, RegistrationError: as ``lbkit.Registration``.
    """

    def __init__(self, target: str | Registrar, instance: Instance) -> None:
        self._core = AsyncRegistration(target, instance)
        self._thread: LoopThread | None = None  # from start() on
        # Of a use of the thread; a server's registrations end before the server's own does.
        self._owner = True

    @classmethod
    def _of(cls, core: AsyncRegistration, thread: LoopThread) -> Registration:
        """Wrap what a server has started. Called by servers."""
        made = cls.__new__(cls)
        made._core, made._thread, made._owner = core, thread, False
        return made

    @property
    def state(self) -> RegistrationState:
        """Where it is now."""
        return self._core.state

    @property
    def error(self) -> Exception | None:
        """Why it was not possible the last time; None once it was."""
        return self._core.error

    @property
    def instance(self) -> Instance:
        """What is registered."""
        return self._core.instance

    def start(self) -> None:
        """Begin to register, and stay registered until ``close``. Does not wait.

        Raises:
            UsageError: called on the loop's own thread.
        """
        check_thread()
        if self._thread is None and self.state is not RegistrationState.CLOSED:
            self._thread = acquire()
            self._thread.run(self._start())

    def registered(self, timeout: float | None = None) -> None:
        """Wait until it is registered.

        Raises:
            RegistrationError: it is not within ``timeout`` seconds, and why; or it was closed.
            RuntimeError: it has not been started.
            UsageError: called on the loop's own thread.
            ForkedError: it was started before this process was forked.
        """
        check_thread()
        if self._thread is None:
            raise RuntimeError("start() it first")
        self._thread.run(self._core.registered(timeout))

    def close(self) -> None:
        """Take the record back and end; what cannot be removed expires by itself, and is logged.

        Raises:
            UsageError: called on the loop's own thread.
        """
        check_thread()
        thread = self._thread
        if thread is None or thread.forked:  # of a child the record is not
            self._core.state = RegistrationState.CLOSED
        else:
            if not self._core.ended:  # else the thread may have ended with its server
                thread.run(self._core.close())
            if self._owner:
                self._owner = False
                thread.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _start(self) -> None:
        self._core.start()
