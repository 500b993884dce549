"""The contract of client interceptors: ``grpc.aio``'s, method by method, and one for all kinds of call.

Interceptors of a channel surround each of its calls, the first in the list outermost. One is called with what goes on
with the call (``continuation``), a description of the call, and the request. It may change the description, go on
once, several times or not at all, and returns the call that it got, or an answer of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from lbkit.metadata import MutableMetadata

if TYPE_CHECKING:
    from lbkit.call.intercepted import Interception

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class ClientCallDetails(NamedTuple):
    """What an application said with a call; change it with ``_replace`` and hand it on.

    Attributes:
        method: ``b"/package.Service/Method"``, in bytes, as grpc.aio gives it. Text is taken, too.
        timeout: seconds; None for no limit.
        metadata: a copy, to be changed at will.
        credentials: of this call.
        wait_for_ready: whether to wait for a backend; None for what is configured.
    """

    method: bytes
    timeout: float | None
    metadata: MutableMetadata
    credentials: Any = None
    wait_for_ready: bool | None = None


# ``call = await continuation(details, request)``
Continuation: TypeAlias = Callable[[Any, Any], Awaitable[Any]]


class ClientInterceptor(ABC):
    """Intercepts calls of all four kinds with one method."""

    @abstractmethod
    async def intercept(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        """Surround one call. Called in a task of the call's own, whose context variables the next ones see.

        Args:
            continuation: ``await continuation(details, request)`` goes on, and returns the call as soon as it is made:
                ``await`` that, or its ``code()``, to wait for the end. Each time it is called makes a call.
            client_call_details: what the application said.
            request: the request; of a stream of them, an asynchronous iterator or what the application gave.

        Returns:
            The call; or a response; or, for a stream of responses, an asynchronous iterator.

        Raises:
            Exception: whatever is raised, the application gets when it waits for the call. It is cancelled if it runs.
        """


class UnaryUnaryClientInterceptor(ABC):
    """Intercepts unary calls, as ``grpc.aio.UnaryUnaryClientInterceptor``."""

    @abstractmethod
    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        """Surround one call; see ``ClientInterceptor.intercept``."""


class UnaryStreamClientInterceptor(ABC):
    """Intercepts server-streaming calls, as ``grpc.aio.UnaryStreamClientInterceptor``."""

    @abstractmethod
    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        """Surround one call; see ``ClientInterceptor.intercept``."""


class StreamUnaryClientInterceptor(ABC):
    """Intercepts client-streaming calls, as ``grpc.aio.StreamUnaryClientInterceptor``."""

    @abstractmethod
    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request_iterator: Any
    ) -> Any:
        """Surround one call; see ``ClientInterceptor.intercept``."""


class StreamStreamClientInterceptor(ABC):
    """Intercepts bidirectional calls, as ``grpc.aio.StreamStreamClientInterceptor``."""

    @abstractmethod
    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request_iterator: Any
    ) -> Any:
        """Surround one call; see ``ClientInterceptor.intercept``."""


Step: TypeAlias = Callable[[Continuation, ClientCallDetails, Any], Awaitable[Any]]


def step_of(interceptor: object, kind: str) -> Step | None:
    """Return the method of an interceptor for calls of a kind, by its name; None if it leaves them alone.

    A method of the kind's own goes before ``intercept``, which other libraries' interceptors use for other things.
    """
    own = getattr(interceptor, f"intercept_{kind}", None)
    if own is None and not any(hasattr(interceptor, f"intercept_{other}") for other in KINDS):
        own = getattr(interceptor, "intercept", None)
    return own


def check_client(interceptor: object) -> None:
    """Refuse what is no client interceptor.

    Raises:
        TypeError: it has none of the methods; says what it would need.
    """
    if isinstance(interceptor, type) or not any(step_of(interceptor, kind) for kind in KINDS):
        what = f"the class {interceptor.__name__}, not an instance" if isinstance(interceptor, type) else None
        raise TypeError(
            f"interceptors= has {what or repr(interceptor)}; an interceptor is an object with a method 'intercept', or"
            f" 'intercept_unary_unary' and its like (see lbkit.ClientInterceptor)"
        )


def make_interception(interceptors: Iterable[object] | None) -> Interception | None:
    """Return what puts a channel's interceptors around its calls; None if there are none. Called by channels.

    Raises:
        TypeError: one of them is no interceptor; says what it would need.
    """
    if not interceptors:
        return None
    from lbkit.call.intercepted import Interception  # which channels without interceptors need not load

    return Interception(interceptors)
