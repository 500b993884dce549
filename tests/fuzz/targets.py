"""What is fuzzed: each target takes any bytes, and raises if a promise was broken."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress

import hpack

from lbkit.encoding.compressors import known
from lbkit.http2 import frames
from lbkit.http2.frames import frame
from lbkit.http2.hpack import CompressionError, Field, HeaderListAbusive, HeaderListTooLarge
from lbkit.http2.hpack_decoder import Decoder
from lbkit.limits import Limits
from lbkit.wire.faults import WireFault
from lbkit.wire.messages import PREFIX_BYTES, OneMessage, whole_message
from lbkit.wire.metadata import decode_metadata
from lbkit.wire.packing import Compressed, pack, unpack
from lbkit.wire.requests import RequestHead
from lbkit.wire.status import decode_details, encode_details, status_of_trailers
from lbkit.wire.timeout import decode_timeout
from tests.fuzz.watched import BODY, SMALL, Event, Watched

# The first byte of an input for the engine; the second is what its application does, see ``watched``.
CLIENT = 1  # the engine is a client, with three calls
GENEROUS = 2  # the usual limits and not the small ones
BARE = 4  # the input begins with the peer's preface and SETTINGS; else the peer has shaken hands
UNREAD = 8  # the peer reads nothing before the end

OPENING = frame(frames.SETTINGS, 0, 0, b"") + frame(frames.SETTINGS, frames.ACK, 0, b"")
DIRECT_BYTES = 32 * 1024  # what the engine asks room for is at least as long
_LIMIT = 50_000  # of a message
_PLAIN_LIMIT = 5_000  # of one that was compressed
_ENCODINGS = ("gzip", "deflate", "zstd")
_STEPS = (1, 3, 9, 10, 100, 1000)


class Input:
    """Reads an input from front to back; what is past the end is zero."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        return self.take(1)[0] if self else 0

    def number(self) -> int:
        """Four bytes."""
        return int.from_bytes(self.take(4), "big")

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        self._at += count
        return part

    def rest(self) -> bytes:
        return self.take(len(self._data))


def begin(mode: int, manner: int) -> Watched:
    """Set up the end that the first two bytes of an input ask for."""
    client = mode & CLIENT != 0
    end = Watched(client=client, limits=Limits() if mode & GENEROUS else SMALL, manner=manner)
    if not mode & BARE:
        end.receive(OPENING if client else frames.PREFACE + OPENING)
    if client:
        end.open(end=True)
        end.open(end=False, body=BODY)
        end.open(end=True, body=BODY)
    if not mode & UNREAD:
        end.take()
    return end


def engine(data: bytes) -> None:
    """Bytes as they come from the socket, at once and in pieces: both must mean the same."""
    source = Input(data)
    mode, manner, step = source.byte(), source.byte(), _STEPS[source.byte() % len(_STEPS)]
    wire = source.rest()
    stories: list[list[Event]] = []
    for size in (65536, step):
        end = begin(mode, manner)
        end.receive(wire, size)
        if not end.gone:
            end.events.append(("unfinished", end.engine.unfinished_since is not None))
        end.close()
        stories.append(story(end.events))
    assert stories[0] == stories[1], f"in pieces of {step}: {difference(*stories)}"


def story(events: list[Event]) -> list[Event]:
    """What was said, but for what depends on the pieces: who was there at the end, and a stranger's first words."""
    said = [event for event in events if event[0] != "lost"]
    return [event[:2] if "does not speak HTTP/2" in str(event[-1]) else event for event in said]


