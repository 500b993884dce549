from __future__ import annotations

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbkit.http2.hpack import CompressionError, Field, HeaderListAbusive, HeaderListTooLarge, Prefix
from lbkit.http2.hpack_decoder import Decoder
from lbkit.http2.hpack_encoder import Encoder
from tests.support.hpack_blocks import SENSITIVE_NAMES, integer, literal, oracle_fields

DATE_21 = b"Mon, 21 Oct 2013 20:13:21 GMT"
DATE_22 = b"Mon, 21 Oct 2013 20:13:22 GMT"
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
REQUESTS: list[tuple[tuple[Field, ...], int]] = [
    (
        (
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/"),
            (b":authority", b"www.example.com"),
        ),
        57,
    ),
    (
        (
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/"),
            (b":authority", b"www.example.com"),
            (b"cache-control", b"no-cache"),
        ),
        110,
    ),
    (
        (
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":path", b"/index.html"),
            (b":authority", b"www.example.com"),
            (b"custom-key", b"custom-value"),
        ),
        164,
    ),
]
LOCATION = (b"location", b"https://www.example.com")
RESPONSES: list[tuple[tuple[Field, ...], int]] = [
    (((b":status", b"302"), (b"cache-control", b"private"), (b"date", DATE_21), LOCATION), 222),
    (((b":status", b"307"), (b"cache-control", b"private"), (b"date", DATE_21), LOCATION), 222),
    (
        (
            (b":status", b"200"),
            (b"cache-control", b"private"),
            (b"date", DATE_22),
            LOCATION,
            (b"content-encoding", b"gzip"),
            (b"set-cookie", COOKIE),
        ),
        215,
    ),
]
C3 = """8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d
8286 84be 5808 6e6f 2d63 6163 6865
8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65"""
C4 = """8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff
8286 84be 5886 a8eb 1064 9cbf
8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf"""
C5 = """4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d
4803 3330 37c1 c0bf
88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31"""
C6 = """4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3
4883 640e ffc1 c0bf
88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07"""


# RFC 7541 Appendix C


@pytest.mark.parametrize(
    ("block", "value"), [("0a", 10), ("1f9a0a", 1337)], ids=["C.1.1 ten in 5 bits", "C.1.2 1337 in 5 bits"]
)
def test_appendix_c1_integers_read_as_table_sizes(block: str, value: int) -> None:
    raw = bytes.fromhex(block)
    decoder = Decoder()
    assert decoder.decode(bytes((raw[0] | 0x20,)) + raw[1:]) == ()
    assert decoder._limit == value


def test_appendix_c1_3_integer_on_an_octet_boundary() -> None:
    assert Decoder().decode(b"\x00\x01x\x2a" + b"v" * 0x2A) == ((b"x", b"v" * 42),)


@pytest.mark.parametrize(
    ("block", "field", "table_size"),
    [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", (b"custom-key", b"custom-header"), 55),
        ("040c2f73616d706c652f70617468", (b":path", b"/sample/path"), 0),
        ("100870617373776f726406736563726574", (b"password", b"secret"), 0),
        ("82", (b":method", b"GET"), 0),
    ],
    ids=["C.2.1 inserting", "C.2.2 not indexed", "C.2.3 never indexed", "C.2.4 indexed"],
)
def test_appendix_c2_representations(block: str, field: Field, table_size: int) -> None:
    decoder = Decoder()
    assert decoder.decode(bytes.fromhex(block)) == (field,)
    assert decoder._size == table_size


@pytest.mark.parametrize(
    ("blocks", "expected", "max_table_size"),
    [(C3, REQUESTS, 4096), (C4, REQUESTS, 4096), (C5, RESPONSES, 256), (C6, RESPONSES, 256)],
    ids=["C.3", "C.4", "C.5", "C.6"],
)
def test_appendix_c_sequences(
    blocks: str, expected: list[tuple[tuple[Field, ...], int]], max_table_size: int
) -> None:
    decoder = Decoder(max_table_size=max_table_size)
    for block, (fields, table_size) in zip(blocks.splitlines(), expected, strict=True):
        assert decoder.decode(bytes.fromhex(block)) == fields
        assert decoder._size == table_size


# Against the oracle

short_names = st.sampled_from(
    [b":path", b":status", b"grpc-timeout", b"x-id", b"date", b"cookie", b"a" * 130]
)
names = short_names | st.from_regex(rb"[a-z0-9-]{1,12}", fullmatch=True)
values = st.sampled_from([b"", b"200", b"/a.B/C", b"v" * 126, b"v" * 127, b"v" * 500]) | st.binary(
    max_size=40
)
field_lists = st.lists(st.tuples(names, values), max_size=6)
table_sizes = st.sampled_from([0, 64, 256, 4096])
size_changes = st.lists(table_sizes, max_size=3)


