"""HPACK, the header compression of HTTP/2 (RFC 7541): what its encoder and its decoder share.

Most of a call's header block is the same for every call of a method, the rest (deadline, trace ids) is new each time.
So the encoder indexes a `Prefix` of constant fields and sends the rest as plain literals, and the decoder remembers
runs of indexed fields and whole blocks for as long as the dynamic table does not change. Pure: bytes in, bytes out.

    CompressionError        COMPRESSION_ERROR: the peer broke the format, the connection is lost
    HeaderListTooLarge      the stream is refused, the connection lives on
    HeaderListAbusive       ENHANCE_YOUR_CALM: the connection is lost
"""

from __future__ import annotations

from collections.abc import Iterable

Field = tuple[bytes, bytes]

DEFAULT_TABLE_SIZE = 4096  # RFC 9113 6.5.2
ENTRY_OVERHEAD = 32  # RFC 7541 4.1
# An intermediary must not index them either (RFC 7541 7.1.3): their values leave no trace in a table or a cache.
SENSITIVE_NAMES = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"))

# RFC 7541 Appendix A. Indexes start at 1.
STATIC: tuple[Field, ...] = (
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
LAST_STATIC = 61
STATIC_INDEX: dict[Field, int] = {field: index for index, field in enumerate(STATIC) if index}
# Of the indexes that share a name the first: it may fit the prefix of the first byte.
STATIC_NAME: dict[bytes, int] = {STATIC[index][0]: index for index in range(LAST_STATIC, 0, -1)}

# First byte of each representation, and the bits of it that hold the index or size (RFC 7541 6).
INDEXED, INDEXED_MASK = 0x80, 0x7F
INSERTING, INSERTING_MASK = 0x40, 0x3F
SIZE_UPDATE, SIZE_UPDATE_MASK = 0x20, 0x1F
NEVER_INDEXED, NOT_INDEXED, LITERAL_MASK = 0x10, 0x00, 0x0F
LENGTH_MASK = 0x7F  # of a string; the top bit says Huffman (RFC 7541 5.2)


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


def list_size(fields: Iterable[Field]) -> int:
    """Return the size of a header list in bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts it (RFC 9113 6.5.2)."""
    return sum([len(name) + len(value) + ENTRY_OVERHEAD for name, value in fields])


class Prefix:
    """A constant run of header fields that many blocks share.

    Make one per method and keep it: the encoder's cache knows it by identity, so that a look-up costs no comparison
    of fields. An equal but new object is encoded again.

    Attributes:
        fields: what it stands for.
        size: of them, as ``list_size`` has it.

    Raises:
        TypeError: a name or value is not `bytes`. (Found here, for half a block encoded would ruin the table.)
    """

    __slots__ = ("fields", "size")

    def __init__(self, fields: Iterable[Field]) -> None:
        self.fields: tuple[Field, ...] = tuple(fields)
        for name, value in self.fields:
            if type(name) is not bytes or type(value) is not bytes:
                raise TypeError(f"header field {name!r}: name and value must be bytes")
        self.size = list_size(self.fields)
