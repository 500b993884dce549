"""A stream of requests from an iterator that may block: a thread takes them from it and hands them to the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any

from lbkit.handover import ToLoop
from lbkit.sync.loop_thread import LoopThread

_AHEAD = 64  # requests that may be taken from the iterator before the server takes them


class Requests(ToLoop[bytes]):
    """What the asynchronous call iterates over: the requests of an application's iterator, as bytes.

    The thread ends with the call. One that is held up inside the application's iterator ends when that lets it go:
    it is a daemon.

    Args:
        thread: the loop.
        source: the application's iterator.
        serialize: makes bytes of a request.
    """

    def __init__(self, thread: LoopThread, source: Iterable[Any], serialize: Callable[[Any], bytes]) -> None:
        super().__init__(thread.loop, thread.post, _AHEAD)
        self._source: Iterable[Any] | None = source
        self._serialize = serialize

    def begin(self, context: Context) -> None:
        """Start the thread, in a copy of the caller's context."""
        threading.Thread(
            target=context.copy().run, args=(self._consume,), name="lbkit-requests", daemon=True
        ).start()

    def _consume(self) -> None:
        """Take requests until there are no more, or nobody wants them. The body of the thread."""
        source, self._source = self._source, None
        serialize = self._serialize
        try:
            for request in source or ():
                payload = serialize(request)
                if self.stopped or not self.put(payload, len(payload)):
                    break
        except Exception as error:  # whatever the application's iterator or serialiser raises
            self.end(error)
        else:
            self.end()
