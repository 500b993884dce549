"""Too much of what is legal one by one: rows S1, S2, S4 to S7 and S10. Limits act, and memory stays where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, Setting, frame, pack_setting
from lbkit.limits import Limits
from tests.attacks.attacker import (
    ACK,
    BODY,
    HELLO,
    Handlers,
    attacked,
    block,
    call,
    headers,
    needs_proc,
)
from tests.support.servers import request_fields, until
from tests.support.wire import data_frame, goaway_frame, reset_frame, settings_frame, window_update

MIB = 1 << 20
CANCEL = ErrorCode.CANCEL
CALM = ErrorCode.ENHANCE_YOUR_CALM
UNKNOWN_METHOD = block(request_fields((b":path", b"/unknown")))
MALFORMED = block([(b"X-Upper", b"1")])
PING = frame(frames.PING, 0, 0, bytes(8))
UNKNOWN = frame(0x42, 0, 0, b"")


def in_batches(then: Callable[[int], bytes], count: int, size: int = 5) -> Iterator[bytes]:
    """Open ``size`` streams at a time, and do something to each in the next batch, when its handler runs."""
    before: list[int] = []
    for first in range(1, 2 * count, 2 * size):
        ids = list(range(first, first + 2 * size, 2))
        yield b"".join(map(then, before)) + b"".join(map(call, ids))
        before = ids
    yield b"".join(map(then, before))


def rapid(stream_id: int) -> bytes:
    """Write what a rapid reset is named for."""
    return reset_frame(stream_id, CANCEL)


# S1: rapid reset


@needs_proc
async def test_s1_rapid_reset_never_runs_more_handlers_than_streams_allowed() -> None:
    """CVE-2023-44487: each handler runs when its reset comes. So do those of who cancels calls for good reasons."""
    async with attacked(Handlers(busy=True), limits=Limits(resets_rate=0.0)) as scene:
        async with scene.attacker(HELLO + ACK) as attacker:
            assert await attacker.flood(in_batches(rapid, 10_000, 25)) == 401
            scene.handlers.go_on.set()
            await attacker.send(call(20_001))
            await attacker.assert_served(20_001)
            assert scene.exceeded == {}
            assert scene.seen["resets"] == 10_000
        await until(lambda: not scene.tasks)
        assert scene.handlers.peak <= 100
        assert scene.handlers.alive == 0
        assert scene.growth < 2 * MIB


async def test_s1_rapid_reset_one_by_one_is_ended_when_the_bucket_is_empty() -> None:
    """CVE-2023-44487: these handlers are cancelled before they begin."""
    async with attacked(Handlers(busy=True), limits=Limits(resets_rate=0.0)) as scene:
        async with scene.attacker(HELLO + ACK) as attacker:
            assert await attacker.flood(call(each) + rapid(each) for each in range(1, 20_001, 2)) < 10_000
            await attacker.assert_goaway(CALM, "reset", "CANCEL", last=401)
            assert (scene.exceeded, scene.seen["resets"]) == ({"resets": 1}, 201)
        assert scene.handlers.peak <= 1


async def test_s1_stream_counts_until_its_handler_has_ended() -> None:
    """CVE-2023-44487: a handler that takes its time to be cancelled still stands for a stream."""
    async with attacked(Handlers(busy=True, stubborn=True)) as scene, scene.attacker(HELLO + ACK) as attacker:
        first, more = range(1, 201, 2), range(201, 601, 2)
        await attacker.send(b"".join(map(call, first)))
        await until(lambda: scene.handlers.alive == 100)
        await attacker.send(b"".join(reset_frame(each, CANCEL) for each in first) + b"".join(map(call, more)))
        await attacker.until(lambda: len(attacker.resets) == 200)
        assert set(attacker.resets.values()) == {ErrorCode.REFUSED_STREAM}
        assert scene.exceeded == {"max_concurrent_streams": 200}
        assert scene.seen["resets"] == 100  # the client is not to blame for our slow handlers
        assert (scene.handlers.started, scene.handlers.peak) == (100, 100)
        scene.handlers.go_on.set()
        await until(lambda: not scene.tasks)
        await attacker.send(call(601))
        await attacker.assert_served(601)


async def test_s1_rapid_reset_against_handlers_that_do_not_end_starts_no_more_of_them() -> None:
    """CVE-2023-44487: whether the connection is ended for it or not, all streams but the first are refused."""
    async with attacked(Handlers(busy=True, stubborn=True)) as scene, scene.attacker() as attacker:
        await attacker.flood(in_batches(rapid, 1000))
        await attacker.settle()
        assert scene.handlers.started == scene.handlers.peak == 100
        assert set(attacker.resets.values()) == {ErrorCode.REFUSED_STREAM}
        assert all(code == CALM for _, code, _ in attacker.goaways)


async def test_s1_client_that_cancels_one_call_in_two_stays_welcome() -> None:
    """RFC 9113 10.5: hedged calls look like this; each that ends well allows for one reset more."""
    limits = Limits(resets_burst=20, resets_rate=0.0)
    async with attacked(limits=limits) as scene, scene.attacker(HELLO + ACK) as attacker:
        for stream_id in range(1, 1201, 4):
            await attacker.send(call(stream_id) + headers(stream_id + 2) + reset_frame(stream_id + 2, CANCEL))
            await attacker.assert_served(stream_id)
        assert scene.seen["resets"] == 300
        assert not scene.exceeded


async def test_s1_stream_ids_passed_over_earn_no_resets() -> None:
    """CVE-2023-44487, RFC 9113 5.1.1: ids cost nothing, so nothing may be earned by leaving some out."""
    limits = Limits(resets_burst=20, resets_rate=0.0)
    async with attacked(Handlers(busy=True), limits=limits) as scene, scene.attacker(HELLO + ACK) as attacker:
        ids = [at + n for at in range(1, 1001, 100) for n in range(0, 40, 2)]  # 20 used, 30 not
        await attacker.flood(call(each) + reset_frame(each, CANCEL) for each in ids)
        await attacker.settle()
        assert scene.exceeded == {"resets": 1}
        assert scene.seen["resets"] == 21


# S2: resets that we are made to send

MADE: dict[str, tuple[Callable[[int], bytes], ErrorCode]] = {
    "WINDOW_UPDATE too large": (
        lambda each: window_update(each, frames.MAX_WINDOW),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "WINDOW_UPDATE of nothing": (lambda each: window_update(each, 0), ErrorCode.PROTOCOL_ERROR),
    "DATA after END_STREAM": (lambda each: data_frame(each, b"x"), ErrorCode.STREAM_CLOSED),
    "HEADERS after END_STREAM": (lambda each: headers(each, end=True), ErrorCode.STREAM_CLOSED),
    "PRIORITY on itself": (
        lambda each: frame(frames.PRIORITY, 0, each, frames.pack_u32(each) + b"\x00"),
        ErrorCode.PROTOCOL_ERROR,
    ),
}


@needs_proc
@pytest.mark.parametrize("primitive", MADE)
async def test_s2_resets_that_we_are_made_to_send_never_run_more_handlers(primitive: str) -> None:
    """CVE-2025-8671: handlers stop as with S1, and the connection is ended."""
    then, code = MADE[primitive]
    async with attacked(Handlers(busy=True), limits=Limits(resets_rate=0.0)) as scene:
        async with scene.attacker(HELLO + ACK) as attacker:
            assert await attacker.flood(in_batches(then, 10_000)) < 2000
            await attacker.assert_goaway(CALM)
            assert set(attacker.resets.values()) == {code}
            assert scene.seen["resets"] == scene.seen["stream_faults"]
        await until(lambda: not scene.tasks)
        assert scene.handlers.peak <= 100
        assert scene.growth < 2 * MIB


@pytest.mark.parametrize("primitive", MADE)
async def test_s2_resets_in_batches_earn_nothing(primitive: str) -> None:
    """CVE-2025-8671: the bucket holds 200, in whatever order streams are opened and reset."""
    then, _ = MADE[primitive]
    async with (
        attacked(Handlers(busy=True), limits=Limits(resets_rate=0.0)) as scene,
        scene.attacker(HELLO + ACK) as attacker,
    ):
        await attacker.flood(in_batches(then, 10_000))
        await attacker.assert_goaway(CALM)
        assert (scene.exceeded, scene.seen["resets"]) == ({"resets": 1}, 201)


async def test_s2_settings_that_overflow_a_streams_window_end_the_connection() -> None:
    """RFC 9113 6.9.2: a fault of the connection, which takes its handlers with it."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        overflow = settings_frame((Setting.INITIAL_WINDOW_SIZE, frames.MAX_WINDOW))
        await attacker.send(window_update(1, 1) + overflow)
        await attacker.assert_goaway(ErrorCode.FLOW_CONTROL_ERROR, "6.9.2", last=1)
        await until(lambda: not scene.tasks)


