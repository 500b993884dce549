"""What a server serves: handlers as lbkit knows them, made of grpcio's, or of descriptors and an object."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from lbkit.descriptors import methods_of
from lbkit.errors import AbortError, NotSupportedError, not_supported
from lbkit.metadata import Metadata, MetadataLike
from lbkit.status import StatusCode


class ServicerContext(ABC):
    """A call as its handler sees it; the second argument of every servicer method.

    Signatures are those of ``grpc.aio.ServicerContext``. Codes may be lbkit's or grpcio's.
    """

    __slots__ = ()

    @abstractmethod
    def invocation_metadata(self) -> Metadata:
        """Return what the client sent with the call."""

    @abstractmethod
    def peer(self) -> str:
        """Return where the client is: ``ipv4:127.0.0.1:5``, ``ipv6:[::1]:5`` or ``unix:``."""

    @abstractmethod
    def time_remaining(self) -> float | None:
        """Return the seconds left until the client's deadline, at least 0; None without a deadline."""

    @abstractmethod
    async def abort(self, code: object, details: str = "", trailing_metadata: MetadataLike = ()) -> NoReturn:
        """End the call with a status other than OK, by raising AbortError. Do not catch that.

        Raises:
            ValueError: the code is OK.
        """
        raise AbortError(details)

    @abstractmethod
    async def send_initial_metadata(self, initial_metadata: MetadataLike) -> None:
        """Send metadata ahead of the response.

        Raises:
            RuntimeError: it was sent before.
            MetadataError: it must not go on the wire.
        """

    @abstractmethod
    def set_trailing_metadata(self, trailing_metadata: MetadataLike) -> None:
        """Set what goes with the status.

        Raises:
            MetadataError: it must not go on the wire.
        """

    @abstractmethod
    def set_code(self, code: object) -> None:
        """Set the status code the call will end with."""

    @abstractmethod
    def set_details(self, details: str) -> None:
        """Set the text of the status."""

    @abstractmethod
    def code(self) -> StatusCode:
        """Return the code set so far; OK if none was."""

    @abstractmethod
    def details(self) -> str:
        """Return the text set so far."""

    @abstractmethod
    def trailing_metadata(self) -> Metadata:
        """Return the trailing metadata set so far."""

    @abstractmethod
    def cancelled(self) -> bool:
        """Whether the client gave up, or its deadline passed, before the call was over."""

    @abstractmethod
    def done(self) -> bool:
        """Whether the call is over."""

    @abstractmethod
    def add_done_callback(self, callback: Callable[[ServicerContext], object]) -> None:
        """Call ``callback(context)`` when the call is over; at once if it is."""


Behaviour = Callable[[Any, ServicerContext], Awaitable[Any]]


class Handler(NamedTuple):
    """How one method is served.

    Attributes:
        path: ``/package.Service/Method``.
        behaviour: the servicer's method; None for one that is refused with ``refusal``.
        deserialize: makes the request of bytes.
        serialize: makes bytes of the response.
        refusal: why calls end with UNIMPLEMENTED.
    """

    path: str
    behaviour: Behaviour | None
    deserialize: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    refusal: str = ""


def handler_of_grpc(path: str, handler: Any) -> Handler:
    """Make a Handler of grpcio's ``RpcMethodHandler``, as generated code registers it.

    Raises:
        NotSupportedError: the servicer's method is a plain function.
    """
    streaming = handler.request_streaming or handler.response_streaming
    return _handler(
        path,
        None if streaming else handler.unary_unary,
        handler.request_deserializer or bytes,
        handler.response_serializer or bytes,
    )


def handlers_of_object(
    pb2: ModuleType, service: str | None, servicer: object
) -> tuple[str, dict[str, Handler]]:
    """Make handlers of a servicer's methods, by the descriptors of its service.

    Returns:
        The service's full name, and the handlers by path. A method that the servicer lacks has none.

    Raises:
        LookupError, TypeError: see ``methods_of``.
        TypeError: the servicer has none of the methods.
        NotSupportedError: a method is a plain function.
    """
    full_name, methods = methods_of(pb2, service)
    handlers = {}
    for method in methods:
        behaviour = getattr(servicer, method.name, None)
        if behaviour is None:
            continue
        if method.streams_request or method.streams_response:
            behaviour = None
        handlers[method.path] = _handler(
            method.path, behaviour, method.request.FromString, method.response.SerializeToString
        )
    if not handlers:
        names = ", ".join(method.name for method in methods)
        raise TypeError(f"{servicer!r} has none of the methods of {full_name}: {names}")
    return full_name, handlers


def _handler(
    path: str, behaviour: Any, deserialize: Callable[[bytes], Any], serialize: Callable[[Any], bytes]
) -> Handler:
    if behaviour is None:
        return Handler(path, None, deserialize, serialize, "streaming methods are not supported yet")
    if not _is_async(behaviour):
        # What protoc generates for a method that nobody wrote is a plain function as well.
        if getattr(behaviour, "__module__", "").endswith("_pb2_grpc"):
            return Handler(path, None, deserialize, serialize, "the servicer does not implement it")
        not_supported(f"{path} is served by a plain function, which", "make it 'async def'")
    return Handler(path, behaviour, deserialize, serialize)


def _is_async(behaviour: Any) -> bool:
    while isinstance(behaviour, functools.partial):
        behaviour = behaviour.func
    return inspect.iscoroutinefunction(behaviour) or inspect.iscoroutinefunction(
        getattr(behaviour, "__call__", None)  # noqa: B004  # an object with an async __call__
    )


class CallDetails(NamedTuple):
    """What generic handlers are asked with, as grpcio's ``HandlerCallDetails``."""

    method: str
    invocation_metadata: Metadata


_GENERIC_MAX = 1024  # paths are the clients' choice: remembering all of them would be a leak


class HandlerTable:
    """Every handler of a server, by path, and the generic handlers that are asked about the rest."""

    def __init__(self) -> None:
        self._by_path: dict[bytes, Handler] = {}
        self._generic: list[Any] = []
        self._of_generic: dict[bytes, tuple[Any, Handler]] = {}

    def add(self, handlers: Mapping[str, Handler]) -> None:
        """Serve these paths."""
        self._by_path.update({path.encode(): handler for path, handler in handlers.items()})

    def add_generic(self, handler: Any) -> None:
        """Ask this grpcio ``GenericRpcHandler`` about paths that are not known."""
        self._generic.append(handler)

    def paths(self) -> list[str]:
        """Return the paths that are known by name, sorted."""
        return sorted(path.decode() for path in self._by_path)

    def find(self, path: bytes, metadata: Callable[[], Metadata]) -> Handler | None:
        """Return who serves ``path``, or None."""
        handler = self._by_path.get(path)
        if handler is not None or not self._generic:
            return handler
        name = path.decode("latin-1")
        details = CallDetails(name, metadata())
        for generic in self._generic:
            found = generic.service(details)
            if found is not None:
                return self._handler_of_generic(path, name, found)
        return None

    def _handler_of_generic(self, path: bytes, name: str, found: Any) -> Handler:
        known = self._of_generic.get(path)
        if known is not None and known[0] is found:
            return known[1]
        try:
            handler = handler_of_grpc(name, found)
        except NotSupportedError as error:  # registration could not know
            handler = Handler(name, None, bytes, bytes, str(error))
        if len(self._of_generic) < _GENERIC_MAX:
            self._of_generic[path] = found, handler
        return handler
