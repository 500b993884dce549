"""Sequences of frames, good and bad, for our engines and for plain h2: where they differ, a row here says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from lbkit.http2 import frames
from lbkit.http2.closed import ENDED, FORGOTTEN, PASSED_OVER, RESET_BY_PEER, RESET_BY_US
from lbkit.http2.engine import NativeEngine
from lbkit.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_ID_MASK,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
    pack_u32,
)
from lbkit.http2.hpack import Field
from tests.support.differential import EngineSubject, Outcome, PlainH2
from tests.support.frame_sequences import Step, block, sequences, well_begun
from tests.support.wire import REQUEST, TRAILERS, settings_frame, split_frames

COMPRESSION, PROTOCOL, FRAME_SIZE, FLOW_CONTROL, STREAM_CLOSED = (
    ErrorCode.COMPRESSION_ERROR,
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.STREAM_CLOSED,
)
REFUSED = ErrorCode.REFUSED_STREAM
ALTSVC = 0x0A
FATES = {
    ENDED: "ended",
    RESET_BY_US: "reset by us",
    RESET_BY_PEER: "reset by the peer",
    PASSED_OVER: "passed over",
    FORGOTTEN: "forgotten",
}

# What is compared


@dataclass(frozen=True)
class Difference:
    """One frame of which two make different things.

    Attributes:
        kind, flags, stream_id, payload: the frame's; the reserved bit is left out.
        stream: what the native engine had for that id before: "live", "idle", or how it had gone.
        in_block: whether a header block was incomplete.
        missing: whether content-length promised more than had come.
        on_itself: whether the stream was said to depend on itself, in this frame or at the block's beginning.
        ours: what the native engine made of it.
        theirs: what the other one did.
    """

    kind: int
    flags: int
    stream_id: int
    payload: bytes
    stream: str
    in_block: bool
    missing: bool
    on_itself: bool
    ours: Outcome
    theirs: Outcome

    def codes(self, ours: int, theirs: int) -> bool:
        """Whether both have ended the connection, with these codes."""
        return (self.ours.fault, self.theirs.fault) == (ours, theirs)


@dataclass(frozen=True)
class Row:
    """A difference that is known.

    Attributes:
        section: of RFC 9113, which decides.
        reason: what it says.
        fits: whether a difference is this one.
        example: frames that lead to it, after ``well_begun`` ones.
        client: whether the example is for a client.
        engine: whether the reference engine has it too, and not only h2 by itself.
    """

    section: str
    reason: str
    fits: Callable[[Difference], bool]
    example: bytes
    client: bool = False
    engine: bool = False


def opening(stream_id: int, fields: tuple[Field, ...], flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream_id, block(fields))


def depends_on_itself(kind: int, flags: int, stream_id: int, payload: bytes) -> bool:
    """Whether a frame has its stream depend on itself (RFC 7540 5.3.1)."""
    if kind == HEADERS and flags & PADDED:
        payload = payload[1:]
    wanted = kind == PRIORITY or (kind == HEADERS and flags & PRIORITY_FLAG > 0)
    return wanted and int.from_bytes(payload[:4], "big") & STREAM_ID_MASK == stream_id


def delivered(outcome: Outcome, odd: Callable[[dict[bytes, bytes]], bool]) -> bool:
    """Whether a header list was delivered that is odd in a way."""
    return any(event[0] == "headers" and odd(dict(event[2])) for event in outcome.events)


MESSAGE = {DATA, HEADERS, CONTINUATION}
BLOCK = {HEADERS, CONTINUATION}
LONG = (*REQUEST, (b"content-length", b"3"))
FULL = END_HEADERS | END_STREAM

KNOWN: dict[str, Row] = {
    "malformed message": Row(
        "8.1.1",
        "A malformed message is a fault of its stream; h2 ends the connection.",
        lambda d: (
            d.kind in MESSAGE
            and d.ours.fault is None
            and d.ours.resets == ((d.stream_id, PROTOCOL),)
            and d.theirs.fault == PROTOCOL
            and not d.on_itself
        ),
        opening(5, REQUEST[:2]),
    ),
    "two faults: an informational end on a closed stream": Row(
        "5.1, 8.1",
        "HEADERS with status 1xx and END_STREAM, where none may come: h2 names the first fault, we the second.",
        lambda d: (
            d.kind in BLOCK
            and (d.ours.fault == STREAM_CLOSED or d.ours.resets == ((d.stream_id, STREAM_CLOSED),))
            and d.theirs.fault == PROTOCOL
        ),
        opening(5, REQUEST, FULL) + opening(5, ((b":status", b"103"),), FULL),
    ),
    "content-length without content": Row(
        "8.1.1",
        "HEADERS that end the stream bring none of the content that was promised; h2 looks at DATA only.",
        lambda d: (
            d.kind in BLOCK
            and d.ours.resets == ((d.stream_id, PROTOCOL),)
            and (d.missing or delivered(d.theirs, lambda fields: b"content-length" in fields))
            and delivered(d.theirs, lambda _: True)
        ),
        opening(5, LONG, FULL),
    ),
    "no authority": Row(
        "8.3.1",
        "Only a client must send :authority; a gRPC server has no use for it. h2 insists on it, or on host.",
        lambda d: (
            d.kind in BLOCK
            and delivered(d.ours, lambda fields: b":authority" not in fields)
            and d.theirs.fault == PROTOCOL
        ),
        opening(5, REQUEST[:3]),
    ),
    "space around a value": Row(
        "8.2.1",
        "Such a field is malformed; the native engine lets it pass, for gRPC strips such values anyway.",
        lambda d: (
            d.kind in BLOCK
            and delivered(d.ours, lambda fields: any(value != value.strip() for value in fields.values()))
            and d.theirs.fault == PROTOCOL
        ),
        opening(5, (*REQUEST, (b"x-a", b" 1"))),
    ),
    "more than the stream's window": Row(
        "6.9.1",
        "Either is right. h2 ends the connection; other calls on it should not suffer.",
        lambda d: (
            d.kind == DATA
            and d.ours.resets == ((d.stream_id, FLOW_CONTROL),)
            and d.theirs.fault == FLOW_CONTROL
        ),
        frame(DATA, 0, 1, bytes(16_384)) * 5,
    ),
    "WINDOW_UPDATE of 0": Row(
        "6.9",
        "An increment of 0 on a stream is that stream's fault; h2 ends the connection.",
        lambda d: (
            d.kind == WINDOW_UPDATE
            and d.stream_id > 0
            and int.from_bytes(d.payload, "big") & frames.MAX_WINDOW == 0
            and d.ours.fault is None
            and d.theirs.fault == PROTOCOL
        ),
        frame(WINDOW_UPDATE, 0, 1, bytes(4)),
    ),
    "reserved bit of WINDOW_UPDATE": Row(
        "6.9",
        "The bit must be ignored; h2 takes it for a part of the increment.",
        lambda d: d.kind == WINDOW_UPDATE and d.payload[0] & 0x80 > 0 and d.theirs.fault == PROTOCOL,
        frame(WINDOW_UPDATE, 0, 1, pack_u32(1 << 31 | 7)),
    ),
    "two faults: stream 0 and compression": Row(
        "6.2, 4.3",
        "A block that cannot be decoded, on stream 0: each is the end, and either may be named.",
        lambda d: d.kind in BLOCK and d.stream_id == 0 and d.codes(COMPRESSION, PROTOCOL),
        frame(HEADERS, END_HEADERS, 0, b"\x80"),
        engine=True,
    ),
    "compression": Row(
        "4.3",
        "A block that cannot be decoded is COMPRESSION_ERROR; h2 says PROTOCOL_ERROR.",
        lambda d: d.kind in BLOCK and d.codes(COMPRESSION, PROTOCOL),
        frame(HEADERS, END_HEADERS, 5, b"\x80"),
    ),
    "RST_STREAM on an idle stream": Row(
        "5.1",
        "No frame but HEADERS and PRIORITY may come on an idle stream; h2 ignores this one.",
        lambda d: (
            d.kind == RST_STREAM
            and d.stream == "idle"
            and d.ours.fault == PROTOCOL
            and d.theirs.fault is None
        ),
        frame(RST_STREAM, 0, 9, bytes(4)),
    ),
    "two faults: stream 0 and length": Row(
        "6.2, 6.4",
        "RST_STREAM or HEADERS of a wrong length on stream 0: each is the end, and either may be named.",
        lambda d: d.kind in {RST_STREAM, HEADERS} and d.stream_id == 0 and d.codes(FRAME_SIZE, PROTOCOL),
        frame(RST_STREAM, 0, 0, b"\x00"),
        engine=True,
    ),
    "late frame on a stream that ended": Row(
        "5.1",
        "What comes after END_STREAM on a closed stream ends the connection; h2 resets the stream.",
        lambda d: (
            d.kind in MESSAGE
            and d.stream == "ended"
            and d.ours.fault == STREAM_CLOSED
            and d.theirs.resets == ((d.stream_id, STREAM_CLOSED),)
        ),
        opening(5, TRAILERS, FULL) + frame(DATA, 0, 5, b"late"),
        client=True,
    ),
    "late frame on a stream that we reset": Row(
        "5.1",
        "It was on its way, and must be ignored; h2 answers each with RST_STREAM, or ends the connection.",
        lambda d: (
            d.kind in MESSAGE
            and d.stream == "reset by us"
            and (d.ours.events, d.ours.resets, d.ours.fault) == ((), (), None)
            and (
                d.theirs.resets == ((d.stream_id, STREAM_CLOSED),)
                or d.theirs.fault in {PROTOCOL, STREAM_CLOSED}
            )
        ),
        frame(WINDOW_UPDATE, 0, 1, pack_u32(frames.MAX_WINDOW)) + frame(DATA, 0, 1, b"late"),
    ),
    "DATA on a stream that was passed over": Row(
        "5.1, 5.1.1",
        "It was closed without END_STREAM or RST_STREAM when a higher one was opened; h2 resets it.",
        lambda d: (
            d.kind == DATA
            and d.stream == "passed over"
            and d.ours.fault == PROTOCOL
            and d.theirs.resets == ((d.stream_id, STREAM_CLOSED),)
        ),
        opening(9, REQUEST) + frame(DATA, 0, 7, b"late"),
    ),
    "HEADERS on a stream of the server's": Row(
        "5.1.1, 8.4",
        "Servers open streams by PUSH_PROMISE only; h2 as a client takes such a block for a request.",
        lambda d: (
            d.kind in BLOCK
            and d.stream == "idle"
            and not d.stream_id & 1
            and d.ours.fault == PROTOCOL
            and delivered(d.theirs, lambda _: True)
        ),
        opening(2, REQUEST),
        client=True,
    ),
    "padding that leaves no fragment": Row(
        "6.2",
        "Padding may fill all the room there is; h2 forgets that the length's own byte is a part of it.",
        lambda d: (
            d.kind == HEADERS
            and d.flags & PADDED > 0
            and d.payload[:1] == bytes((len(d.payload) - 1,))
            and d.ours.fault is None
            and d.theirs.fault == PROTOCOL
        ),
        frame(HEADERS, PADDED, 5, b"\x01\x00"),
        engine=True,
    ),
    "dependency on itself": Row(
        "5.3.2",
        "RFC 9113 has given priorities up. RFC 7540 5.3.1 made it a fault of the stream; h2 ends the connection.",
        lambda d: (
            d.on_itself
            and (PROTOCOL in {d.ours.fault, d.theirs.fault} or d.ours.resets == ((d.stream_id, PROTOCOL),))
        ),
        frame(PRIORITY, 0, 1, pack_u32(1) + b"\x00"),
        engine=True,
    ),
    "PUSH_PROMISE": Row(
        "8.4",
        "Push is off, so it ends the connection whatever is in it; h2 looks at its length first.",
        lambda d: d.kind == PUSH_PROMISE and d.codes(PROTOCOL, FRAME_SIZE),
        frame(PUSH_PROMISE, END_HEADERS, 1, b""),
        engine=True,
    ),
    "GOAWAY": Row(
        "6.8",
        "Streams above its last id were not served, and that id may not rise; h2 leaves all of that to its user.",
        lambda d: (
            d.kind == GOAWAY
            and d.theirs.fault is None
            and (
                d.ours.fault == PROTOCOL
                or (
                    d.ours.events[:1] == d.theirs.events
                    and all(event[::2] == ("reset", REFUSED) for event in d.ours.events[1:])
                )
            )
        ),
        frame(GOAWAY, 0, 0, pack_u32(3) + bytes(4)),
        client=True,
    ),
    "ALTSVC": Row(
        "5.5",
        "We have no use for this extension, so it is an unknown type, to be ignored; h2 ends the connection.",
        lambda d: d.kind == ALTSVC and d.ours.fault is None and d.theirs.fault == FRAME_SIZE,
        frame(ALTSVC, 0, 0, b"\x00"),
    ),
    "two faults: an interrupted block and a length": Row(
        "6.10, 4.2",
        "A frame of a wrong length inside a header block: each is the end, and either may be named.",
        lambda d: d.in_block and d.kind != CONTINUATION and d.codes(PROTOCOL, FRAME_SIZE),
        opening(5, REQUEST, 0) + frame(RST_STREAM, 0, 5, b""),
    ),
    "CONTINUATION out of place": Row(
        "6.10",
        "It ends the connection with PROTOCOL_ERROR; h2 looks at what became of the stream.",
        lambda d: (
            d.kind == CONTINUATION
            and not d.in_block
            and d.ours.fault == PROTOCOL
            and (d.theirs.fault == STREAM_CLOSED or d.theirs.resets == ((d.stream_id, STREAM_CLOSED),))
        ),
        frame(RST_STREAM, 0, 1, bytes(4)) + opening(5, REQUEST) + frame(CONTINUATION, END_HEADERS, 1, b""),
    ),
    "SETTINGS and the window of a closed stream": Row(
        "6.9.2",
        "INITIAL_WINDOW_SIZE changes the windows of streams that are open; h2 counts closed ones for a while.",
        lambda d: (
            d.kind == SETTINGS
            and b"\x00\x04\x7f\xff\xff\xff" in d.payload
            and d.ours.fault is None
            and d.theirs.fault == FLOW_CONTROL
        ),
        frame(WINDOW_UPDATE, 0, 1, pack_u32(9))
        + frame(RST_STREAM, 0, 1, bytes(4))
        + settings_frame((4, frames.MAX_WINDOW)),
    ),
    "SETTINGS acknowledgement with a payload": Row(
        "6.5",
        "It is FRAME_SIZE_ERROR; h2 says PROTOCOL_ERROR.",
        lambda d: d.kind == SETTINGS and d.flags & ACK > 0 and d.codes(FRAME_SIZE, PROTOCOL),
        frame(SETTINGS, ACK, 0, b"\x00"),
        engine=True,
    ),
    "SETTINGS with a parameter twice": Row(
        "6.5.3",
        "Parameters are obeyed in the order in which they come; h2 looks at the last of a kind only.",
        lambda d: (
            d.kind == SETTINGS
            and d.ours.fault is not None
            and d.theirs.fault is None
            and d.payload[0:2] in {d.payload[at : at + 2] for at in range(6, len(d.payload), 6)}
        ),
        settings_frame((5, 1), (5, 16_384)),
        engine=True,
    ),
}


def explained(difference: Difference, *, engine: bool) -> str:
    """Return the name of the row that explains a difference; fail if there is none."""
    for name, row in KNOWN.items():
        if (row.engine or not engine) and row.fits(difference):
            return name
    pytest.fail(f"a difference that is not in the table: {difference}")


def fate(engine: NativeEngine, stream_id: int) -> str:
    """What the engine knows about a stream."""
    if stream_id in engine.streams:
        return "live"
    return FATES[engine._closed.fate(stream_id)] if engine._was_used(stream_id) else "idle"


def compare(ours: EngineSubject, theirs: EngineSubject | PlainH2, steps: list[Step]) -> str:
    """Feed the steps to both until they differ, or one of them hangs up; return the row that explains it."""
    plain = isinstance(theirs, PlainH2)
    on_itself = False
    for step in steps:
        if step.action:
            if ours.can(step.action, step.stream_id):
                ours.act(step.action, step.stream_id)
                theirs.act(step.action, step.stream_id)
            continue
        for each in split_frames(step.data):
            engine, stream_id = ours.end.engine, each.stream_id & frames.STREAM_ID_MASK
            known, in_block = fate(engine, stream_id), engine._block is not None
            if each.kind != CONTINUATION:
                on_itself = depends_on_itself(each.kind, each.flags, stream_id, each.payload)
            missing = stream_id in engine.streams and engine.streams[stream_id].missing > 0
            data = frame(*each)
            here, there = ours.receive(data), theirs.receive(data)
            if here != there:
                found = Difference(
                    each.kind,
                    each.flags,
                    stream_id,
                    each.payload,
                    known,
                    in_block,
                    missing,
                    on_itself,
                    here,
                    there,
                )
                return explained(found, engine=not plain)
            if here.fault is not None or (plain and each.kind == frames.GOAWAY):
                return ""  # after GOAWAY h2 by itself takes nothing more (RFC 9113 6.8 has the streams go on)
    return ""


def check(sequences_each: int, make: Callable[[], EngineSubject | PlainH2], *, client: bool) -> None:
    """Compare the native engine with another on so many sequences, the same ones each time."""
    start = well_begun(client=client)

    @settings(
        max_examples=sequences_each,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
    @given(sequences)
    def run(steps: list[Step]) -> None:
        begun = start if len(steps) % 4 else []
        compare(EngineSubject(client=client, h2=False), make(), [*begun, *steps])

    run()


SIDES = pytest.mark.parametrize("client", [False, True], ids=["server", "client"])


@SIDES
def test_every_difference_from_h2_is_explained(client: bool) -> None:
    check(1500, lambda: PlainH2(client=client), client=client)


@SIDES
def test_every_difference_from_the_reference_engine_is_explained(client: bool) -> None:
    check(500, lambda: EngineSubject(client=client, h2=True), client=client)


def test_the_manual_has_every_row() -> None:
    """docs/design/h2-engine.md shows the table."""
    manual = (Path(__file__).parents[2] / "docs/design/h2-engine.md").read_text("utf-8").splitlines()
    for name, row in KNOWN.items():
        assert f"| {name} | {row.section} | {row.reason} | {'yes' if row.engine else ''} |" in manual


@pytest.mark.parametrize("name", KNOWN)
def test_rows_of_the_table_are_still_true(name: str) -> None:
    """If this fails, h2 or we have changed: take the row out, or put it right."""
    row = KNOWN[name]
    steps = [*well_begun(client=row.client), Step(row.example)]
    assert compare(EngineSubject(client=row.client, h2=False), PlainH2(client=row.client), steps) == name
    reference = EngineSubject(client=row.client, h2=True)
    assert compare(EngineSubject(client=row.client, h2=False), reference, steps) == (
        name if row.engine else ""
    )
