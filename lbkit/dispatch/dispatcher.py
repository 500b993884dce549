"""Finds the handler of each request, and starts a call for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Executor

from lbkit.deadline import Deadlines
from lbkit.dispatch.call import ServerCall
from lbkit.dispatch.http_answer import HttpAnswer
from lbkit.dispatch.streaming import StreamStreamCall, StreamUnaryCall, UnaryStreamCall
from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.service import Handler, HandlerTable
from lbkit.status import Status, StatusCode
from lbkit.suggest import did_you_mean
from lbkit.transport.server import ServerConnection
from lbkit.wire.faults import WireFault
from lbkit.wire.requests import RequestHead, RequestRefused

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
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handlers: HandlerTable,
        *,
        max_request_bytes: int,
        max_response_bytes: int | None,
        threads: Executor | None,
    ) -> None:
        self.loop = loop
        self.deadlines = Deadlines(loop)
        self.tasks: set[asyncio.Task[None]] = set()  # handlers that run, kept alive here
        self.max_request_bytes = max_request_bytes
        self.max_response_bytes = max_response_bytes
        self._handlers = handlers
        self._threads = threads
        self._own_threads: Executor | None = None
        self.working = 0  # threads that run a handler

    @property
    def threads(self) -> Executor:
        """Where plain functions run."""
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = self._own_threads = ThreadPoolExecutor(_THREADS, "lbkit-handler")
        return self._threads

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
            status = Status(StatusCode.UNIMPLEMENTED, self._explain(head.path, handler))
            self._refuse(connection, stream, status)
            return
        if _TE not in fields:  # whatever dropped it on the way may drop trailers, too (PROTOCOL-HTTP2)
            connection.setup.counters.seen["requests_without_te"] += 1
        call = _KINDS[handler.streams_request, handler.streams_response](self, connection, stream)
        stream.sink = call
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
        ServerCall(self, connection, stream).refuse(status, http_status, fields)

    def _explain(self, path: bytes, handler: Handler | None) -> str:
        name = path.decode("latin-1")
        if handler is not None:
            return f"{name}: the servicer does not implement it"
        return f"no method {name!r} here.{did_you_mean(name, self._handlers.paths())}"
