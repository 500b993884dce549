"""The contract of server interceptors: one of our own for all kinds of call, and ``grpc.aio``'s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from lbkit.ambient import serving
from lbkit.service.context import ServicerContext

Proceed: TypeAlias = Callable[[Any, Any], Awaitable[Any]]


class ServerInterceptor(ABC):
    """Surrounds every call of a server, those of unknown methods included: ``Server(interceptors=[...])``.

    The first in the list is outermost. Beside these, a server takes interceptors written for grpc.aio, with
    ``async def intercept_service(self, continuation, handler_call_details)``.
    """

    @abstractmethod
    async def intercept(self, proceed: Proceed, request: Any, context: ServicerContext) -> Any:
        """Surround one call. Called in the call's task, whose context variables the handler sees.

        ``context.method`` says which. To refuse a call, ``await context.abort(code, details)`` instead of going on. To
        learn how it ended, ``context.add_done_callback(...)``, and there ``context.code()``.

        Args:
            proceed: ``await proceed(request, context)`` goes on, and returns when the handler has: with the response,
                or, of a stream of responses, with None behind the last of them.
            request: the request; of a stream of them, an asynchronous iterator.
            context: the call.

        Returns:
            What ``proceed`` returned, or another response.

        Raises:
            Exception: of the handler, or of the interceptor; it ends the call as one of the handler does.
        """


def current_call() -> ServicerContext | None:
    """Return the call being served where this is called; None outside of handlers and of interceptors.

    In tasks that a handler has started, and in threads that plain functions run in, it is the same call: in a thread,
    only ask it (``method``, ``invocation_metadata()``, ``time_remaining()``); what has to be awaited belongs to the loop.
    """
    found: Any = serving.get()  # only servers put anything there
    context: ServicerContext | None = found
    return context


def check_server(interceptor: object) -> None:
    """Refuse what is no server interceptor.

    Raises:
        TypeError: it has none of the methods; says what it would need.
    """
    if isinstance(interceptor, type) or not (
        hasattr(interceptor, "intercept") or hasattr(interceptor, "intercept_service")
    ):
        what = f"the class {interceptor.__name__}, not an instance" if isinstance(interceptor, type) else None
        raise TypeError(
            f"interceptors= has {what or repr(interceptor)}; an interceptor is an object with a method 'intercept' (see"
            f" lbkit.ServerInterceptor) or 'intercept_service' (as grpc.aio.ServerInterceptor)"
        )
