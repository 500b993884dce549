"""What a server serves: handlers as lbkit knows them, made of grpcio's, or of descriptors and an object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from lbkit.descriptors import methods_of
from lbkit.metadata import Metadata
from lbkit.service.blocking import in_thread
from lbkit.suggest import did_you_mean


class Handler(NamedTuple):
    """How one method is served.

    Attributes:
        path: ``/package.Service/Method``.
        behaviour: the servicer's method, called with the request (or what iterates over requests) and the context;
            None for one that is refused.
        deserialize: makes a request of bytes.
        serialize: makes bytes of a response.
        streams_request: requests are a stream.
        streams_response: responses are a stream.
        generator: the behaviour gives its responses as an asynchronous generator.
        function: the plain function that the behaviour runs in a thread, if it does.
        request_class: the class of requests, where that is known.
    """

    path: str
    behaviour: Callable[[Any, Any], Any] | None
    deserialize: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    streams_request: bool = False
    streams_response: bool = False
    generator: bool = False
    function: Callable[[Any, Any], Any] | None = None
    request_class: Any = None

    @property
    def kind(self) -> str:
        """What is streamed, as ``unary_stream``; the name of the attribute that grpcio's handlers have it under."""
        return _KINDS[self.streams_request, self.streams_response]


_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


def handler_of_grpc(path: str, handler: Any) -> Handler:
    """Make a Handler of grpcio's ``RpcMethodHandler``, as generated code registers it."""
    kind = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")[
        2 * bool(handler.request_streaming) + bool(handler.response_streaming)
    ]
    return _handler(
        Handler(
            path,
            getattr(handler, kind),
            handler.request_deserializer or bytes,
            handler.response_serializer or bytes,
            bool(handler.request_streaming),
            bool(handler.response_streaming),
        )
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
    """
    full_name, methods = methods_of(pb2, service)
    handlers = {
        method.path: _handler(
            Handler(
                method.path,
                behaviour,
                method.request.FromString,
                method.response.SerializeToString,
                method.streams_request,
                method.streams_response,
                request_class=method.request,
            )
        )
        for method in methods
        if (behaviour := getattr(servicer, method.name, None)) is not None
    }
    if not handlers:
        names = ", ".join(method.name for method in methods)
        raise TypeError(f"{servicer!r} has none of the methods of {full_name}: {names}")
    return full_name, handlers


def _handler(handler: Handler) -> Handler:
    """Bring the servicer's method, in whichever of the four styles it is written, into one of two."""
    behaviour = handler.behaviour
    if behaviour is None:
        return handler
    if _is(inspect.isasyncgenfunction, behaviour):
        if not handler.streams_response:
            raise TypeError(f"{handler.path} has one response, but its method yields; return it instead")
        return handler._replace(generator=True)
    if _is(inspect.iscoroutinefunction, behaviour):
        return handler
    # What protoc generates for a method that nobody wrote is a plain function as well.
    if getattr(behaviour, "__module__", "").endswith("_pb2_grpc"):
        return handler._replace(behaviour=None)
    return handler._replace(
        behaviour=in_thread(
            behaviour, streams_request=handler.streams_request, streams_response=handler.streams_response
        ),
        function=behaviour,
    )


def _is(kind: Callable[[object], bool], behaviour: Any) -> bool:
    while isinstance(behaviour, functools.partial):
        behaviour = behaviour.func
    return kind(behaviour) or kind(getattr(behaviour, "__call__", None))  # noqa: B004  # a callable object


class CallDetails(NamedTuple):
    """What generic handlers are asked with, as grpcio's ``HandlerCallDetails``."""

    method: str
    invocation_metadata: Metadata


_PATHS_MAX = 1024  # paths are the clients' choice: remembering all of them would be a leak


class HandlerTable:
    """Every handler of a server, by path, and the generic handlers that are asked about the rest."""

    def __init__(self) -> None:
        self._by_path: dict[bytes, Handler] = {}
        self._generic: list[Any] = []
        self._of_generic = Conversions()

    def add(self, handlers: Mapping[str, Handler]) -> None:
        """Serve these paths."""
        self._by_path.update({path.encode(): handler for path, handler in handlers.items()})

    def add_generic(self, handler: Any) -> None:
        """Ask this grpcio ``GenericRpcHandler`` about paths that are not known."""
        self._generic.append(handler)

    def paths(self) -> list[str]:
        """Return the paths that are known by name, sorted."""
        return sorted(path.decode() for path in self._by_path)

    def services(self) -> list[str]:
        """Return the names of the services that are known, sorted; of generic handlers, if they say theirs."""
        names = {path.split(b"/")[1].decode() for path in self._by_path}
        for generic in self._generic:
            if callable(name := getattr(generic, "service_name", None)):  # grpcio's ServiceRpcHandler
                names.add(str(name()))
        return sorted(names)

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
                return self._of_generic.convert(path, found)
        return None

    def explain(self, path: bytes, handler: Handler | None) -> str:
        """Say why a path is not served: there is no handler, or it has no behaviour."""
        name = path.decode("latin-1")
        if handler is not None:
            return f"{name}: the servicer does not implement it"
        return f"no method {name!r} here.{did_you_mean(name, self.paths())}"


class Conversions:
    """Handlers made of grpcio's, one remembered for each path: most often the next is the same object."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Any, Handler]] = {}

    def convert(self, path: bytes, found: Any) -> Handler:
        """Return the Handler for a ``RpcMethodHandler``."""
        known = self._known.get(path)
        if known is not None and known[0] is found:
            return known[1]
        handler = handler_of_grpc(path.decode("latin-1"), found)
        if known is not None or len(self._known) < _PATHS_MAX:
            self._known[path] = found, handler
        return handler
