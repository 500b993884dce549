"""Servers that send far too much: of frames that cost us and not them, and of answers that nobody reads.

The numbers in the names are those of the catalogue of bad servers, C27 and C28.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from lbkit import Limits, StatusCode
from lbkit.http2 import frames
from lbkit.http2.frames import END_HEADERS, PADDED, ErrorCode, Setting, frame
from lbkit.http2.stream import NULL_SINK
from tests.attacks.bad_server import (
    GOOD,
    GOOD_MESSAGE,
    Scene,
    Sender,
    goaways,
    good,
    heard,
    resets,
    scene,
    write_until_closed,
)
from tests.support.hpack_blocks import literal
from tests.support.servers import Item, RawPeer, failure
from tests.support.wire import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    data_frame,
    goaway_frame,
    reset_frame,
    settings_frame,
    window_update,
)

KIB = 1024
MIB = 1024 * KIB
PIECE = 32 * KIB  # bytes of a flood written at once

Flood = Callable[[RawPeer], tuple[bytes, bytes]]  # how it begins, and what comes over and over


@contextmanager
def little_memory(most: int) -> Generator[None, None, None]:
    """Fail if more than so many bytes are allocated at any time, the server's own buffers included."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        assert tracemalloc.get_traced_memory()[1] - before < most
    finally:
        tracemalloc.stop()


def only(each: bytes) -> Flood:
    """A flood of one frame."""
    return lambda peer: (b"", each)


def settings_of(entries: int) -> bytes:
    return settings_frame(*((0xF000 + number, 0) for number in range(entries)))


def open_block(size: int) -> Flood:
    """A header block that never ends, so many bytes to a frame."""
    return lambda peer: (
        frame(frames.HEADERS, 0, 1, b"\x88"),
        frame(frames.CONTINUATION, 0, 1, (literal(b"x", b"v" * 100) * 200)[:size]),
    )


def bomb(references: int) -> bytes:
    """A block whose one big entry is named over and over (CVE-2016-6581)."""
    return b"\x88" + literal(b"x", b"v" * 3900, 0x40) + b"\xbe" * references


FLOODS: dict[str, tuple[Flood, str]] = {
    "SETTINGS": (only(settings_frame()), "settings"),
    "SETTINGS that change something": (
        only(
            settings_frame((Setting.INITIAL_WINDOW_SIZE, 1))
            + settings_frame((Setting.INITIAL_WINDOW_SIZE, 2))
        ),
        "settings",
    ),
    "long SETTINGS": (only(settings_of(33)), "settings_entries"),
    "SETTINGS ACK": (only(settings_frame(ack=True)), "glitches"),
    "PING": (only(frame(frames.PING, 0, 0, b"answerme")), "pings"),
    "PING ACK": (only(frame(frames.PING, frames.ACK, 0, b"unasked!")), "glitches"),
    "empty DATA": (lambda peer: (peer.headers(1, RESPONSE), data_frame(1, b"")), "empty_frames"),
    "DATA of padding": (
        lambda peer: (peer.headers(1, RESPONSE), frame(frames.DATA, PADDED, 1, b"\3\0\0\0")),
        "empty_frames",
    ),
    "empty CONTINUATION": (open_block(0), "continuation_frames"),
    "CONTINUATION of a byte": (open_block(1), "continuation_frames"),
    "long CONTINUATION": (open_block(15_000), "abusive_header_list"),
    "informational responses": (
        lambda peer: (b"", frame(frames.HEADERS, END_HEADERS, 1, b"\x08\x03103")),
        "glitches",
    ),
    "HPACK bomb": (only(frame(frames.HEADERS, END_HEADERS, 1, bomb(12_000))), "abusive_header_list"),
    "unknown frames": (only(frame(0xFA, 0xFF, 0, b"")), "glitches"),
    "unknown frames on a stream": (only(frame(0x0B, 0, 1, b"?")), "glitches"),
    "long unknown frames": (only(frame(0xFA, 0, 0, bytes(16 * KIB))), "glitches"),
    "PRIORITY": (only(frame(frames.PRIORITY, 0, 1, bytes(5))), "priority_frames"),
    "WINDOW_UPDATE": (only(window_update(0, 1)), "window_updates"),
    "WINDOW_UPDATE on a stream": (only(window_update(1, 1)), "window_updates"),
    "RST_STREAM": (
        lambda peer: (
            reset_frame(1, ErrorCode.NO_ERROR),
            reset_frame(1, ErrorCode.NO_ERROR),
        ),
        "glitches",
    ),
}


