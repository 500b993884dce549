"""Sequences of frames of every type: right, nearly right, and wrong. Each step is made of one number.

Numbers are drawn, and not the choices themselves: that is five times as fast, and still shrinks to few, small ones.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import hpack
from hypothesis import strategies as st

from lbkit.http2 import frames
from lbkit.http2.frames import frame, pack_u32
from lbkit.http2.hpack import Field
from tests.support.wire import REQUEST, RESPONSE, TRAILERS, settings_frame

T = TypeVar("T")

GOOD_LISTS: tuple[tuple[Field, ...], ...] = (
    (*REQUEST, (b"x-a", b"\xff\x80")),
    (*REQUEST, (b"content-length", b"3")),
    (*RESPONSE, (b"content-length", b"3")),
    ((b":status", b"103"),),
    (),
    tuple(each for each in REQUEST if each[0] != b":authority"),
)
BAD_LISTS: tuple[tuple[Field, ...], ...] = (
    (*REQUEST, (b"X-A", b"1")),
    (*RESPONSE, (b"x-a", b"1\n")),
    (*RESPONSE, (b"x-a", b" 1")),
    REQUEST[:2],
    (REQUEST[2], *REQUEST),
    (*RESPONSE, (b":status", b"200")),
    ((b":version", b"2"), *REQUEST),
    (*REQUEST, (b"connection", b"close")),
    (*REQUEST, (b"te", b"gzip")),
    (*RESPONSE, (b"content-length", b"x")),
    (*RESPONSE, (b"content-length", b"1"), (b"content-length", b"2")),
)
LIKELY = (
    (TRAILERS, frames.END_STREAM),
    (REQUEST, 0),
    (TRAILERS, frames.END_STREAM),
    (REQUEST, frames.END_STREAM),
    (RESPONSE, 0),
)
BROKEN_BLOCKS = (b"\x80", b"\xff\xff\xff\xff\xff\xff", b"\xbe\xbe", b"\x00\x05ab", b"\x3f\xe1\xff\x03")
SETTINGS = (
    *((1, 0), (1, 4096), (2, 0), (3, 0), (3, 7), (4, 0), (4, 65535), (5, 16_384), (6, 100), (0xF0, 1)) * 2,
    *((2, 1), (2, 2), (4, frames.MAX_WINDOW), (4, 1 << 31), (5, 16_383), (5, 1 << 24)),
)
IDS = (1, 3, 5, 1, 3, 5, 1, 3, 5, 7, 9, 2, 0)
KINDS = (*range(10), 0x0A, 0x0B, 0xFA)


@dataclass(frozen=True)
class Step:
    """Frames to be received, or something that the layer above does: "reset", or "end" by a whole answer."""

    data: bytes = b""
    action: str = ""
    stream_id: int = 0


class Chooser:
    """Makes choices out of a number, until it is used up; from then on each first choice."""

    def __init__(self, number: int) -> None:
        self._number = number

    def pick(self, options: Sequence[T]) -> T:
        """Choose one."""
        self._number, index = divmod(self._number, len(options))
        return options[index]

    def one_in(self, count: int) -> bool:
        """Choose yes once in so many times."""
        return self.pick(range(count)) == count - 1


@functools.cache
def block(fields: tuple[Field, ...]) -> bytes:
    """Compress a list without use of the table, so that frames may come in any order."""
    return bytes(hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields]))


def headers(choose: Chooser) -> Step:
    """HEADERS, now and then with CONTINUATION, priority or padding."""
    stream_id = choose.pick(IDS)
    fields, flags = choose.pick(LIKELY)
    payload = block(fields)
    if choose.one_in(5):
        payload = block(choose.pick(GOOD_LISTS))
    elif choose.one_in(8):
        payload = block(choose.pick(BAD_LISTS))
    elif choose.one_in(20):
        payload = choose.pick(BROKEN_BLOCKS)
    flags |= frames.END_HEADERS
    rest = b""
    if choose.one_in(5):
        cut = choose.pick(range(len(payload) + 1))
        last = 0 if choose.one_in(6) else frames.END_HEADERS
        rest = frame(frames.CONTINUATION, last, 1 if choose.one_in(6) else stream_id, payload[cut:])
        payload, flags = payload[:cut], flags & ~frames.END_HEADERS
    if choose.one_in(8):
        flags |= frames.PRIORITY_FLAG
        payload = pack_u32(choose.pick((0, 1, 3, 11))) + b"\x10" + payload
    if choose.one_in(8):
        flags, payload = flags | frames.PADDED, padded(choose, payload)
    return Step(frame(frames.HEADERS, flags, stream_id, payload) + rest)


def data(choose: Chooser) -> Step:
    """DATA, up to more than the window."""
    stream_id, payload = choose.pick(IDS), bytes(choose.pick((3, 3, 3, 0, 1, 100, 16_384)))
    flags = frames.END_STREAM if choose.one_in(4) else 0
    if choose.one_in(6):
        flags, payload = flags | frames.PADDED, padded(choose, payload[:1000])
    return Step(frame(frames.DATA, flags, stream_id, payload) * choose.pick((1, 1, 1, 2, 5)))


def padded(choose: Chooser, payload: bytes) -> bytes:
    """Pad a payload; 255 is more than there is."""
    pad = choose.pick((0, 1, 20, 255))
    return bytes((pad,)) + payload + bytes(min(pad, 20))


def control(choose: Chooser) -> Step:
    """A control frame of the right length."""
    kind = choose.pick((4, 4, 4, 6, 6, 8, 8, 8, 8, 3, 3, 2, 7))
    if kind == frames.SETTINGS:
        if choose.one_in(4):
            return Step(settings_frame(ack=True))
        return Step(settings_frame(*[choose.pick(SETTINGS) for _ in range(choose.pick((1, 0, 2)))]))
    if kind == frames.PING:
        return Step(
            frame(kind, frames.ACK if choose.one_in(3) else 0, 0, bytes((choose.pick(range(256)),)) * 8)
        )
    if kind == frames.GOAWAY:
        return Step(frame(kind, 0, 0, pack_u32(choose.pick(IDS)) + pack_u32(0) + b"why"))
    stream_id = choose.pick(IDS)
    if kind == frames.WINDOW_UPDATE:
        increment = choose.pick((1, 1, 1, 65535, 0, frames.MAX_WINDOW, 1 << 31 | 7))
        return Step(frame(kind, 0, stream_id, pack_u32(increment)))
    if kind == frames.RST_STREAM:
        return Step(frame(kind, 0, stream_id, pack_u32(choose.pick((8, 7, 0, 99)))))
    return Step(frame(kind, 0, stream_id, pack_u32(choose.pick(IDS)) + b"\x00"))


def anything(choose: Chooser) -> Step:
    """Any type, flags, stream and length, the reserved bit now and then."""
    kind, flags = choose.pick(KINDS), choose.pick((0, 1, 4, 5, 8, 0x20, 0x28, 0x2D, 0xFF))
    stream_id = choose.pick(IDS) | (1 << 31 if choose.one_in(6) else 0)
    size = choose.pick((0, 1, 3, 4, 5, 6, 8, 9))
    filling = choose.pick((b"\x00", b"\x01", b"\x83", b"\xff"))
    return Step(frame(kind, flags, stream_id, filling * size))


def action(choose: Chooser) -> Step:
    """What the layer above might do."""
    return Step(action=choose.pick(("end", "reset")), stream_id=choose.pick(IDS))


MAKERS = (headers, headers, headers, data, data, data, control, control, control, action, anything)


def step(number: int) -> Step:
    """Make a step."""
    choose = Chooser(number)
    return choose.pick(MAKERS)(choose)


def well_begun(client: bool) -> list[Step]:
    """What most sequences begin with, so that there is something to go wrong."""
    fields, ids = (RESPONSE, (1, 3, 5)) if client else (REQUEST, (1, 3))
    return [Step(frame(frames.HEADERS, frames.END_HEADERS, stream_id, block(fields))) for stream_id in ids]


sequences = st.lists(st.integers(0, (1 << 62) - 1).map(step), min_size=1, max_size=14)
