"""Stubs made from descriptors at run time."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lbkit.descriptors import methods_of

if TYPE_CHECKING:
    from lbkit.channel import Channel


class Stub:
    """One attribute for each method of a service: what ``channel.stub`` returns. Untyped."""

    def __init__(self, service: str, methods: dict[str, Any]) -> None:
        self._service = service
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        # Only called for what is not there; declared so that type checkers let methods through.
        known = ", ".join(key for key in self.__dict__ if not key.startswith("_"))
        raise AttributeError(f"service {self.__dict__['_service']} has no method {name!r}. It has: {known}")

    def __repr__(self) -> str:
        return f"<stub of {self._service}>"


def make_stub(channel: Channel, pb2: ModuleType, service: str | None, codec: str | None) -> Stub:
    """Make a stub for a service of a ``_pb2`` module; see ``Channel.stub``."""
    full_name, methods = methods_of(pb2, service)
    kinds: dict[tuple[bool, bool], Callable[..., Any]] = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    return Stub(
        full_name,
        {
            method.name: kinds[method.streams_request, method.streams_response](
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString if codec is None else method.response,
                codec=codec,
            )
            for method in methods
        },
    )
