"""Requests and frames that more than one case sends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lbkit.http2 import frames
from lbkit.http2.frames import Setting, frame
from lbkit.http2.hpack import Field
from tests.conformance.cases import Peer, Play, Step
from tests.support.wire import settings_frame


def window_of(*sizes: int) -> bytes:
    """SETTINGS with INITIAL_WINDOW_SIZE, once or more."""
    return settings_frame(*((Setting.INITIAL_WINDOW_SIZE, size) for size in sizes))


def setting(key: int, value: int) -> Play:
    """One parameter."""
    return lambda p: [settings_frame((key, value))]


def raw(kind: int, flags: int, stream: int, payload: bytes) -> Play:
    """One frame."""
    return lambda p: [frame(kind, flags, stream, payload)]


def block_with(*, before: bytes = b"", after: bytes = b"") -> Play:
    """A request whose header block has something put before or after it."""
    return lambda p: [p.head(block=before + p.block() + after), p.rest()]


def request_with(*more: Field, without: bytes = b"", first: Iterable[Field] = ()) -> Play:
    """A request with some header fields more at its end or beginning, or one less."""

    def play(p: Peer) -> list[Step]:
        fields = [each for each in p.fields() if each[0] != without]
        return [p.head([*first, *fields, *more]), p.rest()]

    return play


def with_empty_path(p: Peer) -> list[Step]:
    return [p.head([(name, b"" if name == b":path" else value) for name, value in p.fields()]), p.rest()]


def doubled(name: bytes) -> Play:
    """A request with a pseudo-header field twice."""
    return lambda p: [p.head([*p.fields()[:4], (name, dict(p.fields())[name]), *p.fields()[4:]]), p.rest()]


def prioritised(on: int) -> Play:
    """A request that says what its stream depends on."""
    flags = frames.END_HEADERS | frames.PRIORITY_FLAG
    return lambda p: [p.head(block=frames.pack_u32(on) + b"\xff" + p.block(), flags=flags), p.rest()]


def padded(length: Callable[[int], int], padding: bytes = b"") -> Play:
    """A request whose HEADERS say a pad length, which depends on that of the block."""

    def play(p: Peer) -> list[Step]:
        block = p.block()
        said = bytes((length(len(block)),))
        return [p.head(block=said + block + padding, flags=frames.END_HEADERS | frames.PADDED), p.rest()]

    return play


def padded_data(p: Peer) -> list[Step]:
    payload = b"\x06" + p.dialect.data + b"padded"
    return [p.post(), frame(frames.DATA, frames.END_STREAM | frames.PADDED, 1, payload)]


def in_pieces(*cuts: int) -> Play:
    """A request whose header block is cut, HEADERS and CONTINUATION."""

    def play(p: Peer) -> list[Step]:
        block = p.block()
        pieces = [block[start:end] for start, end in zip((0, *cuts), (*cuts, None), strict=True)]
        rest = [p.more(piece, end=piece is pieces[-1]) for piece in pieces[1:]]
        return [p.head(block=pieces[0], flags=0) + b"".join(rest), p.rest()]

    return play


def too_many_streams(p: Peer) -> Iterator[Step]:
    yield window_of(0)  # answers with content stay open
    limit = p.settings[Setting.MAX_CONCURRENT_STREAMS]
    yield b"".join(p.whole(1 + 2 * number) for number in range(limit + 1))


def split_message(p: Peer) -> list[Step]:
    half = len(p.dialect.data) // 2
    return [p.post(), p.data(p.dialect.data[:half], end=False), p.data(p.dialect.data[half:])]


def table_of(p: Peer) -> list[Step]:
    over = p.settings.get(Setting.HEADER_TABLE_SIZE, 4096) + 1
    number, update = over - 31, bytearray(b"\x3f")
    while number >= 128:
        update.append(0x80 | number & 0x7F)
        number >>= 7
    update.append(number)
    return [p.head(block=bytes(update) + p.block()), p.rest()]
