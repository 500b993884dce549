"""HPACK blocks for tests: written by hand, and looked into."""

from __future__ import annotations

from collections.abc import Iterable

import hpack
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from lbkit.http2.hpack import Field, Prefix
from lbkit.http2.hpack_decoder import Decoder

SENSITIVE_NAMES = [b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"]
INSERT_A = b"\x40\x01a\x01A"
INSERT_B = b"\x40\x01b\x01B"
NEWEST = b"\xbe"

CALL = Prefix(
    [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/helloworld.Greeter/SayHello"),
        (b":authority", b"backend.example:50051"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
)


def integer(value: int, first_byte: int, bits: int) -> bytes:
    encoded = hpack.hpack.encode_integer(value, bits)
    encoded[0] |= first_byte
    return bytes(encoded)


def literal(name: bytes, value: bytes, kind: int = 0x00) -> bytes:
    return bytes((kind,)) + integer(len(name), 0, 7) + name + integer(len(value), 0, 7) + value


def oracle_fields(decoder: hpack.Decoder, block: bytes) -> tuple[Field, ...]:
    return tuple((bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True))


def settled(decoder: Decoder, block: bytes, times: int = 3) -> tuple[Field, ...]:
    """Decode a block until it is in every cache that takes it."""
    results = [decoder.decode(block) for _ in range(times)]
    assert all(result == results[0] for result in results)
    return results[0]


def reachable(root: object) -> set[bytes]:
    """Return every bytes object that the attributes of `root` hold, however deep."""
    found: set[bytes] = set()
    todo: list[object] = list(vars(root).values())
    while todo:
        item = todo.pop()
        if isinstance(item, bytes):
            found.add(item)
        elif isinstance(item, dict):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, Iterable) and not isinstance(item, str):
            todo += item
        elif isinstance(item, Prefix):
            todo += item.fields
    return found


def holds(root: object, secret: bytes) -> bool:
    return any(secret in item for item in reachable(root))


hpack_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode
HUFFMAN_SECRET = hpack_huffman(b"s3cr3t")
assert len(HUFFMAN_SECRET) == 5
