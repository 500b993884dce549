"""Decode the Huffman code of HPACK (RFC 7541 section 5.2 and Appendix B).

The code is canonical: ordered by (length, symbol), each code is the one before plus one. So 257 lengths say it all.
Decoding is a state machine that eats a byte at a time. A state is the run of bits that is not yet a whole code; its
transitions are worked out when first met and kept, for real headers use a small part of the 65,536 there are.
Encoding is left out: lbkit sends its literals plain, which costs a few bytes and saves more time than it costs.
"""

from __future__ import annotations

from functools import cache

# fmt: off
CODE_LENGTHS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
)
# fmt: on
END_OF_STRING = 256

# The transitions out of a state, by next byte: the symbols completed and the next state's row; None is not met yet.
# Plain lists, for CPython has a fast path for their look-up. A peer chooses which ones are met, but 256 states times 256
# bytes are all there are: 5 MB at worst, once per process (text keeps to 99 states).
_Row = list["tuple[bytes, _Row] | None"]


class HuffmanError(ValueError):
    """The bytes are no Huffman-encoded string."""


@cache
def code_table() -> dict[int, int]:
    """Map each code to its symbol. A code is an int with a 1 set before its first bit, so that leading zeros count."""
    table: dict[int, int] = {}
    code, length = 0, 0
    for symbol in sorted(range(len(CODE_LENGTHS)), key=CODE_LENGTHS.__getitem__):
        code <<= CODE_LENGTHS[symbol] - length
        length = CODE_LENGTHS[symbol]
        table[1 << length | code] = symbol
        code += 1
    return table


_START: _Row = [None] * 256
_rows: dict[int, _Row] = {1: _START}  # by pending bits, written like the codes of `code_table`
_pending: dict[int, int] = {id(_START): 1}  # and back; rows live for ever, so their ids stay theirs


def _transition(row: _Row, byte: int) -> tuple[bytes, _Row]:
    codes = code_table()
    pending = _pending[id(row)]
    symbols = bytearray()
    for shift in range(7, -1, -1):
        pending = pending << 1 | byte >> shift & 1
        symbol = codes.get(pending)
        if symbol is None:
            continue
        if symbol == END_OF_STRING:
            raise HuffmanError("end-of-string code inside a string (RFC 7541 5.2)")
        symbols.append(symbol)
        pending = 1
    # Another thread may come here for the same state: `setdefault` lets one row win.
    target = _rows.setdefault(pending, [None] * 256)
    _pending[id(target)] = pending
    transition = row[byte] = bytes(symbols), target
    return transition


def decode(data: bytes) -> bytes:
    """Return the string that `data` encodes.

    Raises:
        HuffmanError: EOS inside the string, padding of 8 bits or more, or padding that is not the start of EOS.
    """
    row = _START
    parts: list[bytes] = []
    for byte in data:
        symbols, row = row[byte] or _transition(row, byte)
        parts.append(symbols)
    # Padding is the start of EOS, which is ones: with the 1 in front, the pending bits plus one are a power of two.
    pending = _pending[id(row)]
    if pending & (pending + 1):
        raise HuffmanError("padding that is not all ones (RFC 7541 5.2)")
    if pending > 0xFF:
        raise HuffmanError("padding longer than 7 bits (RFC 7541 5.2)")
    return b"".join(parts)
