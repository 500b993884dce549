from __future__ import annotations

import hpack
import pytest

from lbkit.http2.hpack import Field, Prefix
from lbkit.http2.hpack_decoder import Decoder
from lbkit.http2.hpack_encoder import Encoder
from tests.support.hpack_blocks import CALL, SENSITIVE_NAMES, holds, oracle_fields


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