def difference(one: list[Event], other: list[Event]) -> str:
    """Say where two stories part."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return f"event {at} is {right}, and not {left}"
    return f"{len(other)} events, and not {len(one)}: {(one + other)[-1]}"


BLOCKS: tuple[bytes, ...] = (
    b"\x83\x86\x04\x02/x\x01\x01h",  # a request
    b"\x83\x86\x04\x02/x\x01\x01h\x40\x01n\x01v",  # one more, which fills the table
    b"\x83\x86\x04\x02/x\x0f\x0d\x0210",  # with content-length 10
    b"\x88",  # a response
    b"\x88\x0f\x0d\x015",  # with content-length 5
    b"\x08\x03100",  # an informational one
    b"\x00\x0bgrpc-status\x010",  # trailers
    b"",
    b"\xbe",  # the newest entry of the table
    b"\x83\x86",  # malformed: no path
    b"\x83\x86\x04\x02/x\x00\x01U\x01v",  # malformed: an upper-case name
    b"\x00\x01n\x7f\x81\x02" + b"v" * 384,  # longer than the small limit
    b"\x80",  # not HPACK
    b"\x20\x83\x86\x04\x02/x",  # empties the table
)
_SIZES = {
    frames.PRIORITY: 5,
    frames.RST_STREAM: 4,
    frames.SETTINGS: 6,
    frames.PUSH_PROMISE: 8,
    frames.PING: 8,
    frames.GOAWAY: 8,
    frames.WINDOW_UPDATE: 4,
}


def engine_frames(data: bytes) -> Watched:
    """A list of steps: whole frames, header blocks that make sense, and what the application does in between.

    Random bytes hardly ever make a second valid frame; random steps reach every state of a stream.
    """
    source = Input(data)
    mode, manner = source.byte(), source.byte()
    end = begin(mode, manner)
    while source and not end.gone:
        step = source.byte()
        if step < 0xC0:
            wire = _peer_frame(source, step)
            end.receive(wire, 65536 if step & 1 else 7 + len(wire) // 4)
        else:
            _application(end, source, step & 0x0F)
        if not mode & UNREAD:
            end.take()
    end.close()
    return end


def _peer_frame(source: Input, step: int) -> bytes:
    """Write the frame that a step stands for."""
    kind, flags, stream_id = step >> 1 & 0x0F, source.byte(), source.byte() & 0x0F
    payload: bytes
    if kind == frames.HEADERS or (kind == frames.CONTINUATION and flags & 0x80):
        payload = BLOCKS[source.byte() % len(BLOCKS)]
        if flags & frames.PRIORITY_FLAG:
            payload = source.take(5) + payload
    elif kind == frames.DATA:
        payload = bytes(source.byte() * source.byte() << (flags >> 6))  # up to 520 kB
    elif kind in _SIZES and not flags & 0x40:
        count = 1 + source.byte() % 10 if kind == frames.SETTINGS and not flags & frames.ACK else 1
        payload = source.take(_SIZES[kind] * count)
        payload += bytes(_SIZES[kind] * count - len(payload))
        if kind in {frames.SETTINGS, frames.PING, frames.GOAWAY}:
            payload = b"" if kind == frames.SETTINGS and flags & frames.ACK else payload
            stream_id = 0
    else:
        payload = source.take(source.byte())
    if flags & frames.PADDED and kind in {frames.HEADERS, frames.DATA}:
        padding = source.byte()
        payload = bytes((padding,)) + payload + bytes(padding)
    return frame(kind, flags & 0x2D, stream_id, payload)


def _application(end: Watched, source: Input, what: int) -> None:
    """Do what an application may do."""
    which = source.byte()
    alive = [sink for sink in end.sinks if not sink.over and sink.stream.id in end.engine.streams]
    sink = alive[which % len(alive)] if alive else None
    if what == 0 and end.engine.client:
        end.open(end=which & 1 != 0, body=BODY if which & 2 else b"")
    elif what == 1:
        end.take()
    elif what == 2:
        end.time += source.byte() / 10
    elif what == 3:
        end.say_goaway()
    elif what == 4:
        end.release()
    elif what == 5:
        end.ping()
    elif what == 6:
        end.manner ^= which & 0x3F
    elif sink is not None and what == 7:
        end.cancel(sink)
    elif sink is not None and what == 8:
        end.finish(sink)
    elif sink is not None and what == 9 and sink.headed:
        end.send(sink, BODY[: source.byte() << 4], source.byte() & 1 != 0)
    elif sink is not None and what == 10 and not sink.ended:
        end.engine.expect(sink.stream, source.byte() << 10)


def hpack_blocks(data: bytes) -> None:
    """Blocks for one decoder: no exception but its own, and the fields and table of `hpack` for what it takes.

    Each block stands behind two bytes of length. The first byte picks the limits.
    """
    source = Input(data)
    soft, hard = ((16384, 65536), (100, 400))[source.byte() & 1]
    ours, oracle = Decoder(soft_limit=soft, hard_limit=hard), hpack.Decoder(max_header_list_size=hard)
    while source:
        block = source.take(struct.unpack(">H", source.take(2).rjust(2, b"\0"))[0])
        verdict, fields = _decode(ours, block)
        if verdict is CompressionError or verdict is HeaderListAbusive:
            return
        expected = tuple((bytes(name), bytes(value)) for name, value in oracle.decode(block, raw=True))
        if verdict is None:
            assert fields == expected, f"{fields} and not {expected}"
            assert list_size(fields) <= soft
        else:
            assert list_size(expected) > soft
        table = [(bytes(name), bytes(value)) for name, value in oracle.header_table.dynamic_entries]
        assert ours._table[::-1] == table, "the tables differ"
        assert ours._size == oracle.header_table._current_size <= 4096


def _decode(decoder: Decoder, block: bytes) -> tuple[type[Exception] | None, tuple[Field, ...]]:
    try:
        return None, decoder.decode(block)
    except (CompressionError, HeaderListTooLarge, HeaderListAbusive) as error:
        return type(error), ()


def list_size(fields: tuple[Field, ...]) -> int:
    return sum(len(name) + len(value) + 32 for name, value in fields)


def wire(data: bytes) -> None:
    """Each reader of gRPC's own formats: the first byte says which."""
    kind, data = data[:1], data[1:]
    with suppress(WireFault):
        _READERS[kind[0] % len(_READERS) if kind else 0](data)


