"""How long calls take, for whoever counts: a histogram, a statsd client, a list in a test."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from lbkit.errors import RpcError
from lbkit.interceptor import (
    ClientCallDetails,
    Continuation,
    StreamStreamClientInterceptor,
    StreamUnaryClientInterceptor,
    UnaryStreamClientInterceptor,
    UnaryUnaryClientInterceptor,
)
from lbkit.service import ServerInterceptor, ServicerContext
from lbkit.service.interceptor import Proceed
from lbkit.status import StatusCode


class Timing(NamedTuple):
    """One call that is over.

    Attributes:
        method: ``/package.Service/Method``. On a server, clients choose it: where it becomes a label, keep to the names
            that you serve.
        kind: ``unary_unary``, ``unary_stream``, ``stream_unary`` or ``stream_stream``.
        code: what it ended with.
        seconds: from its start to its status.
    """

    method: str
    kind: str
    code: StatusCode
    seconds: float


class ClientTiming(
    UnaryUnaryClientInterceptor,
    UnaryStreamClientInterceptor,
    StreamUnaryClientInterceptor,
    StreamStreamClientInterceptor,
):
    """Calls ``record(Timing)`` at the end of each call of a channel.

    Args:
        record: must not block, and not raise.
    """

    def __init__(self, record: Callable[[Timing], object]) -> None:
        self._record = record

    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        """Go on, and take the time."""
        return await self._timed("unary_unary", continuation, client_call_details, request)

    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        """Go on, and take the time."""
        return await self._timed("unary_stream", continuation, client_call_details, request)

    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request_iterator: Any
    ) -> Any:
        """Go on, and take the time."""
        return await self._timed("stream_unary", continuation, client_call_details, request_iterator)

    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request_iterator: Any
    ) -> Any:
        """Go on, and take the time."""
        return await self._timed("stream_stream", continuation, client_call_details, request_iterator)

    async def _timed(
        self, kind: str, continuation: Continuation, details: ClientCallDetails, request: Any
    ) -> Any:
        method = details.method if isinstance(details.method, str) else details.method.decode()
        clock = get_running_loop().time
        began = clock()
        try:
            call = await continuation(details, request)
        except RpcError as error:
            self._record(Timing(method, kind, error.code(), clock() - began))
            raise
        call.add_done_callback(
            lambda _: self._record(Timing(method, kind, call.status.code, clock() - began))
        )
        return call


class ServerTiming(ServerInterceptor):
    """Calls ``record(Timing)`` at the end of each call of a server.

    Args:
        record: must not block, and not raise.
    """

    def __init__(self, record: Callable[[Timing], object]) -> None:
        self._record = record

    async def intercept(self, proceed: Proceed, request: Any, context: ServicerContext) -> Any:
        """Go on, and take the time."""
        context.add_done_callback(partial(self._over, get_running_loop().time()))
        return await proceed(request, context)

    def _over(self, began: float, context: ServicerContext) -> None:
        seconds = get_running_loop().time() - began
        self._record(Timing(context.method, context.kind, context.code(), seconds))