# S4: SETTINGS and PING, never reading


@needs_proc
@pytest.mark.parametrize(
    ("each", "limit"),
    [(settings_frame(), "settings"), (PING, "ping_strikes")],
    ids=["SETTINGS", "PING"],
)
async def test_s4_flood_of_frames_that_want_an_answer_ends_the_connection(each: bytes, limit: str) -> None:
    """CVE-2019-9512, CVE-2019-9515: 200 000 frames of a client that reads nothing."""
    piece = each * 1000
    async with attacked() as scene:
        async with scene.attacker(rcvbuf=4096) as attacker:
            assert await attacker.flood(repeat(piece, 200)) < 200
            await attacker.assert_goaway(CALM)
            assert scene.exceeded == {limit: 1}
        assert scene.growth < 2 * MIB


async def test_s4_pings_while_we_send_are_held_to_their_rate() -> None:
    """PINGs between our DATA are forgiven (gRFC A8), but not any number of them."""
    limits = Limits(pings_burst=20, pings_rate=0.0, ping_strikes=1000)
    async with attacked(limits=limits) as scene, scene.attacker() as attacker:
        await attacker.flood(repeat(PING, 30))
        await attacker.assert_goaway(CALM, "PING")
        assert (scene.exceeded, scene.seen["pings"]) == ({"pings": 1}, 21)


