"""Blocking client interceptors, in grpcio's shape: ``sync.Channel(target, interceptors=[...])``.

``def intercept_unary_unary(self, continuation, client_call_details, request)`` and its three siblings, as those of
``grpc.UnaryUnaryClientInterceptor``. They run in the calling thread, and may block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

from lbkit.errors import RpcError
from lbkit.interceptor import KINDS, step_of
from lbkit.metadata import MetadataLike
from lbkit.status import StatusCode

_METHODS_MAX = 256  # other methods than its own that interceptors send a multicallable's calls to


class ClientCallDetails(NamedTuple):
    """What a program said with a call; change it with ``_replace`` and hand it on.

    Attributes:
        method: ``/package.Service/Method``.
        timeout: seconds; None for no limit.
        metadata: as they were given.
        credentials: of this call.
        wait_for_ready: whether to wait for a backend; None for what is configured.
        compression: of this call's requests.
    """

    method: str
    timeout: float | None
    metadata: MetadataLike | None
    credentials: Any = None
    wait_for_ready: bool | None = None
    compression: Any = None


class FailedCall:
    """What ``continuation`` returns where a call could not be made, or an interceptor behind it raised.

    The part of a call's interface that tells how it ended; ``result()`` raises.
    """

    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self, timeout: float | None = None) -> NoReturn:
        """Raise."""
        raise self._error

    def exception(self, timeout: float | None = None) -> Exception:
        """Return what was raised."""
        return self._error

    def code(self) -> StatusCode:
        """Return the error's code; UNKNOWN if it has none."""
        return self._error.code() if isinstance(self._error, RpcError) else StatusCode.UNKNOWN

    def details(self) -> str:
        """Return the error's text."""
        return self._error.details() if isinstance(self._error, RpcError) else str(self._error)

    def done(self) -> bool:
        """Return True."""
        return True

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def running(self) -> bool:
        """Return False."""
        return False

    def cancel(self) -> bool:
        """Return False: it is over."""
        return False

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call it at once."""
        fn(self)


class InterceptedMultiCallable:
    """Makes the calls of one method through interceptors; called as the multicallable that it stands for.

    Args:
        path: the method.
        make: returns the multicallable of a path.
        steps: the interceptors' methods for this kind of call, the first one outermost.
        streams_response: responses are a stream.
    """

    def __init__(
        self,
        path: str,
        make: Callable[[str], Any],
        steps: tuple[Callable[..., Any], ...],
        *,
        streams_response: bool,
    ) -> None:
        self._path = path
        self._make = make
        self._steps = steps
        self._streams_response = streams_response
        self._plain = {path: make(path)}

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        **limits: int | None,
    ) -> Any:
        """Make a call; arguments and errors are those of the plain multicallable. Interceptors' errors are raised."""
        details = ClientCallDetails(self._path, timeout, metadata, credentials, wait_for_ready, compression)
        found = self._go_on(0, details, request, limits, wait=True)
        return found if self._streams_response or not hasattr(found, "result") else found.result()

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        **limits: int | None,
    ) -> tuple[Any, Any]:
        """Make a call, and wait; return the response, and the call as the interceptors returned it."""
        details = ClientCallDetails(self._path, timeout, metadata, credentials, wait_for_ready, compression)
        call = self._go_on(0, details, request, limits, wait=True)
        return call.result(), call

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        **limits: int | None,
    ) -> Any:
        """Start a call, and return it as the interceptors did; what they raise, ``result()`` raises."""
        details = ClientCallDetails(self._path, timeout, metadata, credentials, wait_for_ready, compression)
        return self._following(0, limits, wait=False)(details, request)

    def _following(self, index: int, limits: dict[str, Any], *, wait: bool) -> Callable[[Any, Any], Any]:
        """Return what goes on with the interceptor at ``index``, and does not raise."""

        def continuation(details: Any, request: Any) -> Any:
            try:
                return self._go_on(index, details, request, limits, wait=wait)
            except Exception as error:  # the interceptor before looks at it as at a call
                return FailedCall(error)

        return continuation

    def _go_on(self, index: int, details: Any, request: Any, limits: dict[str, Any], *, wait: bool) -> Any:
        if index < len(self._steps):
            return self._steps[index](self._following(index + 1, limits, wait=wait), details, request)
        plain = self._at(details.method)
        said = {
            "timeout": details.timeout,
            "metadata": details.metadata,
            "credentials": details.credentials,
            "wait_for_ready": getattr(details, "wait_for_ready", None),  # grpcio added the last two later
            "compression": getattr(details, "compression", None),
        }
        if self._streams_response:
            return plain(request, **said, **limits)
        call = plain.future(request, **said, **limits)
        if wait:
            call.code()
        return call

    def _at(self, path: str) -> Any:
        plain = self._plain.get(path)
        if plain is None:
            plain = self._make(path)
            if len(self._plain) < _METHODS_MAX:
                self._plain[path] = plain
        return plain


class Interception:
    """The interceptors of a blocking channel.

    Args:
        interceptors: as for ``lbkit.sync.Channel``.

    Raises:
        TypeError: one of them is no interceptor, or asynchronous.
    """

    def __init__(self, interceptors: Iterable[object]) -> None:
        self._interceptors = tuple(interceptors)
        for interceptor in self._interceptors:
            steps = [step for kind in KINDS if (step := step_of(interceptor, kind)) is not None]
            if isinstance(interceptor, type) or not steps:
                raise TypeError(
                    f"interceptors= has {interceptor!r}; an interceptor is an object with a method"
                    f" 'intercept_unary_unary' or one of its like (as grpc.UnaryUnaryClientInterceptor)"
                )
            if any(inspect.iscoroutinefunction(step) for step in steps):
                raise TypeError(
                    f"interceptors= has {interceptor!r}, which is asynchronous: it is for lbkit.Channel; here the methods"
                    f" are plain functions"
                )

    def around(self, kind: str, path: str, make: Callable[[str], Any]) -> Any:
        """Return the multicallable of a path with the interceptors for its kind around it, if there are any."""
        found = (step_of(interceptor, kind) for interceptor in self._interceptors)
        steps = tuple(step for step in found if step is not None)
        if not steps:
            return make(path)
        return InterceptedMultiCallable(path, make, steps, streams_response=kind.endswith("stream"))
