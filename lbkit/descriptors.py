"""Services as ``_pb2`` modules describe them: names, paths and message classes, without a plug-in of protoc."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

from lbkit.suggest import did_you_mean


class Method(NamedTuple):
    """One method of a service.

    Attributes:
        name: ``SayHello``.
        path: ``/helloworld.Greeter/SayHello``.
        request: the request's message class.
        response: the response's message class.
        streams_request: whether the client sends a stream.
        streams_response: whether the server answers with one.
    """

    name: str
    path: str
    request: Any
    response: Any
    streams_request: bool
    streams_response: bool


def methods_of(pb2: ModuleType, service: str | None) -> tuple[str, list[Method]]:
    """Return a service's full name and its methods.

    Args:
        pb2: a module with a file ``DESCRIPTOR``.
        service: the service's short or full name; None if the module has only one.

    Raises:
        LookupError: no such service, or several and no name; says which there are.
        TypeError: ``pb2`` has no DESCRIPTOR: it is no ``_pb2`` module.
    """
    # Imported here: making stubs from descriptors needs it, ``import lbkit`` should not pay for it.
    from google.protobuf.message_factory import GetMessageClass

    file = getattr(pb2, "DESCRIPTOR", None)
    if file is None or not hasattr(file, "services_by_name"):
        raise TypeError(f"{pb2!r} is not a module that protoc wrote; pass the one whose name ends in _pb2")
    services = file.services_by_name
    if service is None and len(services) == 1:
        service = next(iter(services))
    short = (service or "").removeprefix(f"{file.package}.")
    if short not in services:
        known = ", ".join(services) or "none"
        asked = f"no service {service!r} in" if service else "say which service of"
        raise LookupError(f"{asked} {file.name}.{did_you_mean(short, services)} It has: {known}")
    found = services[short]
    return found.full_name, [
        Method(
            method.name,
            f"/{found.full_name}/{method.name}",
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            method.client_streaming,
            method.server_streaming,
        )
        for method in found.methods
    ]