@needs_proc
@pytest.mark.parametrize("each", [settings_frame(), PING], ids=["SETTINGS", "PING"])
async def test_s4_who_does_not_read_our_answers_is_not_read_either(each: bytes) -> None:
    """CVE-2019-9512: with the buckets out of the way. Answers wait, reading stops, and time is up."""
    often = 1 << 30
    limits = Limits(settings_burst=often, pings_burst=often, ping_strikes=often, write_timeout_s=0.4)
    piece = each * 200
    async with attacked(limits=limits, sndbuf=4096) as scene, scene.attacker(rcvbuf=4096) as attacker:
        scene.mark()
        while not scene.exceeded["control_frames_pause"]:
            assert await attacker.push(piece)
        taken = scene.seen["settings"] + scene.seen["pings"]
        while await attacker.push(piece):  # until its kernel takes no more either
            pass
        assert scene.seen["settings"] + scene.seen["pings"] == taken
        await scene.healthy()
        await until(lambda: scene.exceeded["write_timeout_s"])
        await attacker.until_hung_up()
        assert scene.exceeded == {"control_frames_pause": 1, "write_timeout_s": 1}
        assert scene.growth < 2 * MIB


async def test_s4_who_reads_late_gets_all_answers() -> None:
    """CVE-2019-9512: a pause is no loss."""
    often = 1 << 30
    limits = Limits(pings_burst=often, ping_strikes=often)
    piece = PING * 200
    async with attacked(limits=limits, sndbuf=4096) as scene, scene.attacker(rcvbuf=4096) as attacker:
        while not scene.exceeded["control_frames_pause"]:
            assert await attacker.push(piece)
        while attacker.unsent:
            await attacker.read()
            await attacker.push(b"")
        await attacker.send(call(1))
        await attacker.assert_served(1)
        assert attacker.count(frames.PING, frames.ACK) == scene.seen["pings"] == attacker.pushed // len(PING)


