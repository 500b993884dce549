"""What reading gives at the end of a stream."""

from __future__ import annotations

from typing import Final, final


@final
class EndOfStream:
    """The type of ``EOF``, which is false, and equals ``grpc.aio.EOF``."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return self is other or type(other).__name__ == "_EOF"

    def __hash__(self) -> int:
        return hash("EOF")

    def __repr__(self) -> str:
        return "EOF"


EOF: Final = EndOfStream()
