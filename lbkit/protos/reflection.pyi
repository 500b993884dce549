from collections.abc import Iterable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

class ServerReflectionRequest(Message):
    host: str
    file_by_filename: str
    file_containing_symbol: str
    @property
    def file_containing_extension(self) -> ExtensionRequest: ...
    all_extension_numbers_of_type: str
    list_services: str
    def __init__(
        self,
        *,
        host: str = ...,
        file_by_filename: str = ...,
        file_containing_symbol: str = ...,
        file_containing_extension: ExtensionRequest | None = ...,
        all_extension_numbers_of_type: str = ...,
        list_services: str = ...,
    ) -> None: ...

class ExtensionRequest(Message):
    containing_type: str
    extension_number: int
    def __init__(self, *, containing_type: str = ..., extension_number: int = ...) -> None: ...

class ServerReflectionResponse(Message):
    valid_host: str
    @property
    def original_request(self) -> ServerReflectionRequest: ...
    @property
    def file_descriptor_response(self) -> FileDescriptorResponse: ...
    @property
    def all_extension_numbers_response(self) -> ExtensionNumberResponse: ...
    @property
    def list_services_response(self) -> ListServiceResponse: ...
    @property
    def error_response(self) -> ErrorResponse: ...
    def __init__(
        self,
        *,
        valid_host: str = ...,
        original_request: ServerReflectionRequest | None = ...,
        file_descriptor_response: FileDescriptorResponse | None = ...,
        all_extension_numbers_response: ExtensionNumberResponse | None = ...,
        list_services_response: ListServiceResponse | None = ...,
        error_response: ErrorResponse | None = ...,
    ) -> None: ...

class FileDescriptorResponse(Message):
    file_descriptor_proto: RepeatedScalarFieldContainer[bytes]
    def __init__(self, *, file_descriptor_proto: Iterable[bytes] = ...) -> None: ...

class ExtensionNumberResponse(Message):
    base_type_name: str
    extension_number: RepeatedScalarFieldContainer[int]
    def __init__(self, *, base_type_name: str = ..., extension_number: Iterable[int] = ...) -> None: ...

class ListServiceResponse(Message):
    service: RepeatedCompositeFieldContainer[ServiceResponse]
    def __init__(self, *, service: Iterable[ServiceResponse] = ...) -> None: ...

class ServiceResponse(Message):
    name: str
    def __init__(self, *, name: str = ...) -> None: ...

class ErrorResponse(Message):
    error_code: int
    error_message: str
    def __init__(self, *, error_code: int = ..., error_message: str = ...) -> None: ...