@given(
    st.lists(field_lists, min_size=1, max_size=4),
    st.lists(st.tuples(size_changes, st.none() | st.integers(0, 3), field_lists), max_size=12),
)
def test_oracle_decodes_what_we_encode(
    constants: list[list[Field]], steps: list[tuple[list[int], int | None, list[Field]]]
) -> None:
    prefixes = [Prefix(fields) for fields in constants]
    encoder, oracle = Encoder(), hpack.Decoder()
    for sizes, number, fields in steps:
        for size in sizes:
            encoder.resize(size)
            oracle.max_allowed_table_size = size
        prefix = None if number is None else prefixes[number % len(prefixes)]
        decoded = oracle_fields(oracle, encoder.encode(prefix, fields))
        assert decoded == (() if prefix is None else prefix.fields) + tuple(fields)
        assert oracle.header_table._current_size == encoder._size
        assert encoder._size <= oracle.header_table_size


@given(
    st.lists(field_lists, min_size=1, max_size=3),
    st.lists(
        st.tuples(st.lists(table_sizes, max_size=2), st.integers(0, 2), field_lists, st.booleans()),
        max_size=12,
    ),
)
def test_we_decode_what_the_oracle_encodes(
    constants: list[list[Field]], steps: list[tuple[list[int], int, list[Field], bool]]
) -> None:
    oracle, decoder = hpack.Encoder(), Decoder()
    for sizes, number, changing, huffman in steps:
        for size in sizes:
            if size != oracle.header_table_size:  # hpack forgets its pending updates when a size is set again
                oracle.header_table_size = size
        fields = constants[number % len(constants)] + changing
        sent = [(name, value, name in SENSITIVE_NAMES) for name, value in fields]
        assert decoder.decode(oracle.encode(sent, huffman=huffman)) == tuple(fields)
        assert decoder._size == oracle.header_table._current_size


@given(
    table_sizes,
    st.lists(st.tuples(st.integers(0, 2), field_lists), max_size=12),
    st.lists(field_lists, min_size=1, max_size=3),
)
def test_our_halves_agree(
    max_table_size: int, steps: list[tuple[int, list[Field]]], constants: list[list[Field]]
) -> None:
    prefixes = [Prefix(fields) for fields in constants]
    encoder, decoder = Encoder(max_table_size), Decoder(max_table_size=max_table_size)
    for number, fields in steps:
        prefix = prefixes[number % len(prefixes)]
        for _ in range(3):
            assert decoder.decode(encoder.encode(prefix)) == prefix.fields
        assert decoder.decode(encoder.encode(prefix, fields)) == prefix.fields + tuple(fields)


pieces = st.one_of(
    st.binary(max_size=12),
    st.lists(st.sampled_from([0x80, 0x82, 0x88, 0xBD, *range(0xBE, 0xC2), 0xFE]), max_size=4).map(bytes),
    st.builds(literal, names, values, st.sampled_from([0x00, 0x10, 0x40])),
    st.builds(integer, st.integers(0, 70), st.sampled_from([0x00, 0x10]), st.just(4)),
    st.builds(integer, st.integers(60, 70), st.just(0x40), st.just(6)),
    st.builds(integer, st.sampled_from([0, 40, 4096, 4097]), st.just(0x20), st.just(5)),
    st.builds(integer, st.integers(0, 1 << 40), st.sampled_from([0x80]), st.just(7)),
    st.just(b"\xff\x80\x80\x80\x80\x00"),
)
wild_blocks = st.lists(pieces, max_size=6).map(b"".join)


def leading_size_updates(block: bytes) -> int:
    count = 0
    while block and block[0] & 0xE0 == 0x20:
        count += 1
        block = block[hpack.hpack.decode_integer(block, 5)[1] :]
    return count


@given(st.lists(wild_blocks, min_size=1, max_size=6))
@settings(max_examples=400)
def test_any_bytes_get_the_verdict_of_the_oracle(blocks: list[bytes]) -> None:
    """One difference, and the RFC decides: hpack takes any number of size updates, 4.2 speaks of at most two.

    (hpack has no bound on an integer's value, but none above 2**32 can be a valid index, length or table size.)
    """
    oracle, decoder = hpack.Decoder(), Decoder(soft_limit=65536)
    for block in blocks:
        try:
            expected = oracle_fields(oracle, block)
        except hpack.HPACKError:
            with pytest.raises((CompressionError, HeaderListTooLarge, HeaderListAbusive)):
                decoder.decode(block)
            return
        if leading_size_updates(block) > 2:
            with pytest.raises(CompressionError, match="out of place"):
                decoder.decode(block)
            return
        assert decoder.decode(block) == expected
        assert decoder._size == oracle.header_table._current_size


@given(wild_blocks, st.integers(0, 200))
def test_every_cut_of_a_block_decodes_or_is_refused(block: bytes, length: int) -> None:
    decoder = Decoder(soft_limit=200, hard_limit=400)
    for part in (block[:length], block):
        try:
            fields = decoder.decode(part)
        except (CompressionError, HeaderListAbusive):
            return
        except HeaderListTooLarge:
            continue
        assert sum(len(name) + len(value) + 32 for name, value in fields) <= 200
