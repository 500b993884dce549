"""What ``write()`` of an intercepted call feeds: the iterator of requests that its interceptors are given."""

from __future__ import annotations

import asyncio
from typing import Any, Self

_NOTHING = object()


class Writes:
    """An asynchronous iterator with room for one request; for one reader, and any number of writers."""

    __slots__ = ("_closed", "_ended", "_readers", "_request", "_writers")

    def __init__(self) -> None:
        self._request: Any = _NOTHING
        self._ended = False  # no more is written
        self._closed = False  # no more is read
        self._readers: list[asyncio.Future[None]] = []
        self._writers: list[asyncio.Future[None]] = []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while self._request is _NOTHING:
            if self._ended or self._closed:
                raise StopAsyncIteration
            await _turn(self._readers)
        request, self._request = self._request, _NOTHING
        _wake(self._writers)
        return request

    async def put(self, request: Any) -> bool:
        """Hand a request over when there is room. False if it is not wanted: the stream was ended, or closed."""
        while self._request is not _NOTHING and not self._closed:
            await _turn(self._writers)
        if self._ended or self._closed:
            return False
        self._request = request
        _wake(self._readers)
        return True

    def end(self) -> None:
        """End the iterator, behind the request that is on its way."""
        self._ended = True
        _wake(self._readers)

    def close(self) -> None:
        """Let go of whoever waits: the call is over."""
        self._closed = True
        self._request = _NOTHING
        _wake(self._readers)
        _wake(self._writers)


async def _turn(waiting: list[asyncio.Future[None]]) -> None:
    future = asyncio.get_running_loop().create_future()
    waiting.append(future)
    await future


def _wake(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
    waiting.clear()
