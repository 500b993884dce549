from __future__ import annotations

import hpack
import pytest

from lbkit.http2.hpack import CompressionError, HeaderListAbusive, HeaderListTooLarge, Prefix
from lbkit.http2.hpack_decoder import Decoder
from lbkit.http2.hpack_encoder import Encoder
from tests.support.hpack_blocks import (
    HUFFMAN_SECRET,
    INSERT_A,
    INSERT_B,
    NEWEST,
    SENSITIVE_NAMES,
    holds,
    hpack_huffman,
    integer,
    literal,
    settled,
)


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