async def assert_ends_by(stage: Scene, flood: Flood, limit: str, *calls: object) -> None:
    """The connection ends by this limit, whatever the server still sends; little memory is used; life goes on."""
    opening, each = flood(stage.peer)
    piece = each * max(1, PIECE // len(each))
    with little_memory(2 * MIB):
        stage.say(opening)
        await write_until_closed(stage.peer, piece)
    assert dict(stage.channel.counters.exceeded) == {limit: 1}
    for call in calls:
        error = await failure(call)
        assert error.code() is StatusCode.UNAVAILABLE
        assert "ENHANCE_YOUR_CALM" in error.details()
        assert "RFC 9113 10.5" in error.details()
    assert len(stage.server.heads) == 2
    await stage.assert_reconnects()


@pytest.mark.parametrize("name", FLOODS)
async def test_c27_flood_ends_the_connection_by_its_limit(name: str) -> None:
    flood, limit = FLOODS[name]
    async with scene() as stage:
        first, second = await stage.calls(2)
        await assert_ends_by(stage, flood, limit, second)
        assert (await failure(first)).code() in {StatusCode.UNAVAILABLE, StatusCode.INTERNAL}


@pytest.mark.parametrize("late", ["DATA", "HEADERS"])
async def test_c27_flood_on_a_stream_that_we_reset_ends_the_connection(late: str) -> None:
    """What was on its way is dropped (RFC 9113 5.1), but there is an end to everything."""
    async with scene() as stage:
        first, second = await stage.calls(2)
        first.cancel()
        await heard(stage.peer)
        # DATA may come late as long as the stream's window lasts.
        each = (
            data_frame(1, bytes(16384)) if late == "DATA" else frame(frames.HEADERS, END_HEADERS, 1, b"\x88")
        )
        await assert_ends_by(stage, only(each), "glitches", second)


async def test_c27_flood_of_goaway_ends_the_connection() -> None:
    async with scene() as stage:
        _, second = await stage.calls(2)
        await assert_ends_by(stage, only(goaway_frame(frames.MAX_STREAM_ID)), "glitches", second)


async def test_c27_small_hpack_bomb_fails_its_call_only() -> None:
    """Above what a list may be, below what ends the connection: 15 references, 62 KB."""
    async with scene() as stage:
        first, second = await stage.calls(2)
        stage.say(frame(frames.HEADERS, END_HEADERS, 1, bomb(15)))
        error = await failure(first)
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        fields = b"\x88" + literal(b"content-type", b"application/grpc")
        stage.say(frame(frames.HEADERS, END_HEADERS, 3, fields), data_frame(3, GOOD_MESSAGE))
        stage.say(frame(frames.HEADERS, END_HEADERS | frames.END_STREAM, 3, literal(b"grpc-status", b"0")))
        assert await second == GOOD
        assert stage.channel.counters.exceeded == {"max_header_list": 1}
        assert len(stage.server.peers) == 1


async def test_c27_limits_of_the_channel_apply() -> None:
    async with scene(limits=Limits(pings_burst=3, pings_rate=0.0)) as stage:
        (first,) = await stage.calls(1)
        stage.say(*[frame(frames.PING, 0, 0, bytes(8))] * 20)  # some are free, for there was a request
        assert "too many PINGs" in (await failure(first)).details()
        assert stage.channel.counters.exceeded == {"pings": 1}


async def test_c27_what_a_lively_server_does_is_no_flood() -> None:
    async with scene() as stage:
        for number in range(30):
            (call,) = await stage.calls(1)
            stream_id = 2 * number + 1
            stage.say(settings_frame(), frame(frames.PING, 0, 0, bytes(8)), window_update(0, 1000))
            stage.say(
                frame(0xFA, 0, 0, b"grease"), window_update(stream_id, 1000), good(stage.peer, stream_id)
            )
            assert await call == GOOD
        assert not stage.channel.counters.exceeded
        assert len(stage.server.peers) == 1


# C28: answers that come faster than they are read (RFC 9113 5.2, 6.9)


def message(size: int) -> bytes:
    """A response of about so many bytes, behind its prefix."""
    payload = Item(text="good", body=bytes(size)).SerializeToString()
    return b"\0" + len(payload).to_bytes(4, "big") + payload


async def answer(stage: Scene, sender: Sender, stream_id: int, size: int) -> None:
    """Answer with a large message, at the pace of the client's windows."""
    stage.say(stage.peer.headers(stream_id, RESPONSE))
    await sender.send(stream_id, message(size))
    stage.say(stage.peer.headers(stream_id, TRAILERS, end=True))


async def unread_streams(stage: Scene, count: int) -> list[int]:
    """Open streams whose data is never consumed, as those of an application that does not read."""
    connection = stage.connection
    opened = [connection.engine.open(NULL_SINK) for _ in range(count)]
    for stream in opened:
        connection.engine.send_headers(stream, None, REQUEST, True)
        connection.kick()
    await stage.arrived(count)
    return [stream.id for stream in opened]


async def test_c28_large_answers_on_many_streams_pass_the_connection_window() -> None:
    async with scene() as stage:
        calls = await stage.calls(20)
        sender = Sender(stage.peer)
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(answer(stage, sender, 2 * number + 1, 300 * KIB))
        for call in calls:
            assert len((await call).body) == 300 * KIB
        assert sender.sent[0] > 5 * MIB > Limits().connection_window
        assert not stage.channel.counters.exceeded
        assert goaways(stage.peer) == []
        assert resets(stage.peer) == []


async def test_c28_answers_that_stall_do_not_stop_the_others() -> None:
    """Eight messages of a megabyte, each all but its last byte."""
    async with scene() as stage:
        *stalled, other = await stage.calls(9)
        sender = Sender(stage.peer)
        for stream_id in range(1, 17, 2):
            stage.say(stage.peer.headers(stream_id, RESPONSE))
            await sender.send(stream_id, message(MIB)[:-1])
        await answer(stage, sender, 17, MIB)
        assert len((await other).body) == MIB
        assert not any(call.done() for call in stalled)
        for stream_id in range(1, 17, 2):
            await sender.send(stream_id, b"\0")
            stage.say(stage.peer.headers(stream_id, TRAILERS, end=True))
        for call in stalled:
            assert len((await call).body) == MIB


async def test_c28_streams_that_nobody_reads_do_not_stop_the_others() -> None:
    """Each takes its own window and no more; the window of the connection is given back on receipt."""
    async with scene() as stage:
        unread = await unread_streams(stage, 8)
        sender = Sender(stage.peer)
        await heard(stage.peer)
        with little_memory(2 * MIB):
            for stream_id in unread:
                stage.say(stage.peer.headers(stream_id, RESPONSE))
                await sender.send(stream_id, bytes(Limits().stream_window))
        assert sender.sent[0] == 8 * Limits().stream_window > Limits().connection_window
        (other,) = await stage.calls(1)
        await answer(stage, sender, unread[-1] + 2, MIB)
        assert len((await other).body) == MIB
        assert resets(stage.peer) == []


async def test_c28_more_than_the_window_of_a_stream_resets_that_stream_only() -> None:
    """RFC 9113 6.9.1: FLOW_CONTROL_ERROR, on the stream if it is the stream's window."""
    async with scene(limits=Limits(max_window=Limits().stream_window)) as stage:  # that does not grow
        (unread,) = await unread_streams(stage, 1)
        sender = Sender(stage.peer)
        await heard(stage.peer)
        (other,) = await stage.calls(1)
        stage.say(stage.peer.headers(unread, RESPONSE))
        await sender.send(unread, bytes(Limits().stream_window))
        await heard(stage.peer)
        assert resets(stage.peer) == []
        assert sender.window(unread) == 0
        sender.write(unread, b"x")
        await heard(stage.peer)
        assert resets(stage.peer) == [(unread, ErrorCode.FLOW_CONTROL_ERROR)]
        stage.say(good(stage.peer, unread + 2))
        assert await other == GOOD
        assert goaways(stage.peer) == []


async def test_c28_data_for_calls_that_gave_up_does_not_stop_the_others() -> None:
    """It was on its way when RST_STREAM was sent, and counts for the connection's window (RFC 9113 5.1)."""
    async with scene() as stage:
        *given_up, other = await stage.calls(7)
        sender = Sender(stage.peer)
        await heard(stage.peer)
        for call in given_up:
            call.cancel()
        await heard(stage.peer)
        for stream_id in range(1, 13, 2):
            stage.say(stage.peer.headers(stream_id, RESPONSE))
            await sender.send(stream_id, bytes(Limits().stream_window))
        assert sender.sent[0] > Limits().connection_window
        await answer(stage, sender, 13, MIB)
        assert len((await other).body) == MIB
        assert goaways(stage.peer) == []


async def test_c28_small_frames_on_their_way_to_a_call_that_gives_up_are_no_oddity() -> None:
    """60 KB within the windows, sent before the server can know: RFC 9113 5.1 says to discard them."""
    async with scene() as stage:
        first, other = await stage.calls(2)
        stage.say(stage.peer.headers(1, RESPONSE))
        await heard(stage.peer)
        first.cancel()
        stage.say(*[data_frame(1, bytes(100))] * 600, good(stage.peer, 3))
        assert await other == GOOD


async def test_c28_message_above_the_limit_is_refused_by_its_prefix() -> None:
    async with scene() as stage:
        first, other = await stage.calls(2)
        size = Limits().max_message + 1
        with little_memory(MIB):
            stage.say(stage.peer.headers(1, RESPONSE), data_frame(1, b"\0" + size.to_bytes(4, "big")))
            error = await failure(first)
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        await heard(stage.peer)
        assert resets(stage.peer) == [(1, ErrorCode.CANCEL)]
        stage.say(good(stage.peer, 3))
        assert await other == GOOD


async def test_c28_message_in_tiny_frames_costs_about_its_size() -> None:
    """16 KB in 8192 frames: far below any limit, and a message may be 256 times as long."""
    async with scene() as stage:
        (first,) = await stage.calls(1)
        stage.say(stage.peer.headers(1, RESPONSE), data_frame(1, message(256 * KIB)[:100]))
        await heard(stage.peer)
        tiny = data_frame(1, bytes(2)) * (8 * KIB)
        with little_memory(512 * KIB):
            stage.say(tiny)
            await heard(stage.peer)
        assert not first.done()
