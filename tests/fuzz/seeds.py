"""Where fuzzing starts: real exchanges as lbkit writes them, and each kind of bad input."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import hpack

from lbkit.encoding.compressors import known
from lbkit.http2 import frames
from lbkit.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PRIORITY_FLAG,
    frame,
)
from lbkit.http2.hpack import Field
from tests.fuzz.targets import BARE, BLOCKS, CLIENT, GENEROUS, OPENING, UNREAD
from tests.fuzz.watched import ANSWER, DIRECT, GREEDY, LINGERS, PARTING, REQUEST, RESETS, RESPONSE, TRAILERS
from tests.support.wire import Pair, data_frame, goaway_frame, reset_frame, settings_frame, window_update

FILES = Path(__file__).with_name("corpus")
MESSAGE = b"\x00\x00\x00\x00\x05hello"
METADATA: tuple[Field, ...] = (*REQUEST, (b"grpc-timeout", b"1S"), (b"x-id", b"17"), (b"trace-bin", b"AAEC"))


def seeds(target: str) -> dict[str, bytes]:
    """Return the inputs of a target by name: those written here, and the files of ``corpus``."""
    files = {path.name: path.read_bytes() for path in sorted((FILES / target).glob("*.bin"))}
    return {**_WRITERS[target](), **files}


def calls() -> tuple[bytes, bytes]:
    """Have two calls made between two engines; return what each end sent."""
    pair = Pair(shake=False)
    said = {True: b"", False: b""}

    def pump() -> None:
        for end, other in ((pair.client, pair.server), (pair.server, pair.client)) * 4:
            data = end.engine.take()
            said[end.engine.client] += data
            other.receive(data)

    pump()
    for metadata in (REQUEST, METADATA):
        stream = pair.client.open(metadata)
        pair.client.engine.send_data(stream, MESSAGE, True)
        pump()
        pair.answer(stream.id, MESSAGE)
        pump()
    pair.client.engine.goaway(0, 0, b"done")
    pump()
    return said[True], said[False]


def engine_seeds() -> dict[str, bytes]:
    from_client, from_server = calls()
    block = hpack.Encoder().encode(list(REQUEST))
    head = frame(HEADERS, END_HEADERS, 1, block)
    answer = frame(HEADERS, END_HEADERS, 1, hpack.Encoder().encode(list(RESPONSE)))
    end = frame(HEADERS, END_HEADERS | END_STREAM, 1, hpack.Encoder().encode(list(TRAILERS)))
    server = {
        "rapid reset": b"".join(
            frame(HEADERS, END_HEADERS, stream_id, block) + reset_frame(stream_id, 8)
            for stream_id in range(1, 21, 2)
        ),
        "continuation flood": frame(HEADERS, 0, 1, block) + frame(CONTINUATION, 0, 1, b"") * 20,
        "continuations": frame(HEADERS, 0, 1, block[:5])
        + frame(CONTINUATION, 0, 1, block[5:9])
        + frame(CONTINUATION, END_HEADERS, 1, block[9:]),
        "settings flood": settings_frame((4, 1)) * 30,
        "all settings": settings_frame((1, 64), (2, 0), (3, 5), (4, 70000), (5, 20000), (6, 500), (99, 1)),
        "ping flood": frame(PING, 0, 0, b"12345678") * 30,
        "empty frames": head + data_frame(1, b"") * 15,
        "priority flood": frame(PRIORITY, 0, 3, bytes(5)) * 20,
        "unknown frames": frame(0x0B, 0xFF, 7, b"?") * 20,
        "padding": frame(
            HEADERS, END_HEADERS | PADDED | PRIORITY_FLAG, 1, b"\x02" + bytes(5) + block + b"\0\0"
        )
        + frame(DATA, PADDED, 1, b"\x03hello\0\0\0"),
        "padding too long": head + frame(DATA, PADDED, 1, b"\x09hello"),
        "data after the end": frame(HEADERS, END_HEADERS | END_STREAM, 1, block) + data_frame(1, MESSAGE),
        "window overflow": head + window_update(1, 0x7FFFFFFF) + window_update(0, 0x7FFFFFFF),
        "window of nothing": head + window_update(1, 0),
        "more than the window": head + data_frame(1, bytes(3000)),
        "ids fall": frame(HEADERS, END_HEADERS, 5, block) + frame(HEADERS, END_HEADERS, 3, block),
        "frame too long": struct.pack(">HBBBL", 0xFFFF, 0xFF, DATA, 0, 1),
        "wrong sizes": b"".join(frame(kind, 0, 1, b"123") for kind in range(10)),
        "long message": head + data_frame(1, b"\0\0\0\x10\0" + bytes(100)) + data_frame(1, bytes(2000)),
        "push": frame(frames.PUSH_PROMISE, END_HEADERS, 1, bytes(4) + block),
    }
    client = {
        "answer": answer + data_frame(1, MESSAGE) + end,
        "informational": frame(HEADERS, END_HEADERS, 1, b"\x08\x03100") + answer + end,
        "answer of no length": frame(HEADERS, END_HEADERS, 1, BLOCKS[4]) + data_frame(1, b"abc", end=True),
        "data before headers": data_frame(1, MESSAGE),
        "reset and more": reset_frame(1, 7) + data_frame(1, MESSAGE) + reset_frame(1, 7),
        "goaway twice": goaway_frame(3) + goaway_frame(1) + goaway_frame(5),
    }
    found = {
        "client's side of two calls": bytes((BARE | GENEROUS, GREEDY | ANSWER, 2)) + from_client,
        "server's side of two calls": bytes((BARE | GENEROUS | CLIENT, GREEDY, 2)) + from_server,
        "http/1": bytes((BARE, 0, 1)) + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "tls": bytes((BARE, 0, 0)) + b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "opening only": bytes((BARE, 0, 0)) + frames.PREFACE + OPENING,
    }
    for number, (name, wire) in enumerate(server.items()):
        manner = (GREEDY | ANSWER, GREEDY | DIRECT, LINGERS | PARTING, RESETS | ANSWER)[number % 4]
        found[name] = bytes((UNREAD if "flood" in name else 0, manner, number % 6)) + wire
    for number, (name, wire) in enumerate(client.items()):
        found[name] = bytes((CLIENT, GREEDY | DIRECT | PARTING * (number & 1), number % 6)) + wire
    return found


def frames_seeds() -> dict[str, bytes]:
    """Steps: frame types are in bits 1 to 4, then flags, stream id, and what the type asks for."""
    head, data, reset, window = HEADERS << 1 | 1, DATA << 1, frames.RST_STREAM << 1, frames.WINDOW_UPDATE << 1
    request = bytes((head, END_HEADERS, 1, 0))
    return {
        "call": bytes((0, GREEDY | ANSWER)) + request + bytes((data, END_STREAM, 1, 5, 5)),
        "direct": bytes((0, GREEDY | DIRECT))
        + request
        + bytes((data, 0, 1, 5, 5))
        + bytes((data, 0xC0, 1, 70, 80)) * 3,
        "direct end": bytes((0, DIRECT))
        + request
        + bytes((data, 0, 1, 5, 5, data, 0xC1, 1, 70, 80, data, 0xC0, 1, 70, 80)),
        "answer": bytes((CLIENT, GREEDY | DIRECT))
        + bytes((head, END_HEADERS, 1, 3, data, 0, 1, 99, 9, head, END_HEADERS | END_STREAM, 1, 6)),
        "length": bytes((0, 0)) + bytes((head, END_HEADERS, 1, 2, data, END_STREAM, 1, 3, 3)),
        "resets": bytes((UNREAD, LINGERS))
        + b"".join(bytes((head, END_HEADERS, n, 0, reset, 0, n, 0, 0, 0, 8)) for n in (1, 3, 5, 7)),
        "windows": bytes((0, ANSWER))
        + bytes((frames.SETTINGS << 1, 0, 0, 0, 0, 4, 0, 0, 0, 0))
        + request
        + bytes((window, 0, 1, 0, 0, 4, 0)) * 4,
        "application": bytes((CLIENT, GREEDY))
        + bytes(byte for what in range(11) for byte in (0xC0 | what, 1, 8)),
        "refused blocks": bytes((0, 0)) + b"".join(bytes((head, END_HEADERS, 1 + n, n)) for n in range(14)),
        "goaway": bytes((CLIENT, PARTING)) + bytes((frames.GOAWAY << 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0)),
    }


def hpack_seeds() -> dict[str, bytes]:
    encoder = hpack.Encoder()
    rounds = [
        encoder.encode(list(fields), huffman=number % 2 == 0)
        for number, fields in enumerate((REQUEST, METADATA) * 2)
    ]
    encoder.header_table_size = 64
    rounds.append(encoder.encode(list(METADATA)))
    bomb = b"\x40\x01n\x7f\x81\x02" + b"v" * 384
    cases = {
        "calls": rounds,
        "bomb": [bomb, b"\xbe" * 200],
        "evictions": [b"\x3f\x45", *(b"\x40\x01a\x05%05d" % number for number in range(5)), b"\xbe\xbf"],
        "table sizes": [b"\x20\x3f\xe1\x1f\x82", b"\x20\x20\x20"],
        "long integers": [b"\xff\x80\x80\x80\x80\x00", b"\x0f\x9e\x80\x80\x80\x00\x00"],
        "huffman": [b"\x00\x83\x1c\x64\x5f\x81\x1f", b"\x00\x81\xff\x00"],
        "all blocks": list(BLOCKS),
    }
    return {
        name: bytes((len(name) & 1,)) + b"".join(map(_with_length, blocks)) for name, blocks in cases.items()
    }


def _with_length(block: bytes) -> bytes:
    return struct.pack(">H", len(block)) + block


def wire_seeds() -> dict[str, bytes]:
    return {
        "message": b"\x00\x00\x00\x00" + MESSAGE,
        "two messages": b"\x00\x01\x00\x00" + MESSAGE * 2,
        "compressed message": b"\x00\x00\x01\x00\x01\x00\x00\x00\x01x",
        "too large a message": b"\x00\x00\xff\x00\x00\x7f\xff\xff\xffx",
        "large message": b"\x00\x01\x90\xa0\x00\x00\x00\xa0\x05hello",
        "message as long as the shortest direct read": b"\x00\x01\x80\x80\x00\x00\x00\x80\x00",
        "timeout": b"\x0199999999H",
        "metadata": b"\x02x-id\x0017\x00trace-bin\x00AAEC,AA==\x00x-bin\x00!",
        "details": b"\x03caf%C3%A9 %E4%ZZ 100%",
        "trailers": b"\x04grpc-status\x0014\x00grpc-message\x00gone %F0%9F",
        "request": b"\x05:method\x00POST\x00:path\x00/a/B\x00content-type\x00application/grpc\x00grpc-timeout\x001S"
        b"\x00grpc-encoding\x00identity\x00k-bin\x00AA",
    }


def compressed_seeds() -> dict[str, bytes]:
    found: dict[str, bytes] = {"nothing": b""}
    for number, name in enumerate(("gzip", "deflate", "zstd")):
        encoding = known(name)
        assert encoding is not None, f"{name} is not installed"
        whole = bytes((number,)) + encoding.compressor.compress(b"the same words " * 50)
        found[f"{name}"] = whole
        found[f"{name} cut short"] = whole[:-1]
        found[f"{name} and more"] = whole + b"more"
        found[f"{name} with a wrong checksum"] = whole[:-6] + bytes((whole[-6] ^ 1,)) + whole[-5:]
        found[f"{name} of nothing"] = bytes((number,)) + encoding.compressor.compress(b"")
        found[f"{name} above the limit"] = bytes((number,)) + encoding.compressor.compress(bytes(100_000))
    return found


_WRITERS: dict[str, Callable[[], dict[str, bytes]]] = {
    "engine": engine_seeds,
    "frames": frames_seeds,
    "hpack": hpack_seeds,
    "wire": wire_seeds,
    "compressed": compressed_seeds,
}
