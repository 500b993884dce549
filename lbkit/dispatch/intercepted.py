"""Handlers with a server's interceptors around them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from lbkit.eof import EOF
from lbkit.metadata import Metadata
from lbkit.service import Handler, HandlerTable
from lbkit.service.handlers import CallDetails, Conversions
from lbkit.service.interceptor import check_server
from lbkit.status import StatusCode
from lbkit.wire.faults import WireFault

_PATHS_MAX = 1024  # with generic handlers, paths are the clients' choice


class MethodHandler(NamedTuple):
    """What interceptors of grpc.aio's kind get for a handler: the attributes of ``grpc.RpcMethodHandler``."""

    request_streaming: bool
    response_streaming: bool
    request_deserializer: Callable[[bytes], Any]
    response_serializer: Callable[[Any], bytes]
    unary_unary: Callable[[Any, Any], Any] | None = None
    unary_stream: Callable[[Any, Any], Any] | None = None
    stream_unary: Callable[[Any, Any], Any] | None = None
    stream_stream: Callable[[Any, Any], Any] | None = None


class InterceptedHandlers:
    """A server's handlers as its calls get them: surrounded by interceptors, unknown methods included.

    With interceptors of our own only, that is done once for each handler. As soon as there is one of grpc.aio's, which
    choose a handler for each call, calls begin without one: every method is then served as a stream both ways, until
    the interceptors have said what it is.

    Args:
        table: the handlers.
        interceptors: as for ``lbkit.Server``.

    Raises:
        TypeError: one of them is no interceptor; or plain functions are to surround asynchronous ones.
    """

    def __init__(self, table: HandlerTable, interceptors: Iterable[object]) -> None:
        self._table = table
        self._interceptors = tuple(interceptors)
        for interceptor in self._interceptors:
            check_server(interceptor)
        self._surrounded: dict[bytes, tuple[Handler, Handler]] = {}
        self._choice: _Choice | None = None
        if any(map(_chooses, self._interceptors)):
            self._choice = _Choice(table, self._interceptors)
        else:
            self._nobody = self._surround(_refusing(table, b"", None))

    def explain(self, path: bytes, handler: Handler | None) -> str:
        """Say why a path is not served."""
        return self._table.explain(path, handler)

    def find(self, path: bytes, metadata: Callable[[], Metadata]) -> Handler | None:
        """Return what serves ``path``."""
        if self._choice is not None:
            return self._choice.handler._replace(path=path.decode("latin-1"))
        handler = self._table.find(path, metadata)
        if handler is None:
            return self._nobody._replace(path=path.decode("latin-1"))
        known = self._surrounded.get(path)
        if known is not None and known[0] is handler:
            return known[1]
        surrounded = self._surround(handler)
        if known is not None or len(self._surrounded) < _PATHS_MAX:
            self._surrounded[path] = handler, surrounded
        return surrounded

    def _surround(self, handler: Handler) -> Handler:
        if handler.behaviour is None:
            handler = _refusing(self._table, handler.path.encode("latin-1"), handler)
        for interceptor in reversed(self._interceptors):
            handler = _around(interceptor, handler)
        return handler


