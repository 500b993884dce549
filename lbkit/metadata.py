"""Metadata: the ordered key-value pairs that travel with a call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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


class MutableMetadata:
    """Metadata that can be changed, with the methods of ``grpc.aio.Metadata``: what client interceptors are given.

    Iterating gives the pairs in order. ``metadata["x-id"]`` is the first value of a key.
    """

    __slots__ = ("_pairs",)

    def __init__(self, *pairs: Pair) -> None:
        self._pairs: list[Pair] = list(pairs)

    def add(self, key: str, value: Value) -> None:
        """Append a pair; the key may be there already."""
        self._pairs.append((key, value))

    def get(self, key: str, default: Value | None = None) -> Value | None:
        """Return the first value of ``key``, or ``default``."""
        return next((value for name, value in self._pairs if name == key), default)

    def get_all(self, key: str) -> list[Value]:
        """Return all values of ``key`` in order; an empty list if there is none."""
        return [value for name, value in self._pairs if name == key]

    def set_all(self, key: str, values: Iterable[Value]) -> None:
        """Replace all values of ``key``."""
        self._pairs = [pair for pair in self._pairs if pair[0] != key] + [(key, value) for value in values]

    def delete_all(self, key: str) -> None:
        """Remove all values of ``key``.

        Raises:
            KeyError: there are none.
        """
        self._index(key)
        self._pairs = [pair for pair in self._pairs if pair[0] != key]

    def keys(self) -> list[str]:
        """Return the keys, each once."""
        return list(dict.fromkeys(name for name, _ in self._pairs))

    def values(self) -> list[list[Value]]:
        """Return the values of each key."""
        return [self.get_all(key) for key in self.keys()]

    def items(self) -> list[tuple[str, list[Value]]]:
        """Return each key with its values."""
        return [(key, self.get_all(key)) for key in self.keys()]

    def __getitem__(self, key: str) -> Value:
        return self._pairs[self._index(key)][1]

    def __setitem__(self, key: str, value: Value) -> None:
        if key in self:
            self._pairs[self._index(key)] = key, value
        else:
            self.add(key, value)

    def __delitem__(self, key: str) -> None:
        del self._pairs[self._index(key)]

    def __contains__(self, key: object) -> bool:
        return any(name == key for name, _ in self._pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __add__(self, other: Iterable[Pair]) -> MutableMetadata:
        return MutableMetadata(*self._pairs, *other)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, tuple | MutableMetadata):
            return tuple(self) == tuple(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"MutableMetadata({tuple(self._pairs)!r})"

    def _index(self, key: str) -> int:
        for index, (name, _) in enumerate(self._pairs):
            if name == key:
                return index
        raise KeyError(key)


def pairs(metadata: MetadataLike) -> Iterable[Pair]:
    """Return the pairs of whatever the API accepts as metadata, in order."""
    if isinstance(metadata, Mapping):
        return cast(Mapping[str, Value], metadata).items()
    return metadata