async def test_s4_settings_with_many_entries_end_the_connection() -> None:
    """RFC 9113 10.5: one frame could hold 2730 of them."""
    entries = pack_setting(0x42, 0) * 33
    async with attacked() as scene, scene.attacker() as attacker:
        await attacker.send(frame(frames.SETTINGS, 0, 0, entries[:-6]))  # 32
        await attacker.until(lambda: attacker.count(frames.SETTINGS, frames.ACK) == 2)
        await attacker.send(frame(frames.SETTINGS, 0, 0, entries))
        await attacker.assert_goaway(CALM, "33 entries")
        assert scene.exceeded == {"settings_entries": 1}


# S5: frames that carry nothing


@needs_proc
@pytest.mark.parametrize(
    "nothing",
    [
        data_frame(1, b""),
        frame(frames.DATA, frames.PADDED, 1, b"\x03\0\0\0"),
        data_frame(1, b"") + UNKNOWN,
        data_frame(1, b"") + data_frame(3, b""),
    ],
    ids=["empty", "only padding", "with others in between", "on two streams"],
)
async def test_s5_empty_data_flood_ends_the_connection(nothing: bytes) -> None:
    """CVE-2019-9518: 100 000 of them."""
    async with attacked() as scene:
        async with scene.attacker() as attacker:
            await attacker.send(headers(1) + headers(3))
            assert await attacker.flood(repeat(nothing * 100, 1000)) < 1000
            await attacker.assert_goaway(CALM, "11 empty frames", last=3)
            assert (scene.exceeded, scene.seen["empty_frames"]) == ({"empty_frames": 1}, 11)
        assert scene.growth < 2 * MIB


async def test_s5_empty_frames_between_others_are_harmless() -> None:
    """RFC 9113 6.1: some senders put the end into an empty frame, or flush with one."""
    async with attacked() as scene, scene.attacker() as attacker:
        await attacker.send(headers(1))
        for at in range(len(BODY)):
            await attacker.send(data_frame(1, b"") * 5 + data_frame(1, BODY[at : at + 1]))
        await attacker.send(data_frame(1, b"") * 10 + data_frame(1, b"", end=True))
        await attacker.assert_served(1)
        assert not scene.exceeded


async def test_s5_empty_header_blocks_empty_the_bucket_of_resets() -> None:
    """CVE-2019-9518: on streams of their own they are malformed requests."""
    async with attacked(limits=Limits(resets_rate=0.0)) as scene, scene.attacker() as attacker:
        await attacker.flood(headers(each, b"") for each in range(1, 2001, 2))
        await attacker.assert_goaway(CALM, "malformed")
        assert set(attacker.resets.values()) == {ErrorCode.PROTOCOL_ERROR}
        assert scene.exceeded == {"resets": 1}


# S6: frames that mean nothing, and too many that mean little

GLITCHES = {
    "unknown type": UNKNOWN,
    "unknown type on a stream": frame(0x42, 0xFF, 1, b"x"),
    "SETTINGS ACK": ACK,
    "PING ACK": frame(frames.PING, frames.ACK, 0, bytes(8)),
    "PRIORITY": frame(frames.PRIORITY, 0, 9, bytes(5)),
    "RST_STREAM on a closed stream": reset_frame(1, 8),
}


