"""Bytes may come in any pieces: whatever a peer sends, right or wrong, comes to the same as in one piece."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

import hpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lbkit.http2 import frames
from lbkit.http2.faults import ConnectionFault
from lbkit.http2.frames import ErrorCode, Setting, frame
from lbkit.http2.hpack import Field
from lbkit.limits import Limits
from tests.support.wire import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    Event,
    Scripted,
    data_frame,
    goaway_frame,
    reset_frame,
    settings_frame,
    window_update,
)

# Small, so that a few frames reach them.
LIMITS = Limits(
    max_concurrent_streams=3,
    stream_window=40,
    empty_frames=2,
    glitches_burst=4,
    resets_burst=4,
    pings_burst=3,
    settings_burst=5,
    continuation_frames=2,
    max_header_list=600,
    abusive_header_list=1200,
)
LISTS: tuple[tuple[Field, ...], ...] = (
    REQUEST,
    RESPONSE,
    TRAILERS,
    (*REQUEST, (b"content-length", b"5")),
    (*RESPONSE, (b"content-length", b"5")),
    ((b":status", b"103"),),
    (*REQUEST, (b"x-large", b"v" * 700)),
    (*TRAILERS, (b"X-Upper", b"v")),
    (),
)


class Block(NamedTuple):
    """HEADERS, and CONTINUATION if the block is cut; compressed when its turn comes."""

    stream_id: int
    fields: tuple[Field, ...]
    end: bool
    cuts: int
    padding: int | None


# Mostly what makes sense: else no sequence gets far.
ids = st.sampled_from([1, 1, 1, 3, 3, 5, 7, 9, 2, 0])
small = st.integers(0, 30)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    return Block(
        draw(ids),
        draw(st.sampled_from(LISTS)),
        draw(st.booleans()),
        draw(st.sampled_from([0, 0, 0, 1, 2, 3])),
        draw(st.sampled_from([None, None, 0, 5])),
    )


def padded_data(stream_id: int, data: bytes, padding: int, end: bool) -> bytes:
    flags = frames.PADDED | (frames.END_STREAM if end else 0)
    return frame(frames.DATA, flags, stream_id, bytes((padding,)) + data + bytes(padding))


single = st.one_of(
    st.builds(lambda n, size, end: data_frame(n, b"x" * size, end=end), ids, small, st.booleans()),
    st.builds(
        lambda n, size, pad, end: padded_data(n, b"x" * size, pad, end), ids, small, small, st.booleans()
    ),
    st.builds(reset_frame, ids, st.integers(0, 20)),
    st.builds(window_update, ids, st.sampled_from([0, 1, 100, frames.MAX_WINDOW])),
    st.builds(
        lambda key, value: settings_frame((key, value)),
        st.sampled_from([*Setting, 99]),
        st.integers(0, 70_000),
    ),
    st.just(settings_frame(ack=True)),
    st.builds(lambda ack: frame(frames.PING, ack, 0, b"12345678"), st.integers(0, 1)),
    st.builds(goaway_frame, ids, st.integers(0, 20), st.binary(max_size=5)),
    st.builds(lambda n, other: frame(frames.PRIORITY, 0, n, other.to_bytes(4, "big") + b"\0"), ids, ids),
)
# Any type, flags and payload: most of them wrong.
anything = st.builds(
    frame, st.integers(0, 10), st.sampled_from([0, 1, 4, 5, 8, 12, 0x24, 0x2D]), ids, st.binary(max_size=12)
)
steps = st.lists(st.one_of(blocks(), blocks(), single, single, single, anything), max_size=14)
cuts = st.lists(st.integers(0, 400), max_size=12)
EVERYWHERE = list(range(4000))


def written(sequence: list[Block | bytes]) -> bytes:
    """What the peer sends, as bytes."""
    encoder = hpack.Encoder()
    written = b""
    for step in sequence:
        if isinstance(step, bytes):
            written += step
            continue
        rest = encoder.encode(list(step.fields))
        flags = frames.END_STREAM if step.end else 0
        kind, padding = frames.HEADERS, step.padding
        for left in range(step.cuts, -1, -1):
            payload, rest = (rest[:7], rest[7:]) if left else (rest, b"")
            if padding is not None:
                payload = bytes((padding,)) + payload + bytes(padding)
                flags |= frames.PADDED
            flags |= 0 if left else frames.END_HEADERS
            written += frame(kind, flags, step.stream_id, payload)
            kind, flags, padding = frames.CONTINUATION, 0, None
    return written


class Outcome(NamedTuple):
    """All that can be told from outside, and the windows."""

    events: list[Event]
    output: bytes
    seen: Counter[str]
    exceeded: Counter[str]
    streams: dict[int, tuple[Any, ...]]
    windows: tuple[int, int]


def outcome(pieces: list[bytes], *, client: bool) -> Outcome:
    end = Scripted(client=client, limits=LIMITS)
    if client:
        for last in (False, True, False):
            end.open(end=last)
    for piece in pieces:
        end.receive(piece)
    engine = end.engine
    return Outcome(
        end.events,
        engine.take(),
        end.counters.seen,
        end.counters.exceeded,
        {
            n: (stream.state, stream.send_window, stream.receive_window, stream.unreturned, stream.missing)
            for n, stream in engine.streams.items()
        },
        (engine._send_window, engine._receive_window),
    )


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@settings(deadline=None, max_examples=150)
@given(sequence=steps, at=cuts)
@example([Block(1, REQUEST, False, 2, 5), data_frame(1, b"x" * 30) * 2], EVERYWHERE)
@example([Block(1, LISTS[6], True, 0, None), Block(3, REQUEST, True, 0, None)], EVERYWHERE)
@example(
    [Block(1, RESPONSE, False, 1, None), data_frame(1, b"abc"), Block(1, TRAILERS, True, 0, None)], EVERYWHERE
)
@example([settings_frame(ack=True), Block(1, REQUEST, False, 0, None), data_frame(1, b"x" * 41)], EVERYWHERE)
def test_pieces_equal_the_whole(client: bool, sequence: list[Block | bytes], at: list[int]) -> None:
    data = written(sequence)
    whole = outcome([data], client=client)
    assert outcome(cut(data, at), client=client) == whole


@settings(deadline=None, max_examples=60)
@given(sequence=steps, client=st.booleans())
def test_bytes_equal_the_whole(sequence: list[Block | bytes], client: bool) -> None:
    data = written(sequence)
    assert outcome([data[n : n + 1] for n in range(len(data))], client=client) == outcome(
        [data], client=client
    )


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=60), client=st.booleans(), at=cuts)
def test_noise_in_pieces_equals_noise(data: bytes, client: bool, at: list[int]) -> None:
    """And it raises nothing, whatever it is."""
    assert outcome(cut(data, at), client=client) == outcome([data], client=client)


# Since when something is unfinished (S14): what the layer above ends connections for


def server() -> Scripted:
    end = Scripted(client=False)
    end.time = 7.0
    return end


def test_an_unfinished_frame_is_noted_from_its_first_byte() -> None:
    end = server()
    ping = frame(frames.PING, 0, 0, bytes(8))
    end.receive(ping[:1])
    end.time = 8.0
    end.receive(ping[1:-1])
    assert end.engine.unfinished_since == 7.0
    end.receive(ping[-1:])
    assert end.engine.unfinished_since is None


def test_a_frame_behind_a_finished_one_is_a_new_one() -> None:
    end = server()
    ping = frame(frames.PING, 0, 0, bytes(8))
    end.receive(ping[:5])
    end.time = 8.0
    end.receive(ping[5:] + ping[:5])
    assert end.engine.unfinished_since == 8.0


def test_an_unfinished_block_is_noted_from_its_first_byte() -> None:
    """Its frames are whole, so that none of them would be late."""
    end = server()
    end.receive(end.headers(1, flags=0))
    assert end.engine.unfinished_since == 7.0
    end.time = 8.0
    end.receive(frame(frames.CONTINUATION, 0, 1, b""))
    assert end.engine.unfinished_since == 7.0
    end.receive(frame(frames.CONTINUATION, frames.END_HEADERS, 1, b""))
    assert end.engine.unfinished_since is None


def test_a_block_in_pieces_is_one_unfinished_thing() -> None:
    end = server()
    block = end.headers(1, flags=0)
    end.receive(block[:3])
    end.time = 8.0
    end.receive(block[3:] + frame(frames.CONTINUATION, 0, 1, b"")[:4])
    assert end.engine.unfinished_since == 7.0


@pytest.mark.parametrize("size", [9, 10, 100])
def test_unfinished_data_is_its_calls_affair(size: int) -> None:
    """A deadline watches over it, and a large message may take its time."""
    end = server()
    end.receive(end.headers(1) + data_frame(1, bytes(200))[:size])
    assert end.engine.unfinished_since is None


def test_unfinished_beginning_of_any_frame_is_noted() -> None:
    """Until its type is known it may be any."""
    end = server()
    end.receive(end.headers(1) + data_frame(1, bytes(200))[:8])
    assert end.engine.unfinished_since == 7.0


def give_up_on_data(serving: Scripted) -> None:
    """Have the layer above abort the connection when data comes on stream 1."""

    def data(data: bytes, end: bool) -> None:
        serving.engine.lost("enough")

    serving.sinks[1].data = data  # type: ignore[method-assign]


def test_nothing_is_processed_behind_what_made_the_layer_above_end_it() -> None:
    """Frames of the same read: their streams have been told already that the connection is lost."""
    end = server()
    end.receive(end.headers(1))
    give_up_on_data(end)
    end.receive(data_frame(1, b"x") + end.headers(3) + frame(frames.PING, 0, 0, bytes(8)))
    assert [event[:2] for event in end.events] == [("request", 1), ("lost", 1)]


def test_no_fault_is_told_after_the_connection_was_lost() -> None:
    end = server()
    end.receive(end.headers(1))
    give_up_on_data(end)
    end.receive(data_frame(1, b"x") + frame(frames.PING, 0, 0, b"short"))
    assert end.faults == []
    assert end.engine.take() == b""


def test_a_code_of_the_layer_above_is_what_the_peer_is_told() -> None:
    """``fail``, for what only a clock can find out (RFC 9113 6.5.3); once."""
    end = server()
    end.engine.fail(ConnectionFault(ErrorCode.SETTINGS_TIMEOUT, "too late"))
    end.engine.fail(ConnectionFault(ErrorCode.INTERNAL_ERROR, "again"))
    assert [fault.code for fault in end.faults] == [ErrorCode.SETTINGS_TIMEOUT]
    (goaway,) = end.sent()
    assert goaway.payload == b"\0\0\0\0\0\0\0\4too late"
