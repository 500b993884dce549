"""Metadata: the ordered key-value pairs that travel with a call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import SupportsIndex, TypeAlias, cast, overload

Value: TypeAlias = str | bytes
Pair: TypeAlias = tuple[str, Value]

# What the API accepts wherever metadata goes in.
MetadataLike: TypeAlias = "Metadata | Iterable[tuple[str, Value]] | Mapping[str, Value]"


class Metadata(tuple[Pair, ...]):
    """Pairs in the order of the wire; a key may come several times. Keys that end in ``-bin`` carry bytes.

    It is a tuple of pairs, as grpcio's blocking API gives, and answers look-ups by key, as grpc.aio's does:
    ``md["x-id"]`` is the first value, ``md[0]`` the first pair.
    """

    __slots__ = ()

    @overload
    def __getitem__(self, key: str) -> Value: ...
    @overload
    def __getitem__(self, key: SupportsIndex) -> Pair: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Pair, ...]: ...
    # It takes what a tuple takes, and text; pyright would have the overloads of tuple and no more.
    def __getitem__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key: str | SupportsIndex | slice
    ) -> Value | Pair | tuple[Pair, ...]:
        """Return the first value of a key, or the pair at an index.

        Raises:
            KeyError: no pair has that key.
        """
        if isinstance(key, str):
            for name, value in self:
                if name == key:
                    return value
            raise KeyError(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Value | None = None) -> Value | None:
        """Return the first value of ``key``, or ``default``."""
        for name, value in self:
            if name == key:
                return value
        return default

    def get_all(self, key: str) -> list[Value]:
        """Return all values of ``key`` in order; an empty list if there is none."""
        return [value for name, value in self if name == key]

    def __contains__(self, item: object) -> bool:
        if isinstance(item, str):
            return any(name == item for name, _ in self)
        return super().__contains__(item)

    def __repr__(self) -> str:
        return f"Metadata({super().__repr__()})"


EMPTY = Metadata()


def pairs(metadata: MetadataLike) -> Iterable[Pair]:
    """Return the pairs of whatever the API accepts as metadata, in order."""
    if isinstance(metadata, Mapping):
        return cast(Mapping[str, Value], metadata).items()
    return metadata