@needs_proc
@pytest.mark.parametrize("name", GLITCHES)
async def test_s6_flood_of_what_is_ignored_ends_the_connection(name: str) -> None:
    """RFC 9113 5.5, 10.5, CVE-2019-9513: 100 000 of them; the bucket holds 500."""
    piece = GLITCHES[name] * 100
    async with attacked(limits=Limits(glitches_rate=0.0)) as scene:
        async with scene.attacker(HELLO + ACK) as attacker:
            for stream_id in range(1, 11, 2):  # so many streams that PRIORITY has no limit of its own yet
                await attacker.send(call(stream_id))
                await attacker.assert_served(stream_id)
            assert await attacker.flood(repeat(piece, 1000)) < 1000
            await attacker.assert_goaway(CALM, "oddities", last=9)
            assert (scene.exceeded, scene.seen["glitches"]) == ({"glitches": 1}, 501)
        assert scene.growth < 2 * MIB


async def test_s6_flood_of_goaway_ends_the_connection() -> None:
    """RFC 9113 6.8 has a second one for a graceful end; thousands are a flood like any other."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.flood(repeat(goaway_frame(0) * 100, 50))
        await attacker.settle()
        assert [code for _, code, _ in attacker.goaways] == [CALM]


async def test_s6_priority_has_a_limit_that_grows_with_streams() -> None:
    """CVE-2019-9513."""
    async with attacked() as scene, scene.attacker() as attacker:
        await attacker.flood(repeat(GLITCHES["PRIORITY"], 1000))
        await attacker.assert_goaway(CALM, "101 PRIORITY frames")
        assert (scene.exceeded, scene.seen["priority_frames"]) == ({"priority_frames": 1}, 101)


@needs_proc
@pytest.mark.parametrize("stream_id", [0, 1])
async def test_s6_window_update_flood_ends_the_connection(stream_id: int) -> None:
    """RFC 9113 10.5: 100 000 of them; as many are allowed as frames could have needed."""
    piece = window_update(stream_id, 1) * 100
    async with attacked(Handlers(busy=True)) as scene:
        async with scene.attacker() as attacker:
            await attacker.send(call(1))
            assert await attacker.flood(repeat(piece, 1000)) < 1000
            await attacker.assert_goaway(CALM, "WINDOW_UPDATE", last=1)
            assert (scene.exceeded, scene.seen["window_updates"]) == ({"window_updates": 1}, 8)
        assert scene.growth < 2 * MIB


@pytest.mark.parametrize(
    "each", [window_update(0, 1), GLITCHES["PRIORITY"]], ids=["WINDOW_UPDATE", "PRIORITY"]
)
async def test_s6_stream_ids_passed_over_allow_for_nothing(each: bytes) -> None:
    """RFC 9113 5.1.1, 10.5: one stream with the highest id there is must count as one."""
    often = 1 << 30  # PRIORITY: so that its own limit is what is seen
    limits = Limits(glitches_burst=often)
    async with attacked(Handlers(busy=True), limits=limits) as scene, scene.attacker() as attacker:
        await attacker.send(call(frames.MAX_STREAM_ID))
        await attacker.flood(repeat(each * 100, 20))
        await attacker.settle()
        assert [code for _, code, _ in attacker.goaways] == [CALM]
        assert len(scene.exceeded) == 1


# S7: bad requests


@needs_proc
async def test_s7_flood_of_malformed_requests_empties_the_bucket_of_resets() -> None:
    """CVE-2019-9514: each is answered with a reset, as many as the peer could have sent itself."""
    async with attacked(limits=Limits(resets_rate=0.0)) as scene:
        async with scene.attacker(rcvbuf=4096) as attacker:
            await attacker.flood(headers(each, MALFORMED) for each in range(1, 20_001, 2))
            await attacker.assert_goaway(CALM, "reset", "malformed")
            assert set(attacker.resets.values()) == {ErrorCode.PROTOCOL_ERROR}
            assert scene.exceeded == {"resets": 1}
            assert scene.seen["resets"] == scene.seen["stream_faults"] == 201
        assert scene.handlers.started == 0
        assert scene.growth < 2 * MIB


# S10: replies that cannot be sent

SHUT = HELLO + settings_frame((Setting.INITIAL_WINDOW_SIZE, 0))
OPEN = HELLO + settings_frame((Setting.INITIAL_WINDOW_SIZE, 1 << 30)) + window_update(0, 1 << 30)


@needs_proc
async def test_s10_unary_replies_into_a_window_of_none_cost_what_they_are_long() -> None:
    """RFC 9113 10.5, CVE-2019-9517: each handler's task waits, and nothing of its reply is kept twice."""
    count, size = 20, 500_000
    ids = range(1, 2 * count, 2)
    async with attacked(Handlers(reply_bytes=size)) as scene:
        async with scene.attacker(SHUT + ACK) as attacker:
            await attacker.send(b"".join(map(call, ids)))
            await attacker.until(lambda: attacker.count(frames.HEADERS) == count)
            engine = scene.connection_of(attacker).engine
            assert scene.tasks == len(engine.streams) == count
            assert engine.queued_bytes == 0
            assert not attacker.bodies
            await scene.healthy()
            await attacker.send(b"".join(map(rapid, ids)))
            await until(lambda: not scene.tasks)
            assert not engine.streams
        assert scene.growth < count * size * 3 // 2
        assert not scene.exceeded


