"""The receiving half of HPACK (RFC 7541)."""

from __future__ import annotations

from lbkit.http2 import huffman
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
    STATIC,
    CompressionError,
    Field,
    HeaderListAbusive,
    HeaderListTooLarge,
    list_size,
)

MAX_INTEGER = 1 << 32
MAX_CONTINUATION_BYTES = 5

# Bounds of the caches. All are per connection, so they are sized for an idle one to stay small.
_MAX_NAMES = 256
_MAX_STRINGS = 128
_MAX_STRING = 64
_MAX_RUNS = 64
_MAX_RUN = 64
_MAX_BLOCKS = 64
_MAX_BLOCK = 512

_NAME_IN_FULL = frozenset((NOT_INDEXED, NEVER_INDEXED, INSERTING))
_HUFFMAN = 0x80
_ONE_BYTE_INDEXED = bytes(range(INDEXED + 1, 0xFF))


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
        name, value = field = STATIC[0]  # only for the type checkers: no path reads it
        try:
            while pos < end:
                start = pos
                kind = block[pos]
                if kind in _NAME_IN_FULL:
                    # The name in full: first, for most fields that change are of this kind.
                    if (length := block[pos + 1]) < LENGTH_MASK:
                        pos += 2 + length
                        name = block[start + 2 : pos]
                        name = names.get(name) or self._learn_name(name)
                    else:
                        name, pos = self._string(block, pos + 1, True)
                else:
                    if kind >= INDEXED:
                        mask = INDEXED_MASK
                    elif kind >= INSERTING:
                        mask = INSERTING_MASK
                    elif kind < SIZE_UPDATE:
                        mask = LITERAL_MASK
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
                    if index <= LAST_STATIC:
                        if not index:
                            raise CompressionError(f"index 0 at offset {start}")
                        field = STATIC[index]
                    elif index - LAST_STATIC <= len(table):
                        field = table[LAST_STATIC - index]
                    else:
                        raise CompressionError(f"index {index} past the end of the table at offset {start}")
                    name, value = field
                if kind < INDEXED:
                    if (length := block[pos]) < LENGTH_MASK:
                        at = pos + 1
                        pos = at + length
                        if pos > end:
                            raise CompressionError(f"truncated string at offset {at - 1}")
                        value = block[at:pos]
                    else:
                        # What is inserted will come again as an index; a secret is not kept.
                        keep = kind < NEVER_INDEXED and name not in SENSITIVE_NAMES
                        value, pos = self._string(block, pos, keep)
                    field = (name, value)
                    if kind >= NEVER_INDEXED:
                        if kind >= INSERTING:
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
        if len(run) > _MAX_RUN or max(run) - INDEXED - LAST_STATIC > len(self._table):
            return None
        indexes = [byte - INDEXED for byte in run]
        fields = [STATIC[i] if i <= LAST_STATIC else self._table[LAST_STATIC - i] for i in indexes]
        size = list_size(fields)
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
        length = kind & LENGTH_MASK
        pos += 1
        if length == LENGTH_MASK:
            length, pos = _read_integer(block, pos, LENGTH_MASK)
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
        limit = block[pos] & SIZE_UPDATE_MASK
        pos += 1
        if limit == SIZE_UPDATE_MASK:
            limit, pos = _read_integer(block, pos, SIZE_UPDATE_MASK)
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
