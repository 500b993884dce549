"""Answers that interceptors give themselves, with the interface of calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Self

from lbkit.eof import EOF
from lbkit.errors import Attempt
from lbkit.metadata import EMPTY, Metadata
from lbkit.status import Status, StatusCode

_OK = Status(StatusCode.OK, "")


class Answer:
    """A response that did not come from a call, or not as it is.

    Args:
        response: what ``await`` gives.
        call: the call that was made on the way, if there was one: its metadata and its backend are shown.
    """

    __slots__ = ("_call", "_response")

    def __init__(self, response: Any, call: Any) -> None:
        self._response = response
        self._call = call

    def __await__(self) -> Generator[Any, None, Any]:
        """Return the response."""
        return self._response
        yield  # makes it a generator, as an awaitable's has to be

    async def initial_metadata(self) -> Metadata:
        """Return what the server sent ahead; empty without a call."""
        found: Metadata = EMPTY if self._call is None else await self._call.initial_metadata()
        return found

    async def trailing_metadata(self) -> Metadata:
        """Return what the server sent behind; empty without a call."""
        found: Metadata = EMPTY if self._call is None else await self._call.trailing_metadata()
        return found

    async def code(self) -> StatusCode:
        """Return OK: there is a response."""
        return StatusCode.OK

    async def details(self) -> str:
        """Return nothing."""
        return ""

    @property
    def status(self) -> Status | None:
        """OK: there is a response."""
        return _OK

    async def wait_for_connection(self) -> None:
        """Return at once."""

    def cancel(self) -> bool:
        """Return False: it is over."""
        return False

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def done(self) -> bool:
        """Return True."""
        return True

    def time_remaining(self) -> float | None:
        """Return what is left of the call's time; None without a call."""
        left: float | None = None if self._call is None else self._call.time_remaining()
        return left

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call it at once."""
        callback(self)

    @property
    def backend(self) -> str | None:
        """Where the call on the way was sent to."""
        return None if self._call is None else self._call.backend

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts of the call on the way."""
        return () if self._call is None else self._call.attempts


class IteratedAnswer(Answer):
    """A stream of responses from an iterator; its status and all else is that of the call on the way.

    Without a call on the way, it is a call that ended well.
    """

    __slots__ = ("_iterator",)

    def __init__(self, responses: Any, call: Any) -> None:
        super().__init__(None, call)
        self._iterator: AsyncIterator[Any] = aiter(responses)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._iterator)

    async def read(self) -> Any:
        """Return the next response, or ``EOF``."""
        return await anext(self._iterator, EOF)

    async def code(self) -> StatusCode:
        """Wait for the end of the call; return its code."""
        return StatusCode.OK if self._call is None else await self._call.code()

    async def details(self) -> str:
        """Wait for the end of the call; return the text of its status."""
        return "" if self._call is None else await self._call.details()

    @property
    def status(self) -> Status | None:
        """What the call ended with; None before."""
        return _OK if self._call is None else self._call.status

    def cancel(self) -> bool:
        """Cancel the call."""
        return self._call is not None and self._call.cancel()

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self._call is not None and self._call.cancelled()

    def done(self) -> bool:
        """Whether the call is over."""
        return self._call is None or self._call.done()

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call ``callback(self)`` at the end of the call."""
        if self._call is None:
            callback(self)
        else:
            self._call.add_done_callback(lambda _: callback(self))
