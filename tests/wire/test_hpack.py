from collections.abc import Iterable

import hpack
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given, settings
from hypothesis import strategies as st

from lbkit.http2.hpack import (
    CompressionError,
    Decoder,
    Encoder,
    Field,
    HeaderListAbusive,
    HeaderListTooLarge,
    Prefix,
)

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


# Decoder: what is refused


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"\x82\x80", "index 0 at offset 1"),
        (b"\x82\xbe", "index 62 past the end of the table at offset 1"),
        (b"\x00\x01a\x00\xff\x00", "index 127 past the end of the table at offset 4"),
        (b"\x7e\x01v", "index 62 past the end of the table at offset 0"),
        (b"\x82\x0f\x80", "truncated field at offset 1"),
        (b"\x82\x00", "truncated field at offset 1"),
        (b"\x82\x00\x03ab", "truncated field at offset 1"),
        (b"\x82\x00\x01a", "truncated field at offset 1"),
        (b"\x82\x00\x83ab", "truncated string at offset 2"),
        (b"\x82\x04\x02v", "truncated string at offset 2"),
        (b"\x82\x04\x7f\x00v", "truncated string at offset 2"),
        (b"\x82\x04\x81\x00", "Huffman string at offset 2: padding that is not all ones"),
        (b"\xff\x80\x80\x80\x80\x80", "integer too large before offset 6"),
        (b"\xff\xff\xff\xff\xff\x7f", "integer too large before offset 6"),
        (b"\x3f\xe2\x1f", "table size 4097 above the 4096 allowed at offset 0"),
        (b"\x20\x20\x20", "table size update out of place at offset 2"),
        (b"\x82\x20", "table size update out of place at offset 1"),
        (b"\x00\x01a\x00\x20", "table size update out of place at offset 4"),
    ],
)
def test_malformed_block_is_named_with_its_offset(block: bytes, message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        Decoder().decode(block)


def test_integer_may_use_five_continuation_bytes() -> None:
    assert Decoder().decode(b"\x0f\x9e\x80\x80\x80\x00\x00")[0][0] == b"link"  # 15 + 30
    with pytest.raises(CompressionError, match="integer too large"):
        Decoder().decode(b"\x0f\x9e\x80\x80\x80\x80\x80\x00\x00")


def test_table_size_never_passes_what_we_advertise() -> None:
    assert Decoder(max_table_size=8192).decode(integer(8192, 0x20, 5)) == ()
    with pytest.raises(CompressionError, match="above the 64 allowed"):
        Decoder(max_table_size=64).decode(integer(65, 0x20, 5))


def test_table_above_the_default_grows_only_on_request() -> None:
    big = [literal(b"%d" % number, b"v" * 2000, 0x40) for number in range(3)]
    decoder = Decoder(max_table_size=8192)
    for block in big:
        decoder.decode(block)
    assert len(decoder._table) == 2
    decoder.decode(integer(8192, 0x20, 5) + b"".join(big))
    assert len(decoder._table) == 4


def test_entry_larger_than_the_table_empties_it() -> None:
    decoder = Decoder(max_table_size=64)
    decoder.decode(INSERT_A)
    assert decoder.decode(literal(b"x", b"v" * 32, 0x40)) == ((b"x", b"v" * 32),)
    assert (decoder._table, decoder._size) == ([], 0)


def test_oldest_entry_is_evicted_first() -> None:
    decoder = Decoder(max_table_size=70)
    decoder.decode(INSERT_A + INSERT_B + literal(b"c", b"C", 0x40))
    assert decoder.decode(b"\xbe\xbf") == ((b"c", b"C"), (b"b", b"B"))
    with pytest.raises(CompressionError, match="index 64"):
        decoder.decode(b"\xc0")


def test_name_of_an_entry_that_its_insertion_evicts_is_kept() -> None:
    decoder = Decoder(max_table_size=40)
    decoder.decode(INSERT_A)
    assert decoder.decode(b"\x7e\x01B\xbe") == ((b"a", b"B"), (b"a", b"B"))


def test_generation_counts_insertions_and_size_updates() -> None:
    decoder = Decoder()
    seen = [decoder.generation]
    for block in (INSERT_A, b"\x20", INSERT_B):
        decoder.decode(block)
        seen.append(decoder.generation)
    assert seen == sorted(set(seen))
    decoder.decode(b"\x82\x00\x01a\x00")
    assert decoder.generation == seen[-1]


# Decoder: size limits


def test_list_of_exactly_the_soft_limit_passes() -> None:
    block = literal(b"name", b"value")
    assert Decoder(soft_limit=41).decode(block) == ((b"name", b"value"),)
    with pytest.raises(HeaderListTooLarge) as refused:
        Decoder(soft_limit=40).decode(block)
    assert (refused.value.size, refused.value.limit) == (41, 40)


def test_table_stays_right_after_a_list_that_is_too_large() -> None:
    decoder = Decoder(soft_limit=100)
    with pytest.raises(HeaderListTooLarge) as refused:
        decoder.decode(literal(b"a", b"v" * 80) + INSERT_A + INSERT_B)
    assert refused.value.size == 113 + 34 + 34
    assert decoder.decode(b"\xbf\xbe") == ((b"a", b"A"), (b"b", b"B"))


def test_list_that_is_too_large_is_refused_each_time() -> None:
    decoder = Decoder(soft_limit=100)
    for block in (b"\x82" * 3, literal(b"a", b"v" * 80)):
        for _ in range(4):
            with pytest.raises(HeaderListTooLarge):
                decoder.decode(block)


@pytest.mark.parametrize("count", [20, 100])
def test_small_block_that_expands_stops_at_the_hard_limit(count: int) -> None:
    decoder = Decoder()
    decoder.decode(literal(b"bomb", b"v" * 4000, 0x40))
    with pytest.raises(HeaderListAbusive):
        decoder.decode(NEWEST * count + b"\x80")  # the bad index is never reached


def test_long_run_of_indexed_fields_decodes() -> None:
    decoder = Decoder()
    for count in (64, 65, 500, 511, 512, 513):
        if count * 42 <= 16384:
            assert settled(decoder, b"\x82" * count) == ((b":method", b"GET"),) * count
        else:
            with pytest.raises(HeaderListTooLarge):
                decoder.decode(b"\x82" * count)


# Decoder: caches


def test_repeated_block_decodes_to_the_same_object() -> None:
    decoder = Decoder()
    block = b"\x88" + literal(b"content-type", b"application/grpc")
    settled(decoder, block)
    assert decoder.decode(block) is decoder.decode(block)


@pytest.mark.parametrize("suffix", [b"", literal(b"x", b"1")], ids=["whole block", "run of indexes"])
def test_no_stale_block_after_an_insertion(suffix: bytes) -> None:
    decoder = Decoder()
    decoder.decode(INSERT_A)
    assert settled(decoder, NEWEST + suffix)[0] == (b"a", b"A")
    decoder.decode(INSERT_B)
    assert settled(decoder, NEWEST + suffix)[0] == (b"b", b"B")
    decoder.decode(b"\x20\x3f\xe1\x1f")
    with pytest.raises(CompressionError, match="index 62"):
        decoder.decode(NEWEST + suffix)


def test_block_that_inserts_is_never_answered_from_memory() -> None:
    decoder = Decoder()
    for count in range(1, 5):
        assert decoder.decode(INSERT_A) == ((b"a", b"A"),)
        assert len(decoder._table) == count


def test_run_before_an_insertion_sees_the_old_table() -> None:
    decoder = Decoder()
    decoder.decode(INSERT_A)
    assert decoder.decode(NEWEST + INSERT_B + NEWEST) == ((b"a", b"A"), (b"b", b"B"), (b"b", b"B"))
    assert decoder.decode(NEWEST) == ((b"b", b"B"),)


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


@pytest.mark.parametrize("name", [b"x-token", b"authorization"])
@pytest.mark.parametrize("huffman", [True, False])
def test_never_indexed_value_is_in_no_cache_of_the_decoder(name: bytes, huffman: bool) -> None:
    decoder = Decoder()
    block = hpack.Encoder().encode([(b":method", b"GET"), (name, b"s3cr3t", True)], huffman=huffman)
    assert settled(decoder, block)[1] == (name, b"s3cr3t")
    assert not holds(decoder, b"s3cr3t")
    assert not holds(decoder, HUFFMAN_SECRET)


@pytest.mark.parametrize("name", SENSITIVE_NAMES)
@pytest.mark.parametrize("value", [b"\x06s3cr3t", b"\x85" + HUFFMAN_SECRET])
def test_sensitive_value_not_marked_by_the_peer_is_in_no_cache_either(name: bytes, value: bytes) -> None:
    decoder = Decoder()
    settled(decoder, b"\x82\x00" + integer(len(name), 0, 7) + name + value)
    assert not holds(decoder, b"s3cr3t")
    assert not holds(decoder, HUFFMAN_SECRET)


def test_other_values_are_found_in_the_caches() -> None:
    """The search of the tests above finds what is there."""
    decoder, encoder = Decoder(), Encoder()
    settled(decoder, literal(b"x-token", b"s3cr3t"))
    assert holds(decoder, b"s3cr3t")
    settled(decoder, b"\x00\x01x\x85" + HUFFMAN_SECRET)
    assert HUFFMAN_SECRET in decoder._strings
    encoder.encode(Prefix([(b"x-token", b"s3cr3t")]))
    assert holds(encoder, b"s3cr3t")


def test_caches_of_the_decoder_are_bounded() -> None:
    decoder = Decoder()
    for number in range(1, 1000):
        run = bytes((0x81 + number % 61,)) * (number % 70)
        text = hpack_huffman(b"%d" % number * (number % 40))
        settled(decoder, run + literal(b"x-%d" % number, b"v" * number))
        settled(decoder, run + b"\x00\x01x" + integer(len(text), 0x80, 7) + text)
        settled(decoder, literal(b"n" * number, b""))
    assert 0 < len(decoder._names) <= 256
    assert 0 < len(decoder._strings) <= 128
    for kept in (decoder._runs, decoder._blocks, decoder._seen):
        assert 0 < len(kept) <= 64
    assert max(map(len, [*decoder._names, *decoder._strings, *decoder._runs])) == 64
    assert max(map(len, decoder._blocks)) <= 512


# Encoder


def test_prefix_is_all_indexes_after_its_first_block() -> None:
    encoder = Encoder()
    first = encoder.encode(CALL)
    assert b"backend.example" in first
    assert encoder.encode(CALL) == bytes((0x83, 0x86, 0xC1, 0xC0, 0xBF, 0xBE)) == encoder.encode(CALL)


def test_first_block_of_a_prefix_is_not_remembered() -> None:
    encoder = Encoder()
    encoder.encode(CALL)
    assert CALL not in encoder._prefixes
    encoder.encode(CALL)
    assert CALL in encoder._prefixes


def test_prefix_is_encoded_again_after_another_inserted() -> None:
    encoder, oracle = Encoder(), hpack.Decoder()
    other = Prefix([(b":path", b"/other.Service/Method"), *CALL.fields[3:]])
    for prefix in (CALL, CALL, other, CALL, other, other, CALL):
        assert oracle_fields(oracle, encoder.encode(prefix)) == prefix.fields
    assert encoder.encode(CALL) == bytes((0x83, 0x86, 0xC2, 0xC1, 0xC0, 0xBF))


def test_equal_prefixes_share_the_table() -> None:
    encoder = Encoder()
    encoder.encode(CALL)
    generation = encoder.generation
    assert len(encoder.encode(Prefix(CALL.fields))) == len(CALL.fields)
    assert encoder.generation == generation


def test_full_table_evicts_nothing_and_settles() -> None:
    encoder, oracle = Encoder(256), hpack.Decoder()
    methods = [Prefix([(b":path", b"/package.Service/Method%d" % number)]) for number in range(20)]
    rounds: list[int] = []
    for _ in range(4):
        for method in methods:
            assert oracle_fields(oracle, encoder.encode(method)) == method.fields
        rounds.append(encoder.generation)
    assert rounds == [4, 4, 4, 4]  # entries of 61 or 62 bytes
    assert [len(encoder.encode(method)) for method in methods[:4]] == [1] * 4
    assert encoder._size <= 256


def test_changing_fields_leave_the_table_alone() -> None:
    encoder = Encoder()
    block = encoder.encode(None, [(b"grpc-timeout", b"1S"), (b"content-type", b"text/plain")])
    assert block == b"\x00\x0cgrpc-timeout\x021S" + b"\x0f\x10\x0atext/plain"
    assert (encoder.generation, len(encoder._table)) == (0, 0)


def test_names_and_values_of_any_length_are_framed() -> None:
    for length in (126, 127, 128, 254, 255, 20000):
        field = (b"n" * length, b"v" * length)
        assert Decoder(soft_limit=1 << 20).decode(Encoder().encode(None, [field])) == (field,)


@pytest.mark.parametrize("name", SENSITIVE_NAMES)
def test_sensitive_fields_are_never_indexed(name: bytes) -> None:
    encoder, decoder = Encoder(), hpack.Decoder()
    prefix = Prefix([(b"te", b"trailers"), (name, b"s3cr3t")])
    for _ in range(3):
        for block in (encoder.encode(prefix), encoder.encode(None, prefix.fields[1:])):
            *_, field = decoder.decode(block, raw=True)
            assert isinstance(field, hpack.NeverIndexedHeaderTuple)
            assert field == (name, b"s3cr3t")
    assert not holds(encoder, b"s3cr3t")


def test_caches_of_the_encoder_are_bounded() -> None:
    encoder = Encoder()
    for number in range(1000):
        prefix = Prefix([(b"x", b"%d" % number)])
        for _ in range(2):
            encoder.encode(prefix, [(b"x-%d" % number, b""), (b"n" * number, b"")])
    assert 0 < len(encoder._prefixes) <= 256
    assert 0 < len(encoder._heads) <= 256
    assert max(map(len, encoder._heads)) <= 64


@pytest.mark.parametrize(
    ("sizes", "updates"),
    [
        ([4096], ""),
        ([65536], ""),
        ([64], "3f21"),
        ([64, 64], "3f21"),
        ([0, 4096], "203fe11f"),
        ([100, 64, 256], "3f213fe101"),
        ([256, 100, 64], "3f21"),
    ],
)
def test_resize_is_told_in_the_next_block_only(sizes: list[int], updates: str) -> None:
    encoder = Encoder()
    for size in sizes:
        encoder.resize(size)
    assert encoder.encode(None, [(b"a", b"b")]) == bytes.fromhex(updates) + b"\x00\x01a\x01b"
    assert encoder.encode(None, [(b"a", b"b")]) == b"\x00\x01a\x01b"


def test_resize_drops_what_the_smallest_size_evicts() -> None:
    encoder, oracle = Encoder(), hpack.Decoder()
    for size in (4096, 110, 0, 4096):
        encoder.resize(size)
        oracle.max_allowed_table_size = size
        for _ in range(3):
            assert oracle_fields(oracle, encoder.encode(CALL)) == CALL.fields
            assert encoder._size == oracle.header_table._current_size <= size


def test_value_of_the_wrong_type_changes_nothing() -> None:
    encoder, decoder = Encoder(), Decoder()
    encoder.resize(256)
    wrong: list[Field] = [(b"x", "text")]  # type: ignore[list-item]
    with pytest.raises(TypeError):
        encoder.encode(CALL, wrong)
    for _ in range(3):
        assert decoder.decode(encoder.encode(CALL)) == CALL.fields


def test_prefix_takes_bytes_only() -> None:
    with pytest.raises(TypeError, match="must be bytes"):
        Prefix([(b"x", "text")])  # type: ignore[list-item]
