import subprocess
import sys
from pathlib import Path

import pytest
from hpack.exceptions import HPACKDecodingError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import given
from hypothesis import strategies as st

from lbkit.http2 import huffman

encode = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode


def from_bits(bits: str) -> bytes:
    assert len(bits) % 8 == 0
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def code(symbol: int) -> str:
    return format(REQUEST_CODES[symbol], f"0{REQUEST_CODES_LENGTH[symbol]}b")


def test_lengths_are_those_of_appendix_b() -> None:
    assert list(huffman.CODE_LENGTHS) == list(REQUEST_CODES_LENGTH)


def test_codes_from_lengths_are_those_of_appendix_b() -> None:
    expected = {1 << REQUEST_CODES_LENGTH[symbol] | REQUEST_CODES[symbol]: symbol for symbol in range(257)}
    assert huffman.code_table() == expected


def test_every_symbol_decodes() -> None:
    for symbol in range(256):
        assert huffman.decode(encode(bytes((symbol,)))) == bytes((symbol,))


@given(st.binary(max_size=300))
def test_decode_inverts_encode(data: bytes) -> None:
    assert huffman.decode(encode(data)) == data


def test_empty_string_decodes_to_nothing() -> None:
    assert huffman.decode(b"") == b""


# 5, 8, 10 and 17 bits: 3, 0, 6 and 7 bits are missing.
@pytest.mark.parametrize("text", [b"a", b"&", b"?", b"!:"])
def test_padding_is_at_most_seven_ones(text: bytes) -> None:
    bits = "".join(map(code, text))
    padding = "1" * (-len(bits) % 8)
    assert huffman.decode(from_bits(bits + padding)) == text
    with pytest.raises(huffman.HuffmanError, match="longer than 7 bits"):
        huffman.decode(from_bits(bits + padding + "1" * 8))


@pytest.mark.parametrize("padding", ["000", "001", "011", "110", "101"])
def test_padding_other_than_ones_is_refused(padding: str) -> None:
    with pytest.raises(huffman.HuffmanError, match="not all ones"):
        huffman.decode(from_bits(code(ord("a")) + padding))


@pytest.mark.parametrize("before", [b"", b"a", b"~~"])
def test_end_of_string_code_is_refused(before: bytes) -> None:
    bits = "".join(map(code, before)) + "1" * 30
    with pytest.raises(huffman.HuffmanError, match="end-of-string"):
        huffman.decode(from_bits(bits + "1" * (-len(bits) % 8)))


def test_end_of_string_stays_refused_once_met() -> None:
    for _ in range(3):
        with pytest.raises(huffman.HuffmanError, match="end-of-string"):
            huffman.decode(b"\xff\xff\xff\xff")


strings_with_tails = st.builds(
    lambda text, tail: encode(text) + tail, st.binary(max_size=9), st.binary(max_size=5)
)
ones = st.builds(lambda text, count: encode(text) + b"\xff" * count, st.binary(max_size=9), st.integers(0, 6))


@given(st.binary(max_size=40) | strings_with_tails | ones)
def test_any_bytes_get_the_verdict_of_the_oracle(data: bytes) -> None:
    try:
        expected = decode_huffman(data)
    except HPACKDecodingError:
        with pytest.raises(huffman.HuffmanError):
            huffman.decode(data)
    else:
        assert huffman.decode(data) == expected


def test_import_builds_no_table() -> None:
    script = (
        "from lbkit.http2 import huffman as h\n"
        "assert h.code_table.cache_info().currsize == 0\n"
        "assert len(h._rows) == 1 and h._START == [None] * 256\n"
        "assert h.decode(b'\\x1f') == b'a'\n"
        "assert h.code_table.cache_info().currsize == 1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30, cwd=Path(__file__).parents[2])
