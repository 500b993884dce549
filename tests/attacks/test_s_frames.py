"""Single frames that are wrong, rows S11 to S13, S19 to S24, S26 and S27: what ends a stream, and what a connection."""

from __future__ import annotations

import struct

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.limits import Limits
from lbkit.wire.messages import frame_message
from tests.attacks.attacker import ACK, BODY, HELLO, Handlers, attacked, call, headers
from tests.support.servers import until
from tests.support.wire import data_frame, reset_frame, window_update

MOST = frames.MAX_WINDOW
FULL = frames.DEFAULT_FRAME_SIZE


# S11, S12, S13: flow control


async def test_s11_overflow_of_a_streams_window_resets_that_stream() -> None:
    """RFC 9113 6.9.1."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.send(call(3) + window_update(3, MOST))
        await attacker.assert_reset(3, ErrorCode.FLOW_CONTROL_ERROR)
        assert (scene.seen["stream_faults"], scene.seen["resets"]) == (1, 1)
        await scene.assert_lives(attacker, 5)


async def test_s11_overflow_of_the_connections_window_ends_the_connection() -> None:
    """RFC 9113 6.9.1."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.send(window_update(0, MOST))
        await attacker.assert_goaway(ErrorCode.FLOW_CONTROL_ERROR, "6.9", last=1)
        assert scene.seen["connection_faults"] == 1
        await until(lambda: not scene.handlers.alive)


async def test_s12_data_beyond_the_streams_window_resets_that_stream() -> None:
    """RFC 9113 6.9.1. In one frame, or the window would have been given back in between."""
    async with (
        attacked(Handlers(busy=True), limits=Limits(stream_window=FULL - 1)) as scene,
        scene.attacker(HELLO + ACK) as attacker,
    ):
        await scene.bystander(attacker)
        await attacker.send(headers(3) + data_frame(3, bytes(FULL)))
        await attacker.assert_reset(3, ErrorCode.FLOW_CONTROL_ERROR)
        assert scene.seen["stream_faults"] == 1
        await scene.assert_lives(attacker, 5)


async def test_s12_data_beyond_the_connections_window_ends_the_connection() -> None:
    """RFC 9113 6.9.1."""
    limits = Limits(connection_window=65535, stream_window=1 << 20, max_frame_size=1 << 17)
    async with attacked(limits=limits) as scene, scene.attacker(HELLO + ACK) as attacker:
        await attacker.send(headers(1) + data_frame(1, bytes(65536)))
        await attacker.assert_goaway(ErrorCode.FLOW_CONTROL_ERROR, "6.9.1", last=1)


async def test_s12_five_frames_into_a_window_of_four_are_taken_when_it_was_given_back_in_time() -> None:
    """RFC 9113 6.9.1: the window returns on receipt, so that an obedient sender never finds it shut for good."""
    limits = Limits(stream_window=65536, connection_window=65536)
    async with attacked(limits=limits) as scene, scene.attacker(HELLO + ACK) as attacker:
        message = frame_message(bytes(5 * FULL - 5))
        await attacker.send(headers(1))
        for at in range(0, len(message), FULL):
            await attacker.until(lambda: 65535 + attacker.given_back - at >= FULL)  # noqa: B023 -- called at once
            piece = message[at : at + FULL]
            await attacker.send(data_frame(1, piece, end=at + FULL == len(message)))
        # Zeros are no protobuf: the status says that the whole message came.
        assert (await attacker.answer(1))[b"grpc-status"] == b"13"
        assert scene.seen["stream_faults"] == 0


async def test_s13_window_update_of_nothing_resets_the_stream() -> None:
    """RFC 9113 6.9."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.send(call(3) + window_update(3, 0))
        await attacker.assert_reset(3, ErrorCode.PROTOCOL_ERROR)
        assert scene.seen["stream_faults"] == 1
        await scene.assert_lives(attacker, 5)


async def test_s13_window_update_of_nothing_for_the_connection_ends_it() -> None:
    """RFC 9113 6.9."""
    async with attacked() as scene, scene.attacker() as attacker:
        await attacker.send(window_update(0, 0))
        await attacker.assert_goaway(ErrorCode.PROTOCOL_ERROR, "6.9", last=0)


# S19, S20: sizes


@pytest.mark.parametrize("kind", [frames.DATA, frames.HEADERS, frames.SETTINGS, 0x42])
async def test_s19_too_long_a_frame_is_refused_from_its_first_nine_bytes(kind: int) -> None:
    """RFC 9113 4.2. DATA could be answered with a reset; 5.4.2 allows for more, and nothing has to be skipped then."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        stream_id = 1 if kind in {frames.DATA, frames.HEADERS} else 0
        await attacker.send(frames.pack_header(1 << 12, 0, kind, 0, stream_id))  # 1 MiB
        await attacker.assert_goaway(ErrorCode.FRAME_SIZE_ERROR, "1048576", last=1)
        assert scene.seen["connection_faults"] == 1


