"""The sending half of HPACK (RFC 7541)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from lbkit.http2.hpack import (
    DEFAULT_TABLE_SIZE,
    ENTRY_OVERHEAD,
    INDEXED,
    INDEXED_MASK,
    INSERTING,
    INSERTING_MASK,
    LAST_STATIC,
    LENGTH_MASK,
    LITERAL_MASK,
    NEVER_INDEXED,
    NOT_INDEXED,
    SENSITIVE_NAMES,
    SIZE_UPDATE,
    SIZE_UPDATE_MASK,
    STATIC_INDEX,
    STATIC_NAME,
    Field,
    Prefix,
)

# Bounds of the caches. All are per connection, so they are sized for an idle one to stay small.
_MAX_PREFIXES = 256
_MAX_NAMES = 256
_MAX_NAME = 64

_LENGTHS = tuple(bytes((length,)) for length in range(LENGTH_MASK))


class Encoder:
    """The sending half of a connection's HPACK state. Blocks must go out in the order of `encode` calls.

    An insertion never evicts: where it would, the field goes out as a literal. So with more methods than fit the
    table the first ones stay cheap, where eviction would make all of them expensive in turn.

    Attributes:
        generation: counts changes of the dynamic table.
    """

    def __init__(self, max_table_size: int = DEFAULT_TABLE_SIZE) -> None:
        self.generation = 0
        self._limit = min(max_table_size, DEFAULT_TABLE_SIZE)
        self._lowest: int | None = None  # smallest limit since the last block, None: no size update to send
        self._size = 0
        self._table: deque[Field] = deque()  # oldest first
        self._indexes: dict[Field, int] = {}  # field -> how many insertions were made before its own
        self._insertions = 0  # insertions made, evicted ones included
        self._prefixes: dict[Prefix, bytes] = {}
        self._heads: dict[bytes, bytes] = {}

    def resize(self, max_table_size: int) -> None:
        """Take over the peer's SETTINGS_HEADER_TABLE_SIZE; the next block tells the peer's decoder (RFC 7541 4.2)."""
        limit = min(max_table_size, DEFAULT_TABLE_SIZE)
        if limit == self._limit:
            return
        self._lowest = limit if self._lowest is None else min(limit, self._lowest)
        self._limit = limit
        while self._size > limit:
            name, value = field = self._table.popleft()
            del self._indexes[field]
            self._size -= len(name) + len(value) + ENTRY_OVERHEAD
        self._changed()

    def encode(self, prefix: Prefix | None, fields: Iterable[Field] = ()) -> bytes:
        """Return the block of the prefix's fields, then `fields`: those are not indexed, for they change per call.

        An exception (a value that is not bytes) leaves the state as it was.
        """
        heads = self._heads
        parts: list[bytes] = []
        append = parts.append
        for name, value in fields:
            append(heads.get(name) or self._head(name))
            length = len(value)
            append(_LENGTHS[length] if length < LENGTH_MASK else _integer(length, 0, LENGTH_MASK))
            append(value)
        # Joined before the table changes: a value of the wrong type must fail while the peer's table is still ours.
        block = b"".join(parts)
        if prefix is not None:
            block = (self._prefixes.get(prefix) or self._encode_prefix(prefix)) + block
        if self._lowest is not None:
            block = self._size_updates(self._lowest) + block
        return block

    def _head(self, name: bytes) -> bytes:
        first_byte = NEVER_INDEXED if name in SENSITIVE_NAMES else NOT_INDEXED
        head = _literal_name(name, first_byte, LITERAL_MASK)
        if len(name) <= _MAX_NAME:
            if len(self._heads) >= _MAX_NAMES:
                self._heads.clear()
            self._heads[name] = head
        return head

    def _encode_prefix(self, prefix: Prefix) -> bytes:
        before = self.generation
        encoded = b"".join([self._encode_constant(field) for field in prefix.fields])
        # Bytes that insert are right only once, and bytes with a secret are not to be kept.
        if self.generation == before and not any(name in SENSITIVE_NAMES for name, _ in prefix.fields):
            if len(self._prefixes) >= _MAX_PREFIXES:
                self._prefixes.clear()
            self._prefixes[prefix] = encoded
        return encoded

    def _encode_constant(self, field: Field) -> bytes:
        name, value = field
        if name in SENSITIVE_NAMES:
            return self._head(name) + _literal_value(value)
        index = STATIC_INDEX.get(field)
        if index is not None:
            return _integer(index, INDEXED, INDEXED_MASK)
        insertion = self._indexes.get(field)
        if insertion is not None:
            return _integer(LAST_STATIC + self._insertions - insertion, INDEXED, INDEXED_MASK)
        size = len(name) + len(value) + ENTRY_OVERHEAD
        if self._size + size > self._limit:
            return self._head(name) + _literal_value(value)
        self._table.append(field)
        self._indexes[field] = self._insertions
        self._insertions += 1
        self._size += size
        self._changed()
        return _literal_name(name, INSERTING, INSERTING_MASK) + _literal_value(value)

    def _size_updates(self, lowest: int) -> bytes:
        self._lowest = None
        final = _integer(self._limit, SIZE_UPDATE, SIZE_UPDATE_MASK)
        if lowest == self._limit:
            return final
        return _integer(lowest, SIZE_UPDATE, SIZE_UPDATE_MASK) + final

    def _changed(self) -> None:
        self.generation += 1
        self._prefixes.clear()


def _integer(value: int, first_byte: int, mask: int) -> bytes:
    """Encode an integer after the representation bits of `first_byte` (RFC 7541 5.1)."""
    if value < mask:
        return bytes((first_byte | value,))
    encoded = bytearray((first_byte | mask,))
    value -= mask
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _literal_name(name: bytes, first_byte: int, mask: int) -> bytes:
    """Encode the start of a literal field up to its value: kind, then the name by static index or in full."""
    index = STATIC_NAME.get(name)
    if index is not None:
        return _integer(index, first_byte, mask)
    return b"%c%b%b" % (first_byte, _integer(len(name), 0, LENGTH_MASK), name)


def _literal_value(value: bytes) -> bytes:
    return _integer(len(value), 0, LENGTH_MASK) + value
