"""The call being served: what calls that its handler makes take their deadline from, and end with.

A context variable carries it from the server to the client, which do not know each other: into the tasks that a
handler starts, and into the threads that plain functions run in.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from lbkit.status import Status


class Child(Protocol):
    """A call made on behalf of another one."""

    def served_ended(self, status: Status) -> None:
        """End with a status: the call that it was made for was cancelled. Called in any thread."""
        ...


class Served(Protocol):
    """A call being served, as far as calls made on its behalf need to know it."""

    def time_remaining(self) -> float | None:
        """Return the seconds left until the client's deadline, at least 0; None without a deadline."""
        ...

    def done(self) -> bool:
        """Whether the call is over."""
        ...

    def cancelled(self) -> bool:
        """Whether it ended before its handler did."""
        ...

    def adopt(self, child: Child) -> None:
        """Have a call end when this one is cancelled."""
        ...

    def forget(self, child: Child) -> None:
        """Take note that such a call is over."""
        ...


serving: ContextVar[Served | None] = ContextVar("lbkit.serving", default=None)


@contextmanager
def detached() -> Generator[None, None, None]:
    """Make calls that do not belong to the call being served.

    Calls made in a handler inherit its deadline and are cancelled with it. Those made inside the block do not, nor
    do those of tasks started there: for work that is to go on whatever becomes of the call::

        with lbkit.detached():
            background.add(asyncio.create_task(audit(request)))

    Inside the block ``lbkit.current_call()`` is None.
    """
    token = serving.set(None)
    try:
        yield
    finally:
        serving.reset(token)
