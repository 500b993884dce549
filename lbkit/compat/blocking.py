"""Stands in for grpcio's blocking API: what ``lbkit.compat`` has beside ``aio``. Channels and servers are ``lbkit.sync``'s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Executor, Future
from types import TracebackType
from typing import Any, Self

from lbkit.compat.credentials import credentials_keywords
from lbkit.compat.options import Options, channel_keywords, server_keywords
from lbkit.connectivity import ConnectivityState
from lbkit.sync import Channel, FutureCancelledError, FutureTimeoutError, Server
from lbkit.sync.foreign import future_error
from lbkit.sync.interceptors import ClientCallDetails as _OurDetails
from lbkit.sync.interceptors import Interception


class ClientCallDetails(ABC):  # noqa: B024 -- for isinstance() and subclasses
    """What client interceptors are given and hand on; programs derive classes of their own from it."""


ClientCallDetails.register(_OurDetails)


class Status(ABC):  # noqa: B024 -- for isinstance() and subclasses
    """What ``context.abort_with_status`` takes: it has ``code``, ``details`` and ``trailing_metadata``."""


class ServerInterceptor(ABC):
    """Chooses the handler of each call."""

    @abstractmethod
    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Return a handler: what ``continuation(handler_call_details)`` returned, or another."""


def insecure_channel(target: str, options: Options = None, compression: Any = None) -> Channel:
    """Return a blocking channel without TLS; arguments as those of ``grpc.insecure_channel``.

    Raises:
        ValueError: an option has a wrong value; says which. A target or a service config that is wrong is one, too.
        UnknownPluginError: there is no such policy; says the nearest.
    """
    keywords = channel_keywords(options, stacklevel=3)
    keywords.pop("server_name", None)  # of a certificate that there is not
    return _channel(target, keywords, compression)


def secure_channel(
    target: str, credentials: Any, options: Options = None, compression: Any = None
) -> Channel:
    """Return a blocking channel with TLS; arguments as those of ``grpc.secure_channel``, errors of ``insecure_channel``.

    Raises:
        TypeError: the credentials are none that lbkit can use; says what can be.
    """
    keywords = channel_keywords(options, stacklevel=3)
    keywords = credentials_keywords(credentials, keywords.pop("server_name", None)) | keywords
    return _channel(target, keywords, compression)


def server(
    thread_pool: Executor,
    handlers: Iterable[Any] | None = None,
    interceptors: Iterable[object] | None = None,
    options: Options = None,
    maximum_concurrent_rpcs: int | None = None,
    compression: Any = None,
    xds: bool = False,
) -> Server:
    """Return a blocking server, whose methods run in ``thread_pool``; arguments as those of ``grpc.server``.

    Raises:
        ValueError: an option has a wrong value, says which; or ``xds`` is asked for.
        TypeError: an interceptor is none.
    """
    if xds:
        raise ValueError("server(xds=True): lbkit's servers take no configuration from xDS")
    keywords = server_keywords(options, stacklevel=3)
    if compression:
        keywords["compression"] = compression
    made = Server(
        threads=thread_pool,
        interceptors=interceptors,
        max_concurrent_rpcs=maximum_concurrent_rpcs,
        **keywords,
    )
    made.add_generic_rpc_handlers(handlers or ())
    return made


def intercept_channel(channel: Any, *interceptors: object) -> InterceptedChannel:
    """Return a channel whose calls go through interceptors, the first one outermost, and then through ``channel``.

    Raises:
        TypeError: one of them is no interceptor, or asynchronous.
    """
    return InterceptedChannel(channel, interceptors)


class InterceptedChannel:
    """A channel with interceptors around its calls; for all the rest, the channel that it was made of.

    Args:
        channel: a blocking channel, or another of these.
        interceptors: as for ``lbkit.sync.Channel``.
    """

    def __init__(self, channel: Any, interceptors: Iterable[object]) -> None:
        self._channel = channel
        self._interception = Interception(interceptors)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of a unary method; arguments as for ``lbkit.sync.Channel.unary_unary``."""
        return self._around("unary_unary", method, args, kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of a server-streaming method; arguments as for ``unary_unary``."""
        return self._around("unary_stream", method, args, kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of a client-streaming method; arguments as for ``unary_unary``."""
        return self._around("stream_unary", method, args, kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of a bidirectional streaming method; arguments as for ``unary_unary``."""
        return self._around("stream_stream", method, args, kwargs)

    def _around(self, kind: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        make = getattr(self._channel, kind)
        return self._interception.around(kind, method, lambda path: make(path, *args, **kwargs))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


def channel_ready_future(channel: Any) -> Future[None]:
    """Return a future that is done when ``channel`` is READY; it begins to connect. Cancel it to stop waiting."""
    return _Ready(channel)


class _Ready(Future[None]):
    """Is done when a channel is READY."""

    def __init__(self, channel: Any) -> None:
        super().__init__()
        self._channel = channel
        channel.subscribe(self._look, try_to_connect=True)

    def result(self, timeout: float | None = None) -> None:
        """Wait until the channel is READY.

        Raises:
            FutureTimeoutError: it is not, after ``timeout`` seconds.
            FutureCancelledError: somebody has stopped waiting.
        """
        try:
            super().result(timeout)
        except TimeoutError:
            text = f"the channel is not READY after {timeout} s: {self._channel!r}"
            raise future_error("FutureTimeoutError", FutureTimeoutError)(text) from None
        except CancelledError:
            raise future_error("FutureCancelledError", FutureCancelledError)("it was cancelled") from None

    def cancel(self) -> bool:
        """Stop waiting. False if the channel is READY."""
        self._channel.unsubscribe(self._look)
        return super().cancel()

    def _look(self, state: Any) -> None:
        """Look at a state of the channel. On the loop's thread."""
        if state == ConnectivityState.READY and self.set_running_or_notify_cancel():
            self.set_result(None)
            self._channel.unsubscribe(self._look)


def _channel(target: str, keywords: dict[str, Any], compression: Any) -> Channel:
    if compression:  # which says more than an option does
        keywords["compression"] = compression
    return Channel(target, **keywords)
