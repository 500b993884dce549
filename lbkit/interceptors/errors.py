"""Exceptions of handlers as statuses that their clients understand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from lbkit.errors import AbortError
from lbkit.service import ServerInterceptor, ServicerContext
from lbkit.service.interceptor import Proceed
from lbkit.status import Status, StatusCode
from lbkit.wire.faults import WireFault

Details: TypeAlias = Callable[[Exception], str]


class ErrorMapping(ServerInterceptor):
    """Ends calls whose handler raises an exception of a known class with the status that stands for it.

    The nearest class of the exception that the mapping has counts. Others are left alone: they end as UNKNOWN, and are
    logged. So is a handler's ``context.abort()``, and what it raises behind ``context.set_code()``.

    Args:
        codes: the status code for each class of exceptions; or a function that makes a Status of the exception.
        details: makes the text that the client gets. By default it is the exception's own text; give
            ``lambda error: type(error).__name__`` where that may hold what clients must not see.

    Raises:
        TypeError: a key is no class of exceptions.
        ValueError: a code is OK, or none.
    """

    def __init__(
        self,
        codes: Mapping[type[Exception], StatusCode | Callable[[Any], Status]],
        *,
        details: Details = str,
    ) -> None:
        self._codes: dict[type, Callable[[Any], Status]] = {}
        self._details = details
        for kind, code in codes.items():
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise TypeError(f"codes= has {kind!r}; its keys are classes of exceptions")
            self._codes[kind] = code if callable(code) else self._of_code(code)

    def _of_code(self, code: object) -> Callable[[Exception], Status]:
        status = StatusCode.of(code)
        if status is StatusCode.OK:
            raise ValueError("codes= has OK; an exception ends a call with another code")
        return lambda error: Status(status, self._details(error))

    async def intercept(self, proceed: Proceed, request: Any, context: ServicerContext) -> Any:
        """Go on, and look at what is raised."""
        try:
            return await proceed(request, context)
        except (AbortError, WireFault):  # they say themselves how the call ends
            raise
        except Exception as error:
            if context.code() is not StatusCode.OK:
                raise
            for kind in type(error).__mro__:
                if kind in self._codes:
                    status = self._codes[kind](error)
                    await context.abort(status.code, status.details)
            raise
