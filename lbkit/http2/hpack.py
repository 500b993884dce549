"""HPACK, the header compression of HTTP/2 (RFC 7541), shaped for the traffic of RPC calls.

Most of a call's header block is the same for every call of a method, the rest (deadline, trace ids) is new each time.
So the encoder indexes a `Prefix` of constant fields and sends the rest as plain literals, and the decoder remembers
runs of indexed fields and whole blocks for as long as the dynamic table does not change. Pure: bytes in, bytes out.

    CompressionError        COMPRESSION_ERROR: the peer broke the format, the connection is lost
    HeaderListTooLarge      the stream is refused, the connection lives on
    HeaderListAbusive       ENHANCE_YOUR_CALM: the connection is lost
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from lbkit.http2 import huffman

Field = tuple[bytes, bytes]

DEFAULT_TABLE_SIZE = 4096  # RFC 9113 6.5.2
ENTRY_OVERHEAD = 32  # RFC 7541 4.1
MAX_INTEGER = 1 << 32
MAX_CONTINUATION_BYTES = 5
# An intermediary must not index them either (RFC 7541 7.1.3): their values leave no trace in a table or a cache.
SENSITIVE_NAMES = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"))

# Bounds of the caches. All are per connection, so they are sized for an idle one to stay small.
_MAX_PREFIXES = 256
_MAX_NAMES = 256
_MAX_STRINGS = 128
_MAX_STRING = 64
_MAX_RUNS = 64
_MAX_RUN = 64
_MAX_BLOCKS = 64
_MAX_BLOCK = 512

# RFC 7541 Appendix A. Indexes start at 1.
_STATIC: tuple[Field, ...] = (
    (b"", b""),
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    *((b":status", status) for status in b"200 204 206 304 400 404 500".split()),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    *(
        (name, b"")
        for name in b"""accept-language accept-ranges accept access-control-allow-origin age allow authorization
        cache-control content-disposition content-encoding content-language content-length content-location
        content-range content-type cookie date etag expect expires from host if-match if-modified-since
        if-none-match if-range if-unmodified-since last-modified link location max-forwards proxy-authenticate
        proxy-authorization range referer refresh retry-after server set-cookie strict-transport-security
        transfer-encoding user-agent vary via www-authenticate""".split()
    ),
)
_LAST_STATIC = 61
_STATIC_INDEX: dict[Field, int] = {field: index for index, field in enumerate(_STATIC) if index}
# Of the indexes that share a name the first: it may fit the prefix of the first byte.
_STATIC_NAME: dict[bytes, int] = {_STATIC[index][0]: index for index in range(_LAST_STATIC, 0, -1)}

# First byte of each representation, and the bits of it that hold the index or size (RFC 7541 6).
_INDEXED, _INDEXED_MASK = 0x80, 0x7F
_INSERTING, _INSERTING_MASK = 0x40, 0x3F
_SIZE_UPDATE, _SIZE_UPDATE_MASK = 0x20, 0x1F
_NEVER_INDEXED, _NOT_INDEXED, _LITERAL_MASK = 0x10, 0x00, 0x0F
_NAME_IN_FULL = frozenset((_NOT_INDEXED, _NEVER_INDEXED, _INSERTING))
_HUFFMAN, _LENGTH_MASK = 0x80, 0x7F

_ONE_BYTE_INDEXED = bytes(range(_INDEXED + 1, 0xFF))
_LENGTHS = tuple(bytes((length,)) for length in range(_LENGTH_MASK))


class CompressionError(Exception):
    """A block cannot be decoded: a connection error COMPRESSION_ERROR (RFC 9113 4.3). The table state is lost."""


class HeaderListTooLarge(Exception):
    """A block decodes to more than the soft limit. The table is up to date: refuse the stream, keep the connection.

    Attributes:
        size: decoded size in bytes (RFC 9113 6.5.2).
        limit: the soft limit in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"header list of {size} bytes, limit is {limit}")
        self.size = size
        self.limit = limit


class HeaderListAbusive(Exception):
    """A block decodes to more than the hard limit: a connection error ENHANCE_YOUR_CALM. The table state is lost."""


