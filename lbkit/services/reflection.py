"""grpc.reflection v1 and v1alpha: tools such as grpcurl, grpcui and Postman ask a server what it serves.

::

    reflection.add(server)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from lbkit.protos import POOL
from lbkit.protos import reflection as v1
from lbkit.protos import reflection_v1alpha as v1alpha
from lbkit.server import Server
from lbkit.service import ServicerContext
from lbkit.status import StatusCode


class Reflection:
    """The servicer of one version; what differs between the two is the classes of messages only.

    Args:
        server: whose services are listed, those that are added later included.
        pb: the version's messages.
        pools: where descriptors are looked for, in this order.
    """

    def __init__(self, server: Server, pb: Any, pools: tuple[DescriptorPool, ...]) -> None:
        self._server = server
        self._pb = pb
        self._pools = pools

    async def ServerReflectionInfo(  # noqa: N802  # as in the .proto
        self, requests: AsyncIterator[Any], context: ServicerContext
    ) -> AsyncIterator[Any]:
        """Answer each question. What one answer has told of imported files, the next does not repeat."""
        sent: set[str] = set()
        async for request in requests:
            yield self._answer(request, sent)

    def _answer(self, request: Any, sent: set[str]) -> Any:
        pb, kind = self._pb, request.WhichOneof("message_request")
        answer = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            if kind == "list_services":
                names = self._server.service_names()
                answer.list_services_response.service.extend(pb.ServiceResponse(name=name) for name in names)
            elif kind == "all_extension_numbers_of_type":
                numbers = answer.all_extension_numbers_response
                numbers.base_type_name = request.all_extension_numbers_of_type
                numbers.extension_number.extend(self._extensions(request.all_extension_numbers_of_type))
            elif kind is None:
                answer.error_response.error_code = StatusCode.INVALID_ARGUMENT.number
                answer.error_response.error_message = "the request asks for nothing that is known here"
            else:
                files = with_imports(self._file(kind, getattr(request, kind)), sent)
                answer.file_descriptor_response.file_descriptor_proto.extend(files)
        except KeyError as error:
            answer.error_response.error_code = StatusCode.NOT_FOUND.number
            answer.error_response.error_message = str(error.args[0])
        return answer

    def _file(self, kind: str, asked: Any) -> FileDescriptor:
        """Return the file that a request asks for.

        Raises:
            KeyError: no pool has it.
        """
        for pool in self._pools:
            try:
                if kind == "file_by_filename":
                    return pool.FindFileByName(asked)
                if kind == "file_containing_symbol":
                    return _containing(pool, asked)
                message = pool.FindMessageTypeByName(asked.containing_type)
                extension = pool.FindExtensionByNumber(message, asked.extension_number)
                return pool.FindFileContainingSymbol(extension.full_name)
            except KeyError:
                continue
        if kind == "file_containing_extension":
            asked = f"extension {asked.extension_number} of {asked.containing_type}"
        raise KeyError(f"no descriptor of {asked} here")

    def _extensions(self, name: str) -> list[int]:
        """Return the numbers of a message type's extensions, of all pools together.

        Raises:
            KeyError: no pool has the type.
        """
        numbers: set[int] = set()
        known = False
        for pool in self._pools:
            try:
                message = pool.FindMessageTypeByName(name)
            except KeyError:
                continue
            known = True
            numbers.update(extension.number for extension in pool.FindAllExtensions(message))
        if not known:
            raise KeyError(f"no descriptor of {name} here")
        return sorted(numbers)


def _containing(pool: DescriptorPool, symbol: str) -> FileDescriptor:
    """Return the file that a symbol is defined in, methods and fields included, which pools do not count as such.

    Raises:
        KeyError: the pool has none.
    """
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:
        parent, _, name = symbol.rpartition(".")
        file = pool.FindFileContainingSymbol(parent)
        short = parent.removeprefix(f"{file.package}.")
        service = file.services_by_name.get(short)
        if service is not None and name in service.methods_by_name:
            return file
        if name in pool.FindMessageTypeByName(parent).fields_by_name:
            return file
        raise


def with_imports(file: FileDescriptor, sent: set[str]) -> Iterator[bytes]:
    """Give a file, and those it imports, directly or not, that are not among ``sent``; adds them there."""
    sent.add(file.name)
    queue = [file]
    for each in queue:  # which grows meanwhile
        yield each.serialized_pb
        for imported in each.dependencies:
            if imported.name not in sent:
                sent.add(imported.name)
                queue.append(imported)


def add(server: Server, *pools: DescriptorPool) -> None:
    """Serve grpc.reflection.v1 and v1alpha on a server.

    Of a service that was added by name only, and whose descriptor is in none of the pools, the name is listed.

    Args:
        server: before it is started.
        pools: descriptor pools of the program's own; protobuf's default one and lbkit's are looked through anyhow.
    """
    pools = (*pools, descriptor_pool.Default(), POOL)
    versions: tuple[ModuleType, ...] = (v1, v1alpha)
    for pb in versions:
        server.add(pb, "ServerReflection", Reflection(server, pb, pools))
