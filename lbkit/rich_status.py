"""``google.rpc.Status``: a status with details that programs can read, in ``grpc-status-details-bin``.

On the server::

    status = rich_status.make(StatusCode.FAILED_PRECONDITION, "the shop is closed", ErrorInfo(reason="CLOSED"))
    await context.abort_with_status(rich_status.to_status(status))

On the client::

    except lbkit.RpcError as error:
        for info in rich_status.details(error, ErrorInfo): ...

It is what grpcio-status sends and reads.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from lbkit.errors import RpcError
from lbkit.metadata import Metadata
from lbkit.status import StatusCode

KEY = "grpc-status-details-bin"

M = TypeVar("M", bound=Message)


class RichStatus(NamedTuple):
    """What ``ServicerContext.abort_with_status`` takes."""

    code: StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


class Ended(Protocol):
    """A call of a channel, awaited or not."""

    async def code(self) -> Any:
        """Wait for the end; return the status code."""
        ...

    async def details(self) -> str:
        """Wait for the end; return the text."""
        ...

    async def trailing_metadata(self) -> Any:
        """Wait for the end; return what came with the status."""
        ...


def status_class() -> Any:
    """Return the class of ``google.rpc.Status``.

    That of googleapis-common-protos where it is installed, so that a program meets one class only; else lbkit's.
    """
    try:
        from google.rpc import status_pb2
    except ImportError:
        from lbkit.protos import rpc_status

        return rpc_status.Status
    return status_pb2.Status


def make(code: object, message: str = "", *details: Message) -> Any:
    """Return a ``google.rpc.Status``.

    Args:
        code: lbkit's or grpcio's, or a number.
        message: for developers, in English.
        details: any protobuf messages; those of ``google.rpc.error_details_pb2`` are understood by most tools.

    Raises:
        TypeError: that is no status code.
    """
    status = status_class()(code=StatusCode.of(code).number, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def to_status(status: Any) -> RichStatus:
    """Return what ``await context.abort_with_status(...)`` takes, of a ``google.rpc.Status`` of whichever class.

    Raises:
        TypeError: its code is a number that no status code has.
    """
    code = StatusCode.of(status.code)
    return RichStatus(code, status.message, ((KEY, status.SerializeToString()),))


def from_error(error: RpcError) -> Any:
    """Return the ``google.rpc.Status`` that came with a call's error, or None if none did.

    Raises:
        ValueError: it cannot be parsed, or says another code or text than the call's own status.
    """
    return _read(StatusCode.of(error.code()), error.details(), error.trailing_metadata())


async def from_call(call: Ended) -> Any:
    """Wait for the end of a call; return the ``google.rpc.Status`` that came with it, or None.

    Raises:
        ValueError: as ``from_error``.
    """
    return _read(StatusCode.of(await call.code()), await call.details(), await call.trailing_metadata())


def details(error: RpcError, kind: type[M]) -> list[M]:
    """Return the details of one message class that came with an error, in order; empty if there are none.

    Raises:
        ValueError: as ``from_error``, or a detail says that it is one of these, and cannot be parsed.
    """
    status = from_error(error)
    found: list[M] = []
    for each in () if status is None else status.details:
        if each.Is(kind.DESCRIPTOR):
            message = kind()
            try:
                each.Unpack(message)
            except DecodeError as wrong:
                raise ValueError(f"a {kind.DESCRIPTOR.full_name} among the details: {wrong}") from None
            found.append(message)
    return found


def _read(code: StatusCode, text: str | None, trailing: Metadata) -> Any:
    for key, value in trailing:
        if key == KEY:
            try:
                status = status_class().FromString(value)
            except DecodeError as error:
                raise ValueError(f"{KEY} holds no google.rpc.Status: {error}") from None
            if status.code != code.number:
                raise ValueError(f"{KEY} says code {status.code}, the call ended with {code.name}")
            if status.message != (text or ""):
                raise ValueError(f"{KEY} says {status.message!r}, the call ended with {text!r}")
            return status
    return None