class Prefix:
    """A constant run of header fields that many blocks share.

    Make one per method and keep it: the encoder's cache knows it by identity, so that a look-up costs no comparison
    of fields. An equal but new object is encoded again.

    Raises:
        TypeError: a name or value is not `bytes`. (Found here, for half a block encoded would ruin the table.)
    """

    __slots__ = ("fields",)

    def __init__(self, fields: Iterable[Field]) -> None:
        self.fields: tuple[Field, ...] = tuple(fields)
        for name, value in self.fields:
            if type(name) is not bytes or type(value) is not bytes:
                raise TypeError(f"header field {name!r}: name and value must be bytes")


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
    index = _STATIC_NAME.get(name)
    if index is not None:
        return _integer(index, first_byte, mask)
    return b"%c%b%b" % (first_byte, _integer(len(name), 0, _LENGTH_MASK), name)


def _literal_value(value: bytes) -> bytes:
    return _integer(len(value), 0, _LENGTH_MASK) + value


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
            append(_LENGTHS[length] if length < _LENGTH_MASK else _integer(length, 0, _LENGTH_MASK))
            append(value)
        # Joined before the table changes: a value of the wrong type must fail while the peer's table is still ours.
        block = b"".join(parts)
        if prefix is not None:
            block = (self._prefixes.get(prefix) or self._encode_prefix(prefix)) + block
        if self._lowest is not None:
            block = self._size_updates(self._lowest) + block
        return block

    def _head(self, name: bytes) -> bytes:
        first_byte = _NEVER_INDEXED if name in SENSITIVE_NAMES else _NOT_INDEXED
        head = _literal_name(name, first_byte, _LITERAL_MASK)
        if len(name) <= _MAX_STRING:
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
        index = _STATIC_INDEX.get(field)
        if index is not None:
            return _integer(index, _INDEXED, _INDEXED_MASK)
        insertion = self._indexes.get(field)
        if insertion is not None:
            return _integer(_LAST_STATIC + self._insertions - insertion, _INDEXED, _INDEXED_MASK)
        size = len(name) + len(value) + ENTRY_OVERHEAD
        if self._size + size > self._limit:
            return self._head(name) + _literal_value(value)
        self._table.append(field)
        self._indexes[field] = self._insertions
        self._insertions += 1
        self._size += size
        self._changed()
        return _literal_name(name, _INSERTING, _INSERTING_MASK) + _literal_value(value)

    def _size_updates(self, lowest: int) -> bytes:
        self._lowest = None
        final = _integer(self._limit, _SIZE_UPDATE, _SIZE_UPDATE_MASK)
        if lowest == self._limit:
            return final
        return _integer(lowest, _SIZE_UPDATE, _SIZE_UPDATE_MASK) + final

    def _changed(self) -> None:
        self.generation += 1
        self._prefixes.clear()