@pytest.mark.parametrize(
    ("kind", "stream_id", "size"),
    [
        (frames.PING, 0, 7),
        (frames.PING, 0, 9),
        (frames.RST_STREAM, 1, 3),
        (frames.RST_STREAM, 1, 5),
        (frames.SETTINGS, 0, 5),
        (frames.WINDOW_UPDATE, 0, 1),
        (frames.WINDOW_UPDATE, 1, 5),
        (frames.PRIORITY, 1, 3),
        (frames.PRIORITY, 1, 6),
        (frames.GOAWAY, 0, 7),
    ],
)
async def test_s20_wrong_size_of_a_frame_of_fixed_size_ends_the_connection(
    kind: int, stream_id: int, size: int
) -> None:
    """RFC 9113 6.3, 6.4, 6.5, 6.7, 6.8, 6.9."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.send(frame(kind, 0, stream_id, bytes(size)))
        await attacker.assert_goaway(ErrorCode.FRAME_SIZE_ERROR, "RFC 9113 6.", last=1)
        assert scene.seen["connection_faults"] == 1


async def test_s20_settings_ack_with_content_ends_the_connection() -> None:
    """RFC 9113 6.5."""
    async with attacked() as scene, scene.attacker() as attacker:
        await attacker.send(frame(frames.SETTINGS, frames.ACK, 0, bytes(6)))
        await attacker.assert_goaway(ErrorCode.FRAME_SIZE_ERROR, "6.5", last=0)


# S21, S22, S23, S24: stream ids and states


@pytest.mark.parametrize(("first", "then"), [(1, 4), (5, 3), (5, 0)], ids=["even", "decreasing", "zero"])
async def test_s21_wrong_stream_id_ends_the_connection_and_goaway_names_the_last_good_one(
    first: int, then: int
) -> None:
    """RFC 9113 5.1.1."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker, first)
        await attacker.send(headers(then))
        await attacker.assert_goaway(ErrorCode.PROTOCOL_ERROR, f"stream {then}", "5.1.1", last=first)


@pytest.mark.parametrize(
    "said",
    [data_frame(3, b"x"), reset_frame(3, 8), window_update(3, 1), data_frame(2, b"x"), reset_frame(2, 8)],
    ids=["DATA", "RST_STREAM", "WINDOW_UPDATE", "DATA, ours", "RST_STREAM, ours"],
)
async def test_s22_frame_on_an_idle_stream_ends_the_connection(said: bytes) -> None:
    """RFC 9113 5.1, "idle"."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.send(said)
        await attacker.assert_goaway(ErrorCode.PROTOCOL_ERROR, "idle", "5.1", last=1)


async def test_s22_priority_on_an_idle_stream_is_ignored() -> None:
    """RFC 9113 5.1, 6.3: the one frame, with HEADERS, that idle streams may get."""
    async with attacked() as scene, scene.attacker() as attacker:
        await attacker.send(frame(frames.PRIORITY, 0, 3, bytes(5)) + call(1) + call(3))
        await attacker.assert_served(1)
        await attacker.assert_served(3)
        assert scene.seen["glitches"] == scene.seen["priority_frames"] == 1


@pytest.mark.parametrize("said", [data_frame(3, b"x"), headers(3)], ids=["DATA", "HEADERS"])
async def test_s23_more_after_end_stream_resets_that_stream(said: bytes) -> None:
    """RFC 9113 5.1, "half-closed (remote)"; it counts like any reset (CVE-2025-8671)."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.send(call(3) + said)
        await attacker.assert_reset(3, ErrorCode.STREAM_CLOSED)
        assert (scene.seen["stream_faults"], scene.seen["resets"]) == (1, 1)
        await scene.assert_lives(attacker, 5)


@pytest.mark.parametrize("said", [data_frame(1, b"x"), headers(1)], ids=["DATA", "HEADERS"])
async def test_s23_more_on_a_stream_that_both_have_ended_ends_the_connection(said: bytes) -> None:
    """RFC 9113 5.1, "closed": after END_STREAM there was nothing on its way any more."""
    async with attacked() as scene, scene.attacker() as attacker:
        await attacker.send(call(1))
        await attacker.assert_served(1)
        await attacker.send(said)
        await attacker.assert_goaway(ErrorCode.STREAM_CLOSED, "stream 1", "5.1", last=1)


async def test_s24_data_on_a_stream_that_we_reset_is_dropped_and_its_window_given_back() -> None:
    """RFC 9113 5.1, 5.4.2: it was on its way. The connection's window must not shrink for good by it."""
    limits = Limits(stream_window=65535, connection_window=65535)
    async with attacked(limits=limits) as scene, scene.attacker(HELLO + ACK) as attacker:
        await attacker.send(headers(1, b"\x00\x01X\x01x"))  # malformed
        await attacker.assert_reset(1, ErrorCode.PROTOCOL_ERROR)
        late = [data_frame(1, bytes(FULL))] * 3 + [data_frame(1, bytes(FULL - 1))]
        assert await attacker.flood(late) == 4
        await attacker.until(lambda: attacker.given_back >= 3 * FULL)
        assert not scene.exceeded
        await attacker.send(headers(3) + data_frame(3, BODY, end=True))
        await attacker.assert_served(3)