async def test_s10_reply_goes_out_when_the_window_opens_and_the_others_wait() -> None:
    """RFC 9113 6.9.2: one shut stream does not hold up another."""
    async with attacked(Handlers(reply_bytes=1000)) as scene, scene.attacker(SHUT + ACK) as attacker:
        await attacker.send(call(1) + call(3) + window_update(3, 500) + window_update(3, 1000))
        await attacker.assert_served(3)
        assert attacker.bodies[1] == 0
        assert scene.tasks == 1
        await attacker.send(settings_frame((Setting.INITIAL_WINDOW_SIZE, 2000)))
        await attacker.assert_served(1)


@needs_proc
async def test_s10_what_waits_for_the_socket_is_bounded_for_all_streams_together() -> None:
    """RFC 9113 10.5, CVE-2019-9517: windows wide open, and nothing is read. One buffer here, one of asyncio's."""
    most = Limits().send_buffer + frames.DEFAULT_FRAME_SIZE + 9
    async with attacked(Handlers(reply_bytes=500_000), sndbuf=4096) as scene:
        async with scene.attacker(OPEN + ACK, rcvbuf=4096) as attacker:
            await attacker.send(b"".join(map(call, range(1, 41, 2))))
            connection = scene.connection_of(attacker)
            await until(lambda: scene.handlers.started == 20)
            await until(lambda: connection.engine.queued_bytes >= Limits().send_buffer)
            assert connection.engine.queued_bytes <= most
            assert connection._unwritten() <= most
            assert scene.tasks >= 20 - 2 * most // 500_000  # the others wait
            await scene.healthy()
        await until(lambda: not scene.tasks)


async def test_s10_answers_without_a_message_are_bounded_too() -> None:
    """CVE-2019-9517: no window holds HEADERS back, and each of these streams is over as soon as it is answered."""
    most = 64 * 1024
    async with (
        attacked(limits=Limits(send_buffer=most), sndbuf=4096) as scene,
        scene.attacker(OPEN + ACK, rcvbuf=4096) as attacker,
    ):
        engine = scene.connection_of(attacker).engine
        longest = 0
        for first in range(1, 12_001, 400):
            ids = range(first, first + 400, 2)
            if not await attacker.push(b"".join(headers(each, UNKNOWN_METHOD, end=True) for each in ids)):
                break
            longest = max(longest, engine.queued_bytes)
        assert longest < 3 * most
        assert scene.exceeded["control_frames_pause"]
