"""Finds the handler of each request, and starts a call for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from lbkit.deadline import Deadlines
from lbkit.dispatch.call import ServerCall
from lbkit.dispatch.encoded import Answers, in_codec
from lbkit.dispatch.http_answer import HttpAnswer
from lbkit.dispatch.streaming import StreamStreamCall, StreamUnaryCall, UnaryStreamCall
from lbkit.dispatch.workers import Workers
from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.inventory import CallCounts
from lbkit.service import HandlerTable
from lbkit.status import Status, StatusCode
from lbkit.transport.server import ServerConnection
from lbkit.wire.faults import WireFault
from lbkit.wire.requests import RequestHead, RequestRefused

if TYPE_CHECKING:
    from lbkit.dispatch.intercepted import InterceptedHandlers

_log = logging.getLogger("lbkit.server")

_THREADS = 32  # for plain functions, if the server is not given an executor

_TE = (b"te", b"trailers")

# By whether requests, and whether responses, are a stream.
_KINDS: Mapping[tuple[bool, bool], type[ServerCall]] = {
    (False, False): ServerCall,
    (False, True): UnaryStreamCall,
    (True, False): StreamUnaryCall,
    (True, True): StreamStreamCall,
}


class Dispatcher:
    """Starts the handler of each request; shared by all connections of a server.

    Args:
        loop: the server's event loop.
        handlers: who serves what.
        max_request_bytes: larger requests end with RESOURCE_EXHAUSTED.
        max_response_bytes: larger responses do; None for no limit.
        threads: where plain functions run; by default threads of its own, made when they are first needed.
        shared_workers: how many workers run the handlers; None for a task for each.
        max_concurrent_rpcs: more calls at a time end with RESOURCE_EXHAUSTED; None for no limit.
        answers: what all answers have in common.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handlers: HandlerTable | InterceptedHandlers,
        *,
        max_request_bytes: int,
        max_response_bytes: int | None,
        threads: Executor | None,
        shared_workers: int | None = None,
        max_concurrent_rpcs: int | None = None,
        answers: Answers,
    ) -> None:
        self.loop = loop
        self.deadlines = Deadlines(loop)
        self.tasks: set[asyncio.Task[None]] = set()  # handlers that run, kept alive here
        self.max_request_bytes = max_request_bytes
        self.max_response_bytes = max_response_bytes
        self.answers = answers
        self._handlers = handlers
        self._threads = threads
        self._own_threads: Executor | None = None
        self.working = 0  # threads that run a handler
        self.calls_started = self.calls_succeeded = self.calls_failed = 0
        self._last_call_at = 0.0
        self.workers = None if shared_workers is None else Workers(loop, shared_workers, self.tasks)
        self._max_concurrent_rpcs = max_concurrent_rpcs or 0
        # The calls that count against that limit. A set, as one that was refused is no member: of a number, it could
        # be subtracted without having been added, and the limit would be gone (grpc/grpc#41531).
        self.counted: set[ServerCall] | None = None if max_concurrent_rpcs is None else set()

    @property
    def threads(self) -> Executor:
        """Where plain functions run."""
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = self._own_threads = ThreadPoolExecutor(_THREADS, "lbkit-handler")
        return self._threads

    async def ended(self) -> None:
        """Wait until the last handler has ended."""
        tasks = set(self.tasks)
        if self.workers is not None:
            self.workers.close()
            tasks |= self.workers.tasks
        if tasks:
            await asyncio.wait(tasks)

    def counts(self) -> CallCounts:
        """Return what became of the calls."""
        last_s = self.loop.time() - self._last_call_at if self.calls_started else None
        return CallCounts(self.calls_started, self.calls_succeeded, self.calls_failed, last_s)

    def close(self) -> None:
        """Let go of everything, after the last handler."""
        self.deadlines.close()
        if self._own_threads is not None:
            # Idle threads end at once. A function that still runs, though its call is over, is not waited for.
            self._own_threads.shutdown(wait=not self.working, cancel_futures=True)

    def request(
        self, connection: ServerConnection, stream: Stream, fields: tuple[Field, ...], end: bool
    ) -> None:
        """Serve a new stream, or refuse it with a status of its own."""
        try:
            head = RequestHead(fields)
            handler = self._handlers.find(head.path, head.metadata)
            if head.subtype and handler is not None:
                handler = in_codec(handler, head.subtype)
        except RequestRefused as refused:
            if refused.from_grpc:
                status = Status(refused.code, refused.details)
                self._refuse(connection, stream, status, refused.http_status, refused.fields)
            else:
                answer = stream.sink = HttpAnswer(connection, stream, refused)
                if end:
                    answer.data(b"", True)
            return
        except WireFault as fault:
            self._refuse(connection, stream, Status(fault.code, fault.details))
            return
        except Exception as error:  # a generic handler's mistake ends this call, nothing else
            _log.exception("a generic handler raised")
            text = f"a generic handler raised {type(error).__name__}; see the server's log"
            self._refuse(connection, stream, Status(StatusCode.UNKNOWN, text))
            return
        if handler is None or handler.behaviour is None:
            status = Status(StatusCode.UNIMPLEMENTED, self._handlers.explain(head.path, handler))
            self._refuse(connection, stream, status)
            return
        if _TE not in fields:  # whatever dropped it on the way may drop trailers, too (PROTOCOL-HTTP2)
            connection.setup.counters.seen["requests_without_te"] += 1
        call = _KINDS[handler.streams_request, handler.streams_response](self, connection, stream)
        if self.counted is not None:
            if len(self.counted) >= self._max_concurrent_rpcs:
                connection.setup.counters.exceeded["max_concurrent_rpcs"] += 1
                text = f"the server runs {self._max_concurrent_rpcs} calls already, its max_concurrent_rpcs"
                self._refuse(connection, stream, Status(StatusCode.RESOURCE_EXHAUSTED, text))
                return
            self.counted.add(call)
        stream.sink = call
        self.calls_started += 1
        self._last_call_at = self.loop.time()
        call.begin(head, handler, end)

    def oversized(self, connection: ServerConnection, stream: Stream, reason: str) -> None:
        """Refuse a new stream whose headers are too large."""
        self._refuse(
            connection, stream, Status(StatusCode.RESOURCE_EXHAUSTED, f"the request's metadata: {reason}")
        )

    def _refuse(
        self,
        connection: ServerConnection,
        stream: Stream,
        status: Status,
        http_status: int = 200,
        fields: tuple[Field, ...] = (),
    ) -> None:
        self.calls_started += 1
        self._last_call_at = self.loop.time()
        ServerCall(self, connection, stream).refuse(status, http_status, fields)


def at_least_one(name: str, value: int | None) -> int | None:
    """Return an option of the server that is a number of something, or None.

    Raises:
        ValueError: it is not such a number.
    """
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"{name}={value!r}: it must be a whole number from 1 on, or None")
    return value