@pytest.mark.parametrize(
    "said",
    [window_update(1, 1), reset_frame(1, 8), headers(1, end=True)],
    ids=["WINDOW_UPDATE", "RST_STREAM", "HEADERS"],
)
async def test_s24_late_frame_on_a_stream_that_we_reset_is_ignored(said: bytes) -> None:
    """RFC 9113 5.1, "closed"."""
    async with attacked() as scene, scene.attacker() as attacker:
        await attacker.send(headers(1, b"\x00\x01X\x01x"))
        await attacker.assert_reset(1, ErrorCode.PROTOCOL_ERROR)
        await attacker.send(said + call(3))
        await attacker.assert_served(3)


@pytest.mark.parametrize(
    "refused",
    [
        headers(1) + window_update(1, 0),
        headers(1, b"\x00\x01X\x01x"),
    ],
    ids=["reset when open", "never opened"],
)
async def test_s24_late_data_of_one_window_is_ignored_in_however_many_frames(refused: bytes) -> None:
    """RFC 9113 5.1: a client that streams short messages has thousands on their way when its stream is reset."""
    async with attacked() as scene, scene.attacker(HELLO + ACK) as attacker:
        await attacker.send(refused)
        await attacker.send(data_frame(1, bytes(100)) * 600)  # 60 kB, sent before the reset could have come
        await attacker.send(call(3))
        await attacker.assert_served(3)
        assert 1 in attacker.resets
        assert not scene.exceeded


# S26, S27


async def test_s26_push_promise_from_a_client_ends_the_connection() -> None:
    """RFC 9113 8.4."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.send(frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, struct.pack(">L", 2)))
        await attacker.assert_goaway(ErrorCode.PROTOCOL_ERROR, "8.4", last=1)


async def test_s27_two_hundred_requests_before_settings_are_half_served_and_half_refused() -> None:
    """RFC 9113 5.1.2: a client that does not know the limit yet keeps its connection, and tries again."""
    ids = range(1, 401, 2)
    async with attacked(Handlers(busy=True)) as scene, scene.attacker(b"") as attacker:
        await attacker.send(HELLO + b"".join(map(call, ids)))
        await attacker.until(lambda: len(attacker.resets) == 100)
        assert set(attacker.resets.values()) == {ErrorCode.REFUSED_STREAM}
        assert list(attacker.resets) == list(ids[100:])
        assert scene.exceeded == {"max_concurrent_streams": 100}
        assert scene.seen["resets"] == 0  # nobody is to blame
        await until(lambda: scene.handlers.alive == 100)
        scene.handlers.go_on.set()
        for stream_id in ids[:100]:
            await attacker.assert_served(stream_id)
        again = range(401, 601, 2)
        await attacker.send(ACK + b"".join(map(call, again)))
        for stream_id in again:
            await attacker.assert_served(stream_id)
        assert (scene.handlers.started, scene.handlers.peak) == (200, 100)


async def test_s27_a_burst_of_any_length_before_settings_is_refused_stream_by_stream() -> None:
    """RFC 9113 5.1.2: the refusals wait for the end of our own turn, not for a peer that does not read."""
    ids = range(1, 3001, 2)
    short = b"\x83\x86\x84"  # POST, http, "/": as many as can be in one read
    async with attacked(Handlers(busy=True)) as scene, scene.attacker(b"") as attacker:
        await attacker.send(HELLO + b"".join(map(call, ids[:100])))
        await until(lambda: scene.handlers.alive == 100)
        await attacker.send(b"".join(headers(each, short) for each in ids[100:]))
        await attacker.until(lambda: len(attacker.resets) == 1400)
        assert set(attacker.resets.values()) == {ErrorCode.REFUSED_STREAM}
        assert attacker.goaways == []


async def test_s27_who_knows_the_limit_and_exceeds_it_on_and_on_is_sent_away() -> None:
    """RFC 9113 5.1.2, 10.5: each refusal counts like a reset."""
    limits = Limits(max_concurrent_streams=1, resets_burst=20, resets_rate=0.1)
    async with attacked(Handlers(busy=True), limits=limits) as scene, scene.attacker(HELLO + ACK) as attacker:
        await attacker.flood(call(each) for each in range(1, 101, 2))
        await attacker.assert_goaway(ErrorCode.ENHANCE_YOUR_CALM, "reset")
        assert scene.exceeded["max_concurrent_streams"] == scene.seen["resets"] == 21
        assert scene.exceeded["resets"] == 1
        assert scene.handlers.peak == 1
