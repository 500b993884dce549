"""RFC 7541 Appendix C, block by block: the fields, and the dynamic table after each."""

from __future__ import annotations

from collections.abc import Sequence

import hpack
import pytest

from lbkit.http2.hpack import Field, Prefix
from lbkit.http2.hpack_decoder import Decoder
from lbkit.http2.hpack_encoder import Encoder

GET: Field = (b":method", b"GET")
HTTP: Field = (b":scheme", b"http")
ROOT: Field = (b":path", b"/")
EXAMPLE: Field = (b":authority", b"www.example.com")
NO_CACHE: Field = (b"cache-control", b"no-cache")
CUSTOM: Field = (b"custom-key", b"custom-value")
STATUS_302: Field = (b":status", b"302")
STATUS_307: Field = (b":status", b"307")
PRIVATE: Field = (b"cache-control", b"private")
DATE_21: Field = (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT")
DATE_22: Field = (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT")
LOCATION: Field = (b"location", b"https://www.example.com")
GZIP: Field = (b"content-encoding", b"gzip")
COOKIE: Field = (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")

# Fields of a block; the table after it, newest entry first as the RFC counts them; its size.
Step = tuple[tuple[Field, ...], tuple[Field, ...], int]
REQUESTS: list[Step] = [
    ((GET, HTTP, ROOT, EXAMPLE), (EXAMPLE,), 57),
    ((GET, HTTP, ROOT, EXAMPLE, NO_CACHE), (NO_CACHE, EXAMPLE), 110),
    (
        (GET, (b":scheme", b"https"), (b":path", b"/index.html"), EXAMPLE, CUSTOM),
        (CUSTOM, NO_CACHE, EXAMPLE),
        164,
    ),
]
RESPONSES: list[Step] = [
    ((STATUS_302, PRIVATE, DATE_21, LOCATION), (LOCATION, DATE_21, PRIVATE, STATUS_302), 222),
    ((STATUS_307, PRIVATE, DATE_21, LOCATION), (STATUS_307, LOCATION, DATE_21, PRIVATE), 222),
    (
        ((b":status", b"200"), PRIVATE, DATE_22, LOCATION, GZIP, COOKIE),
        (COOKIE, GZIP, DATE_22),
        215,
    ),
]

C3 = [
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
]
C4 = [
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
]
C5 = [
    (
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
        "6e1768747470733a2f2f7777772e6578616d706c652e636f6d"
    ),
    "4803333037c1c0bf",
    (
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a6970"
        "7738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b20"
        "76657273696f6e3d31"
    ),
]
C6 = [
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
    (
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af"
        "27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
    ),
]


def newest_first(table: Sequence[Field]) -> tuple[Field, ...]:
    return tuple(table)[::-1]


@pytest.mark.parametrize(
    ("block", "field", "table"),
    [
        (
            "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
            (b"custom-key", b"custom-header"),
            ((b"custom-key", b"custom-header"),),
        ),
        ("040c2f73616d706c652f70617468", (b":path", b"/sample/path"), ()),
        ("100870617373776f726406736563726574", (b"password", b"secret"), ()),
        ("82", GET, ()),
    ],
    ids=["C.2.1 with indexing", "C.2.2 without indexing", "C.2.3 never indexed", "C.2.4 indexed"],
)
def test_c2_leaves_this_table(block: str, field: Field, table: tuple[Field, ...]) -> None:
    decoder = Decoder()
    assert decoder.decode(bytes.fromhex(block)) == (field,)
    assert newest_first(decoder._table) == table


@pytest.mark.parametrize(
    ("blocks", "steps", "table_size"),
    [(C3, REQUESTS, 4096), (C4, REQUESTS, 4096), (C5, RESPONSES, 256), (C6, RESPONSES, 256)],
    ids=["C.3 requests", "C.4 requests, Huffman", "C.5 responses", "C.6 responses, Huffman"],
)
def test_each_block_leaves_this_table(blocks: list[str], steps: list[Step], table_size: int) -> None:
    decoder, oracle = Decoder(max_table_size=table_size), hpack.Decoder()
    oracle.header_table_size = oracle.max_allowed_table_size = table_size
    for block, (fields, table, size) in zip(blocks, steps, strict=True):
        raw = bytes.fromhex(block)
        assert decoder.decode(raw) == fields
        assert newest_first(decoder._table) == table
        assert decoder._size == size
        oracle.decode(raw, raw=True)
        assert tuple(oracle.header_table.dynamic_entries) == table


def test_encoder_writes_c3_byte_for_byte_with_the_same_table() -> None:
    encoder = Encoder()
    for block, (fields, table, size) in zip(C3, REQUESTS, strict=True):
        assert encoder.encode(Prefix(fields)).hex() == block
        assert newest_first(encoder._table) == table
        assert encoder._size == size


def test_encoder_writes_c5_until_it_would_have_to_evict() -> None:
    """C.5.2 evicts ``:status: 302`` for 307; our encoder never does, and RFC 7541 2.3.2 leaves that to it."""
    encoder = Encoder(256)
    (first, table, size), (second, _, _), _ = RESPONSES
    assert encoder.encode(Prefix(first)).hex() == C5[0]
    assert (newest_first(encoder._table), encoder._size) == (table, size)
    assert encoder.encode(Prefix(second)).hex() == "0803333037" + "c0bfbe"
    assert (newest_first(encoder._table), encoder._size) == (table, size)


@pytest.mark.parametrize(
    ("prefix", "fields", "block"),
    [
        ([(b"custom-key", b"custom-header")], [], "400a637573746f6d2d6b65790d637573746f6d2d686561646572"),
        ([], [(b":path", b"/sample/path")], "040c2f73616d706c652f70617468"),
        ([GET], [], "82"),
        ([], [(b"cookie", b"secret")], "1f1106736563726574"),
    ],
    ids=["C.2.1", "C.2.2", "C.2.4", "C.2.3 with a name that we never index"],
)
def test_encoder_writes_c2_byte_for_byte(prefix: list[Field], fields: list[Field], block: str) -> None:
    assert Encoder().encode(Prefix(prefix), fields).hex() == block


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(10, "2a"), (1337, "3f9a0a"), (31, "3f00"), (4096, "3fe11f")],
    ids=["C.1.1", "C.1.2", "the prefix and no more", "the default table size"],
)
def test_integers_stand_as_table_sizes_both_ways(value: int, encoded: str) -> None:
    """RFC 7541 5.1 and C.1."""
    encoder, decoder = Encoder(), Decoder(max_table_size=4096)
    decoder.decode(bytes.fromhex(encoded))
    assert decoder._limit == value
    encoder.resize(0 if value == 4096 else value)
    encoder.resize(value)
    assert encoder.encode(None).hex() == ("20" if value == 4096 else "") + encoded


def test_integer_at_an_octet_boundary_is_c1_3() -> None:
    assert Encoder().encode(None, [(b"x", b"v" * 42)])[3:4] == b"\x2a"
    assert Decoder().decode(b"\x00\x01x\x2a" + b"v" * 42) == ((b"x", b"v" * 42),)
