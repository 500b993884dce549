"""Method handlers and generic handlers as generated code makes them for a server."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

Behaviour: TypeAlias = Callable[[Any, Any], Any]
Deserialize: TypeAlias = Callable[[bytes], Any]
Serialize: TypeAlias = Callable[[Any], bytes]


class RpcMethodHandler(NamedTuple):
    """How one method is served; the one behaviour that is not None goes with the two flags."""

    request_streaming: bool
    response_streaming: bool
    request_deserializer: Deserialize | None
    response_serializer: Serialize | None
    unary_unary: Behaviour | None = None
    unary_stream: Behaviour | None = None
    stream_unary: Behaviour | None = None
    stream_stream: Behaviour | None = None


def unary_unary_rpc_method_handler(
    behavior: Behaviour,
    request_deserializer: Deserialize | None = None,
    response_serializer: Serialize | None = None,
) -> RpcMethodHandler:
    """Make the handler of a method with one request and one response."""
    return RpcMethodHandler(False, False, request_deserializer, response_serializer, unary_unary=behavior)


def unary_stream_rpc_method_handler(
    behavior: Behaviour,
    request_deserializer: Deserialize | None = None,
    response_serializer: Serialize | None = None,
) -> RpcMethodHandler:
    """Make the handler of a method that streams responses."""
    return RpcMethodHandler(False, True, request_deserializer, response_serializer, unary_stream=behavior)


def stream_unary_rpc_method_handler(
    behavior: Behaviour,
    request_deserializer: Deserialize | None = None,
    response_serializer: Serialize | None = None,
) -> RpcMethodHandler:
    """Make the handler of a method that streams requests."""
    return RpcMethodHandler(True, False, request_deserializer, response_serializer, stream_unary=behavior)


def stream_stream_rpc_method_handler(
    behavior: Behaviour,
    request_deserializer: Deserialize | None = None,
    response_serializer: Serialize | None = None,
) -> RpcMethodHandler:
    """Make the handler of a method that streams both."""
    return RpcMethodHandler(True, True, request_deserializer, response_serializer, stream_stream=behavior)


class HandlerCallDetails(Protocol):
    """What a generic handler is asked with."""

    @property
    def method(self) -> str:
        """``/package.Service/Method``."""
        ...

    @property
    def invocation_metadata(self) -> Any:
        """What the client sent with the call."""
        ...


class GenericRpcHandler(abc.ABC):
    """Knows handlers by the path of a call."""

    @abc.abstractmethod
    def service(self, handler_call_details: HandlerCallDetails) -> RpcMethodHandler | None:
        """Return who serves this call, or None."""


class ServiceRpcHandler(GenericRpcHandler):
    """Knows the handlers of one service."""

    @abc.abstractmethod
    def service_name(self) -> str:
        """Return the full name of the service."""


class _Methods(ServiceRpcHandler):
    """The methods of one service, by name."""

    def __init__(self, service: str, method_handlers: Mapping[str, RpcMethodHandler]) -> None:
        self._service = service
        self._handlers = {f"/{service}/{name}": handler for name, handler in method_handlers.items()}

    def service_name(self) -> str:
        """Return the full name of the service."""
        return self._service

    def service(self, handler_call_details: HandlerCallDetails) -> RpcMethodHandler | None:
        """Return who serves this call, or None."""
        return self._handlers.get(handler_call_details.method)


def method_handlers_generic_handler(
    service: str, method_handlers: Mapping[str, RpcMethodHandler]
) -> GenericRpcHandler:
    """Make the generic handler of a service."""
    return _Methods(service, method_handlers)