class Decoder:
    """The receiving half of a connection's HPACK state. Feed it every block, in the order received.

    Args:
        max_table_size: the SETTINGS_HEADER_TABLE_SIZE that we advertise. Below the default of 4096 it must be known to
            the peer before its first block; above, the table grows when the peer asks for it.
        soft_limit: decoded size in bytes above which a block is refused.
        hard_limit: decoded size in bytes above which the connection is.

    Attributes:
        generation: counts changes of the dynamic table.
    """

    def __init__(
        self, *, max_table_size: int = DEFAULT_TABLE_SIZE, soft_limit: int = 16384, hard_limit: int = 65536
    ) -> None:
        self.generation = 0
        self._max_limit = max_table_size
        self._limit = min(max_table_size, DEFAULT_TABLE_SIZE)
        self._soft_limit = soft_limit
        self._hard_limit = hard_limit
        self._size = 0
        self._table: list[Field] = []  # oldest first: index 62 is the last
        self._names: dict[bytes, bytes] = {}  # plain names, to share one object (and its hash) per name
        self._strings: dict[bytes, bytes] = {}  # Huffman-encoded -> decoded
        self._runs: dict[bytes, tuple[list[Field], int]] = {}  # one-byte indexes -> fields, decoded size
        self._blocks: dict[bytes, tuple[Field, ...]] = {}
        self._seen: set[int] = set()  # hashes of blocks met once; a block is kept when it comes again

    def decode(self, block: bytes) -> tuple[Field, ...]:  # noqa: PLR0915 - a call per field would double the cost
        """Return the fields of a whole block (HEADERS and its CONTINUATIONs joined).

        The caller bounds the length of the block; this bounds what comes out of it.

        Raises:
            CompressionError: the block is malformed.
            HeaderListTooLarge: the fields pass the soft limit.
            HeaderListAbusive: the fields pass the hard limit.
        """
        end = len(block)
        pos = size = updates = 0
        fields: list[Field] = []
        short = end <= _MAX_BLOCK
        if short:
            known = self._blocks.get(block)
            if known is not None:
                return known
            pos = end - len(block.lstrip(_ONE_BYTE_INDEXED))
            if pos:
                run = self._runs.get(block[:pos]) or self._learn_run(block[:pos])
                if run is None:
                    pos = 0
                else:
                    fields, size = run[0].copy(), run[1]
        append = fields.append
        generation = self.generation
        soft_limit = self._soft_limit
        table = self._table
        names = self._names
        secret = False
        start = pos
        name, value = field = _STATIC[0]  # only for the type checkers: no path reads it
        try:
            while pos < end:
                start = pos
                kind = block[pos]
                if kind in _NAME_IN_FULL:
                    # The name in full: first, for most fields that change are of this kind.
                    if (length := block[pos + 1]) < _LENGTH_MASK:
                        pos += 2 + length
                        name = block[start + 2 : pos]
                        name = names.get(name) or self._learn_name(name)
                    else:
                        name, pos = self._string(block, pos + 1, True)
                else:
                    if kind >= _INDEXED:
                        mask = _INDEXED_MASK
                    elif kind >= _INSERTING:
                        mask = _INSERTING_MASK
                    elif kind < _SIZE_UPDATE:
                        mask = _LITERAL_MASK
                    else:
                        # RFC 7541 4.2: at the beginning of a block, two at most.
                        if size or updates == 2:
                            raise CompressionError(f"table size update out of place at offset {pos}")
                        updates += 1
                        pos = self._size_update(block, pos)
                        continue
                    index = kind & mask
                    pos += 1
                    if index == mask:
                        index, pos = _read_integer(block, pos, mask)
                    if index <= _LAST_STATIC:
                        if not index:
                            raise CompressionError(f"index 0 at offset {start}")
                        field = _STATIC[index]
                    elif index - _LAST_STATIC <= len(table):
                        field = table[_LAST_STATIC - index]
                    else:
                        raise CompressionError(f"index {index} past the end of the table at offset {start}")
                    name, value = field
                if kind < _INDEXED:
                    if (length := block[pos]) < _LENGTH_MASK:
                        at = pos + 1
                        pos = at + length
                        if pos > end:
                            raise CompressionError(f"truncated string at offset {at - 1}")
                        value = block[at:pos]
                    else:
                        # What is inserted will come again as an index; a secret is not kept.
                        keep = kind < _NEVER_INDEXED and name not in SENSITIVE_NAMES
                        value, pos = self._string(block, pos, keep)
                    field = (name, value)
                    if kind >= _NEVER_INDEXED:
                        if kind >= _INSERTING:
                            self._insert(field)
                        else:
                            secret = True
                size += len(name) + len(value) + ENTRY_OVERHEAD
                if size <= soft_limit:
                    append(field)
                elif size > self._hard_limit:
                    raise HeaderListAbusive(f"header list of more than {self._hard_limit} bytes")
        except IndexError:
            raise CompressionError(f"truncated field at offset {start}") from None
        if size > soft_limit:
            raise HeaderListTooLarge(size, soft_limit)
        decoded = tuple(fields)
        if short and not secret and generation == self.generation:
            self._learn_block(block, decoded)
        return decoded

    def _learn_run(self, run: bytes) -> tuple[list[Field], int] | None:
        """Look up a run of one-byte indexed fields. Leave to the long way what is too long or wrong."""
        if len(run) > _MAX_RUN or max(run) - _INDEXED - _LAST_STATIC > len(self._table):
            return None
        indexes = [byte - _INDEXED for byte in run]
        fields = [_STATIC[i] if i <= _LAST_STATIC else self._table[_LAST_STATIC - i] for i in indexes]
        size = sum([len(name) + len(value) + ENTRY_OVERHEAD for name, value in fields])
        if size > self._soft_limit:
            return None
        if len(self._runs) >= _MAX_RUNS:
            self._runs.clear()
        self._runs[run] = fields, size
        return fields, size

    def _learn_name(self, name: bytes) -> bytes:
        if len(name) <= _MAX_STRING:
            if len(self._names) >= _MAX_NAMES:
                self._names.clear()
            self._names[name] = name
        return name

    def _learn_block(self, block: bytes, fields: tuple[Field, ...]) -> None:
        """Keep a block that comes a second time: most calls' blocks never do."""
        fingerprint = hash(block)
        if fingerprint not in self._seen:
            if len(self._seen) >= _MAX_BLOCKS:
                self._seen.clear()
            self._seen.add(fingerprint)
        elif not any(name in SENSITIVE_NAMES for name, _ in fields):
            if len(self._blocks) >= _MAX_BLOCKS:
                self._blocks.clear()
            self._blocks[block] = fields

    def _string(self, block: bytes, pos: int, keep: bool) -> tuple[bytes, int]:
        """Read a string that is long or Huffman-encoded (RFC 7541 5.2); return it and the position after it."""
        start = pos
        kind = block[pos]
        length = kind & _LENGTH_MASK
        pos += 1
        if length == _LENGTH_MASK:
            length, pos = _read_integer(block, pos, _LENGTH_MASK)
        end = pos + length
        if end > len(block):
            raise CompressionError(f"truncated string at offset {start}")
        raw = block[pos:end]
        if kind < _HUFFMAN:
            return raw, end
        string = self._strings.get(raw)
        if string is None:
            try:
                string = huffman.decode(raw)
            except huffman.HuffmanError as error:
                raise CompressionError(f"Huffman string at offset {start}: {error}") from None
            if keep and length <= _MAX_STRING:
                if len(self._strings) >= _MAX_STRINGS:
                    self._strings.clear()
                self._strings[raw] = string
        return string, end

    def _size_update(self, block: bytes, pos: int) -> int:
        start = pos
        limit = block[pos] & _SIZE_UPDATE_MASK
        pos += 1
        if limit == _SIZE_UPDATE_MASK:
            limit, pos = _read_integer(block, pos, _SIZE_UPDATE_MASK)
        if limit > self._max_limit:
            raise CompressionError(
                f"table size {limit} above the {self._max_limit} allowed at offset {start}"
            )
        self._limit = limit
        self._evict(0)
        self._changed()
        return pos

    def _insert(self, field: Field) -> None:
        size = len(field[0]) + len(field[1]) + ENTRY_OVERHEAD
        if self._size + size > self._limit:
            self._evict(size)
        # RFC 7541 4.4: an entry larger than the table empties it, and is no error.
        if size <= self._limit:
            self._table.append(field)
            self._size += size
        self._changed()

    def _evict(self, needed: int) -> None:
        """Drop the oldest entries until `needed` bytes fit, or none is left."""
        room = self._limit - needed
        size = self._size
        count = 0
        for name, value in self._table:
            if size <= room:
                break
            size -= len(name) + len(value) + ENTRY_OVERHEAD
            count += 1
        del self._table[:count]
        self._size = size

    def _changed(self) -> None:
        self.generation += 1
        self._runs.clear()
        self._blocks.clear()
        self._seen.clear()


def _read_integer(block: bytes, pos: int, value: int) -> tuple[int, int]:
    """Read the bytes after a prefix that is all ones, `value` (RFC 7541 5.1); return the integer and where it ends."""
    for shift in range(0, 7 * MAX_CONTINUATION_BYTES, 7):
        byte = block[pos]
        pos += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            if value > MAX_INTEGER:
                break
            return value, pos
    raise CompressionError(f"integer too large before offset {pos}")
