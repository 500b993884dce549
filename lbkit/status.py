"""gRPC status codes, and the pair of a code and its text.

Source: https://grpc.github.io/grpc/core/md_doc_statuscodes.html and the gRPC over HTTP/2 protocol.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class ForeignEnum(enum.Enum):
    """An enum whose members equal same-named members, with the same value, of another library's enum.

    grpcio's ``StatusCode`` and ``ChannelConnectivity`` and ours then compare equal in both directions and
    find each other in dicts and sets. Only ``is`` tells them apart.
    """

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, enum.Enum) and type(other).__name__ in _TWINS.get(type(self).__name__, ()):
            return self.name == other.name and self.value == other.value
        return NotImplemented

    __hash__ = enum.Enum.__hash__


# Our class name -> names of the classes whose members may equal ours.
_TWINS = {
    "StatusCode": ("StatusCode",),
    "ConnectivityState": ("ConnectivityState", "ChannelConnectivity"),
}


class StatusCode(ForeignEnum):
    """The seventeen codes a call can end with; the values are grpcio's: (number, text)."""

    OK = (0, "ok")
    CANCELLED = (1, "cancelled")
    UNKNOWN = (2, "unknown")
    INVALID_ARGUMENT = (3, "invalid argument")
    DEADLINE_EXCEEDED = (4, "deadline exceeded")
    NOT_FOUND = (5, "not found")
    ALREADY_EXISTS = (6, "already exists")
    PERMISSION_DENIED = (7, "permission denied")
    RESOURCE_EXHAUSTED = (8, "resource exhausted")
    FAILED_PRECONDITION = (9, "failed precondition")
    ABORTED = (10, "aborted")
    OUT_OF_RANGE = (11, "out of range")
    UNIMPLEMENTED = (12, "unimplemented")
    INTERNAL = (13, "internal")
    UNAVAILABLE = (14, "unavailable")
    DATA_LOSS = (15, "data loss")
    UNAUTHENTICATED = (16, "unauthenticated")

    def __init__(self, number: int, text: str) -> None:
        self.number = number  # on the wire; an attribute, as ``value[0]`` costs two descriptor calls
        self.text = text

    @classmethod
    def of(cls, code: object) -> StatusCode:
        """Return our member for ours, grpcio's, or a number.

        Raises:
            TypeError: ``code`` is none of these, or a number that no code has.
        """
        if isinstance(code, cls):
            return code
        if isinstance(code, int) and 0 <= code < len(BY_NUMBER):
            return BY_NUMBER[code]
        if isinstance(code, enum.Enum):
            ours = cls.__members__.get(code.name)
            if ours is not None and ours == code:
                return ours
        raise TypeError(f"{code!r} is not a status code; use a member of lbkit.StatusCode")


BY_NUMBER: tuple[StatusCode, ...] = tuple(StatusCode)


class Status(NamedTuple):
    """How something ended: a code and a text for people."""

    code: StatusCode
    details: str = ""