class _Choice:
    """Serves a call by the handler that interceptors of grpc.aio's kind choose for it."""

    def __init__(self, table: HandlerTable, interceptors: tuple[Any, ...]) -> None:
        self._table = table
        self._interceptors = interceptors
        self._plain = next((i for i, each in enumerate(interceptors) if _is_plain(each)), len(interceptors))
        for each in interceptors[self._plain :]:
            if not _is_plain(each):
                raise TypeError(
                    f"interceptors= has {each!r} behind {interceptors[self._plain]!r}, whose intercept_service is a plain"
                    f" function and cannot wait for it; put those last"
                )
        self._offered: dict[tuple[bytes, bool], tuple[Handler, MethodHandler]] = {}
        self._around: dict[tuple[bytes, int], tuple[Any, MethodHandler]] = {}
        self._conversions = Conversions()
        self.handler = Handler("", self._serve, bytes, bytes, True, True)

    async def _serve(self, requests: Any, call: Any) -> None:
        """Serve one call: the behaviour of every method."""
        path = call.method.encode("latin-1")
        found = await self._choose(0, CallDetails(call.method, call.invocation_metadata()))
        if found is None:
            await call.abort(StatusCode.UNIMPLEMENTED, self._table.explain(path, None))
        handler = self._converted(path, found)
        behaviour = handler.behaviour
        if behaviour is None:
            await call.abort(StatusCode.UNIMPLEMENTED, self._table.explain(path, handler))
            return
        call.serve_by(handler)
        request = requests if handler.streams_request else await _only(call)
        response = await (_writing(behaviour) if handler.generator else behaviour)(request, call)
        if not handler.streams_response and call.code() is StatusCode.OK:
            await call.write(response)

    async def _choose(self, index: int, details: Any) -> Any:
        """Ask the interceptors from ``index`` on for a handler."""
        if index == self._plain:
            return self._choose_at_once(index, details)
        interceptor = self._interceptors[index]
        if _chooses(interceptor):
            return await interceptor.intercept_service(partial(self._choose, index + 1), details)
        found = await self._choose(index + 1, details)
        path = details.method.encode("latin-1")
        known = self._around.get((path, index))
        if known is not None and known[0] is found:
            return known[1]
        handler = None if found is None else self._converted(path, found)
        if handler is None or handler.behaviour is None:
            handler = _refusing(self._table, path, handler)
        offered = _offered(_around(interceptor, handler))
        if known is not None or len(self._around) < _PATHS_MAX:
            self._around[path, index] = found, offered
        return offered

    def _choose_at_once(self, index: int, details: Any) -> Any:
        """Do the same where the rest are plain functions."""
        if index == len(self._interceptors):
            return self._offer(details, as_written=self._plain < index)
        following = partial(self._choose_at_once, index + 1)
        return self._interceptors[index].intercept_service(following, details)

    def _offer(self, details: Any, *, as_written: bool) -> MethodHandler | None:
        """Return the handler of the table for what an interceptor passed on."""
        path = details.method.encode("latin-1")
        handler = self._table.find(path, lambda: details.invocation_metadata)
        if handler is None or handler.behaviour is None:
            return None
        known = self._offered.get((path, as_written))
        if known is not None and known[0] is handler:
            return known[1]
        offered = _offered(handler, handler.function if as_written else None)
        if known is not None or len(self._offered) < _PATHS_MAX:
            self._offered[path, as_written] = handler, offered
        return offered

    def _converted(self, path: bytes, found: Any) -> Handler:
        known = self._offered.get((path, self._plain < len(self._interceptors)))
        return known[0] if known is not None and known[1] is found else self._conversions.convert(path, found)


def _chooses(interceptor: Any) -> bool:
    """Whether an interceptor is of grpc.aio's kind. That goes first: other libraries use ``intercept`` for more."""
    return hasattr(interceptor, "intercept_service")


def _is_plain(interceptor: Any) -> bool:
    """Whether it is of the kind of grpcio's blocking API."""
    return _chooses(interceptor) and not inspect.iscoroutinefunction(interceptor.intercept_service)


def _around(interceptor: Any, handler: Handler) -> Handler:
    """Surround a handler with an interceptor of our own kind."""
    behaviour = handler.behaviour
    assert behaviour is not None, "refused by a behaviour"
    inner = _writing(behaviour) if handler.generator else behaviour
    return handler._replace(behaviour=partial(interceptor.intercept, inner), function=None, generator=False)


def _writing(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Make a coroutine function of an asynchronous generator: one that writes the responses."""

    async def write(request: Any, context: Any) -> None:
        responses = behaviour(request, context)
        try:
            async for response in responses:
                await context.write(response)
        finally:
            await responses.aclose()  # now, and not when the collector finds it

    return write


def _refusing(table: HandlerTable, path: bytes, handler: Handler | None) -> Handler:
    """Make a handler that refuses its calls: nobody serves the method, but interceptors see the call."""

    async def refuse(_: Any, context: Any) -> None:
        text = table.explain(path or context.method.encode("latin-1"), handler)
        await context.abort(StatusCode.UNIMPLEMENTED, text)

    if handler is None:
        return Handler(path.decode("latin-1"), refuse, bytes, bytes, True, True)
    return handler._replace(behaviour=refuse)


def _offered(handler: Handler, function: Callable[[Any, Any], Any] | None = None) -> MethodHandler:
    """Show a handler as interceptors of grpc.aio's kind expect it; with its method as it was written, if given."""
    behaviours: dict[str, Any] = {handler.kind: function or handler.behaviour}
    return MethodHandler(
        handler.streams_request,
        handler.streams_response,
        handler.deserialize,
        handler.serialize,
        **behaviours,
    )


async def _only(call: Any) -> Any:
    """Return the request of a method that has one.

    Raises:
        WireFault: UNIMPLEMENTED, there is none, or another one.
    """
    request = await call.read()
    if request is EOF:
        raise WireFault(StatusCode.UNIMPLEMENTED, "no message in a unary request")
    if await call.read() is not EOF:
        raise WireFault(StatusCode.UNIMPLEMENTED, "more than one message in a unary request")
    return request