def _message(data: bytes) -> None:
    """One message in pieces is what it is in one.

    Three bytes: whether the prefix comes on its own; the length of the pieces; how many zeros the payload begins
    with, so that it is long enough for the room that the engine asks for.
    """
    source = Input(data)
    alone, step, zeros = source.byte() & 1, source.byte() << 8 or 1, source.byte() << 8
    body = source.take(PREFIX_BYTES) + bytes(zeros) + source.rest()
    first = PREFIX_BYTES if alone else step
    whole, expected = OneMessage(_LIMIT), None
    with suppress(WireFault):
        whole.feed(body)
        expected = whole.finish()
    pieces, found, begun = OneMessage(_LIMIT), None, False
    with suppress(WireFault):
        for at in (0, *range(first, len(body), step)):
            piece = body[at : at + step if at else first]
            if begun and DIRECT_BYTES <= len(piece) <= pieces.missing:
                pieces.room(len(piece))[:] = piece
                pieces.filled(len(piece))
            else:
                begun = pieces.feed(piece) or begun
            assert not begun or 0 <= pieces.missing <= _LIMIT
        found = pieces.finish()
    assert found == expected, f"{found!r} in pieces, {expected!r} at once"
    short = whole_message(body)
    if short is not None and len(short) <= _LIMIT:
        assert short == expected, "whole_message reads another message"
    else:
        assert expected is None, "whole_message does not know a whole message"


def compressed(data: bytes) -> None:
    """One message in each encoding: the first byte says which. Nothing but bytes within the limit comes of it."""
    name = _ENCODINGS[data[0] % len(_ENCODINGS) if data else 0]
    encoding = known(name)
    assert encoding is not None, f"{name} is not installed"
    made = Compressed.of(data[1:], encoding)
    with suppress(WireFault):
        plain = unpack(made, _PLAIN_LIMIT)
        assert len(plain) <= _PLAIN_LIMIT, f"{len(plain)} bytes of {len(made)}"
        assert unpack(made, len(plain)) == plain
        again = pack(plain, encoding)
        assert (unpack(again, len(plain)) if isinstance(again, Compressed) else again) == plain


def _timeout(data: bytes) -> None:
    seconds = decode_timeout(data)
    assert 0 <= seconds < 99_999_999 * 3600 + 1


def _metadata(data: bytes) -> None:
    """Names and values apart by zero bytes."""
    decode_metadata(_fields(data))


def _details(data: bytes) -> None:
    text = decode_details(data)
    assert decode_details(encode_details(text)) == text


def _trailers(data: bytes) -> None:
    status_of_trailers(_fields(data))


def _request(data: bytes) -> None:
    RequestHead(_fields(data)).metadata()


def _fields(data: bytes) -> tuple[Field, ...]:
    """Make fields whose names HTTP/2 has let pass: lower-case ASCII, and not empty."""
    parts = data.split(b"\0")
    names = [bytes(byte & 0x7F for byte in part).lower() or b"x" for part in parts[::2]]
    return tuple(zip(names, parts[1::2], strict=False))


_READERS: tuple[Callable[[bytes], None], ...] = (_message, _timeout, _metadata, _details, _trailers, _request)

TARGETS: dict[str, Callable[[bytes], object]] = {
    "engine": engine,
    "frames": engine_frames,
    "hpack": hpack_blocks,
    "wire": wire,
    "compressed": compressed,
}
