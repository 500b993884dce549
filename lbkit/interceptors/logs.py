"""A line in the log for each call, at its end. Bodies and metadata are never logged."""

from __future__ import annotations

import logging
from asyncio import get_running_loop
from functools import partial
from typing import Any

from lbkit.errors import RpcError
from lbkit.interceptor import ClientCallDetails, ClientInterceptor, Continuation
from lbkit.service import ServerInterceptor, ServicerContext
from lbkit.service.interceptor import Proceed
from lbkit.status import StatusCode

# The server's own fault, or a state that it should not be in: what somebody has to look at.
_ALARMING = frozenset((StatusCode.UNKNOWN, StatusCode.INTERNAL, StatusCode.DATA_LOSS))


class _Lines:
    """Writes the lines; the facts are attributes of the record as well, for structured logs."""

    def __init__(self, name: str, logger: logging.Logger | None, level: int, failure_level: int) -> None:
        self._logger = logger or logging.getLogger(name)
        self._level = level
        self._failure_level = failure_level

    def write(self, method: str, code: StatusCode, details: str, seconds: float, **where: str | None) -> None:
        """Write a line about a call that is over."""
        level = self._level
        if code is not StatusCode.OK:
            level = max(self._failure_level, logging.ERROR) if code in _ALARMING else self._failure_level
        if self._logger.isEnabledFor(level):
            (other,) = where.values()
            facts = {"method": method, "code": code.name, "elapsed_s": seconds, **where}
            text = f": {details}" if details else ""
            self._logger.log(
                level, "%s %s %s in %.4f s%s", method, other, code.name, seconds, text, extra=facts
            )


class ClientLogging(ClientInterceptor):
    """Logs each call of a channel when it is over, as ``/pkg.Service/Method 10.0.0.1:50051 OK in 0.0012 s``.

    The records have the attributes ``method``, ``code`` (the name), ``elapsed_s`` and ``backend``.

    Args:
        logger: by default the one named ``lbkit.access.client``.
        level: of calls that end well.
        failure_level: of those that do not; UNKNOWN, INTERNAL and DATA_LOSS are ERROR at least.
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        level: int = logging.INFO,
        failure_level: int = logging.WARNING,
    ) -> None:
        self._lines = _Lines("lbkit.access.client", logger, level, failure_level)

    async def intercept(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        """Go on, and log at the end."""
        method, clock = _text(client_call_details.method), get_running_loop().time
        began = clock()
        try:
            call = await continuation(client_call_details, request)
        except RpcError as error:
            self._lines.write(method, error.code(), error.details(), clock() - began, backend=error.backend)
            raise

        def over(_: object) -> None:
            status = call.status
            self._lines.write(method, status.code, status.details, clock() - began, backend=call.backend)

        call.add_done_callback(over)
        return call


class ServerLogging(ServerInterceptor):
    """Logs each call of a server when it is over, as ``/pkg.Service/Method ipv4:10.0.0.7:51312 OK in 0.0003 s``.

    The records have the attributes ``method``, ``code`` (the name), ``elapsed_s`` and ``peer``. They are made in the
    call's context: a filter of the logger sees the context variables that interceptors and the handler have set.

    Args:
        logger: by default the one named ``lbkit.access.server``.
        level: of calls that end well.
        failure_level: of those that do not; UNKNOWN, INTERNAL and DATA_LOSS are ERROR at least.
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        level: int = logging.INFO,
        failure_level: int = logging.WARNING,
    ) -> None:
        self._lines = _Lines("lbkit.access.server", logger, level, failure_level)

    async def intercept(self, proceed: Proceed, request: Any, context: ServicerContext) -> Any:
        """Go on, and log at the end."""
        context.add_done_callback(partial(self._over, get_running_loop().time()))
        return await proceed(request, context)

    def _over(self, began: float, context: ServicerContext) -> None:
        seconds = get_running_loop().time() - began
        self._lines.write(context.method, context.code(), context.details(), seconds, peer=context.peer())


def _text(method: bytes | str) -> str:
    return method if isinstance(method, str) else method.decode()
