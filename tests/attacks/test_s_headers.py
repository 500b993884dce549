"""Header blocks that are too long, too many, malformed or out of place: rows S3, S8, S9, S25, S28, and HPACK."""

from __future__ import annotations

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.limits import Limits
from tests.attacks.attacker import (
    ACK,
    BODY,
    HELLO,
    REQUEST_BLOCK,
    Handlers,
    attacked,
    block,
    call,
    continuation,
    headers,
    in_frames,
    needs_proc,
)
from tests.support.hpack_blocks import integer, literal
from tests.support.servers import request_fields, until
from tests.support.wire import data_frame

MIB = 1 << 20
NEWEST = b"\xbe"  # the entry that was inserted last
ENTRY = b"a" * 3900
INSERT = literal(b"x", ENTRY, 0x40)  # 3933 bytes of the table's 4096
PING = frame(frames.PING, 0, 0, bytes(8))


def padded_block(size: int) -> bytes:
    """A request whose header list is of so many bytes, as RFC 9113 6.5.2 counts them, in several fields."""
    fields = request_fields()
    left = size - sum(len(name) + len(value) + 32 for name, value in fields)
    while left > 0:
        fields.append((b"x-pad", b"p" * (min(left, 4096) - 37)))
        left -= min(left, 4096)
    return block(fields)


# S3: CONTINUATION


@needs_proc
@pytest.mark.parametrize(
    ("fragment", "limit"),
    [(b"", "continuation_frames"), (b"\x00", "continuation_frames"), (bytes(15000), "abusive_header_list")],
    ids=["empty", "one byte", "15 kB"],
)
async def test_s3_continuation_flood_is_cut_off_before_anything_is_decoded(
    fragment: bytes, limit: str
) -> None:
    """RFC 9113 10.5, CVE-2024-28182. The bytes are zeros: decoding them would be a COMPRESSION_ERROR."""
    flood = continuation(1, fragment) * 50
    async with attacked() as scene:
        async with scene.attacker() as attacker:
            await attacker.send(headers(1, b"", flags=0))
            assert await attacker.flood([flood] * 40) < 40
            await attacker.assert_goaway(ErrorCode.ENHANCE_YOUR_CALM, last=0)
            assert scene.exceeded == {limit: 1}
            assert scene.seen["continuation_frames"] <= 9
        assert scene.handlers.started == 0
        assert scene.growth < 2 * MIB


async def test_s3_eight_continuation_frames_are_taken_and_nine_are_not() -> None:
    """RFC 9113 6.10 sets no number; ours is in ``Limits``."""
    size = len(REQUEST_BLOCK) // 9
    pieces = [REQUEST_BLOCK[at : at + size] for at in range(0, 8 * size, size)]
    async with attacked() as scene, scene.attacker() as attacker:
        await attacker.send(
            headers(1, pieces[0], flags=0)
            + b"".join(continuation(1, each) for each in pieces[1:])
            + continuation(1, REQUEST_BLOCK[8 * size :], end=True)
            + data_frame(1, BODY, end=True)
        )
        await attacker.assert_served(1)
        await attacker.send(headers(3, b"", flags=0) + continuation(3, b"x") * 9)
        await attacker.assert_goaway(ErrorCode.ENHANCE_YOUR_CALM, "9 CONTINUATION", last=1)
        assert scene.exceeded == {"continuation_frames": 1}


# S8: HPACK bombs, and other blocks that cannot be decoded


async def test_s8_bomb_below_the_hard_limit_ends_its_call_and_the_tables_stay_in_step() -> None:
    """RFC 7541 4.1, 7.3: sixteen times the same entry, of which only one was sent."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.send(headers(3, REQUEST_BLOCK + INSERT + NEWEST * 15, end=True))
        assert (await attacker.answer(3))[b"grpc-status"] == b"8"  # RESOURCE_EXHAUSTED
        assert scene.exceeded == {"max_header_list": 1}
        await attacker.send(call(5, REQUEST_BLOCK + NEWEST))  # still in the table
        await scene.assert_lives(attacker, 7)
        await attacker.assert_served(5)


@needs_proc
@pytest.mark.parametrize("times", [16, 12000])
async def test_s8_bomb_above_the_hard_limit_ends_the_connection_and_costs_no_memory(times: int) -> None:
    """RFC 7541 4.1, CVE-2016-6581: 47 MB in one frame; decoding stops at the limit."""
    bomb = headers(1, REQUEST_BLOCK + INSERT + NEWEST * times, end=True)
    async with attacked() as scene:
        async with scene.attacker() as attacker:
            await attacker.send(bomb)
            await attacker.assert_goaway(ErrorCode.ENHANCE_YOUR_CALM, "65536", last=0)
            assert scene.exceeded == {"abusive_header_list": 1}
        assert scene.handlers.started == 0
        assert scene.growth < 2 * MIB


@pytest.mark.parametrize(
    "bad",
    [
        b"\xbe",
        b"\x80",
        b"\x40\x05ab",
        integer(5000, 0x20, 5),
        b"\x82" + integer(0, 0x20, 5),
        b"\x00\x01a\x81\x00",
        b"\x00\x01a\x84\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    ],
    ids=[
        "index beyond the table (2.3.3)",
        "index zero (6.1)",
        "cut off",
        "table larger than allowed (6.3)",
        "table size behind a field (4.2)",
        "Huffman padding of zeros (5.2)",
        "Huffman EOS (5.2)",
        "integer without end (5.1)",
    ],
)
async def test_s8_block_that_cannot_be_decoded_ends_the_connection(bad: bytes) -> None:
    """RFC 9113 4.3: the tables are out of step from here on. The sections are of RFC 7541."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.send(headers(3, bad))
        await attacker.assert_goaway(ErrorCode.COMPRESSION_ERROR, "4.3", last=1)
        await until(lambda: not scene.handlers.alive)


# S9: huge header lists in legal frames


@pytest.mark.parametrize("acked", [True, False], ids=["acked", "not acked"])
@pytest.mark.parametrize("size", [9_000, 15_000])
async def test_s9_list_longer_than_announced_is_served_and_counted(size: int, acked: bool) -> None:
    """RFC 9113 6.5.2: the announced size is advice. It is at most 8 KiB, and 16 KiB are taken."""
    async with attacked() as scene, scene.attacker(HELLO + ACK * acked) as attacker:
        await attacker.send(in_frames(1, padded_block(size)) + data_frame(1, BODY, end=True))
        await attacker.assert_served(1)
        assert scene.exceeded == {"header_list_advertised": 1}


@pytest.mark.parametrize("acked", [True, False], ids=["acked", "not acked"])
@pytest.mark.parametrize("size", [16_400, 20_000, 60_000])
async def test_s9_list_above_the_limit_ends_its_call_with_resource_exhausted(size: int, acked: bool) -> None:
    """RFC 9113 10.5.1: it is decoded, so that the connection can go on; its DATA is dropped."""
    async with (
        attacked(Handlers(busy=True)) as scene,
        scene.attacker(HELLO + ACK * acked) as attacker,
    ):
        await scene.bystander(attacker)
        await attacker.send(in_frames(3, padded_block(size)) + data_frame(3, BODY, end=True))
        found = await attacker.answer(3)
        assert (found[b":status"], found[b"grpc-status"]) == (b"200", b"8")
        assert b"limit is 16384" in found[b"grpc-message"]
        assert attacker.bodies[3] == 0
        assert scene.exceeded == {"max_header_list": 1}
        assert scene.handlers.started == 1
        await scene.assert_lives(attacker, 5)


@needs_proc
@pytest.mark.parametrize("acked", [True, False], ids=["acked", "not acked"])
@pytest.mark.parametrize("size", [70_000, 1_000_000])
async def test_s9_list_without_measure_ends_the_connection(size: int, acked: bool) -> None:
    """RFC 9113 10.5.1. In full frames: the number of CONTINUATION frames is no reason."""
    sent = in_frames(1, padded_block(size))
    async with attacked(limits=Limits(continuation_frames=1000)) as scene:
        async with scene.attacker(HELLO + ACK * acked) as attacker:
            await attacker.flood([sent])
            await attacker.assert_goaway(ErrorCode.ENHANCE_YOUR_CALM, last=0)
            assert scene.exceeded == {"abusive_header_list": 1}
        assert scene.handlers.started == 0
        assert scene.growth < 2 * MIB


async def test_s9_trailers_above_the_limit_reset_their_stream() -> None:
    """RFC 9113 10.5.1: too late for a status of their own to be of use."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        trailers = block([(b"x-pad", bytes(b"p" * 5000))] * 4)
        await attacker.send(headers(3) + data_frame(3, BODY) + in_frames(3, trailers))
        await attacker.assert_reset(3, ErrorCode.ENHANCE_YOUR_CALM)
        assert (scene.exceeded["max_header_list"], scene.seen["resets"]) == (1, 1)
        await scene.assert_lives(attacker, 5)


# S25: blocks that are not in one piece


@pytest.mark.parametrize(
    "said",
    [
        data_frame(1, b"x"),
        headers(3),
        PING,
        continuation(3, b"", end=True),
        frame(0x42, 0, 1, b""),
        continuation(0, b"", end=True),
    ],
    ids=["DATA", "HEADERS", "PING", "CONTINUATION of another", "unknown type", "CONTINUATION of none"],
)
async def test_s25_interrupted_header_block_ends_the_connection(said: bytes) -> None:
    """RFC 9113 6.10."""
    async with attacked() as scene, scene.attacker() as attacker:
        await attacker.send(headers(1, REQUEST_BLOCK[:20], flags=0) + said)
        await attacker.assert_goaway(ErrorCode.PROTOCOL_ERROR, "6.10", last=0)


@pytest.mark.parametrize(
    "before", [b"", headers(3)], ids=["without HEADERS", "behind a block that is complete"]
)
async def test_s25_lone_continuation_ends_the_connection(before: bytes) -> None:
    """RFC 9113 6.10."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.send(before + continuation(3, b"", end=True))
        await attacker.assert_goaway(ErrorCode.PROTOCOL_ERROR, "6.10")


async def test_s25_header_block_on_stream_zero_ends_the_connection() -> None:
    """RFC 9113 6.2."""
    async with attacked() as scene, scene.attacker() as attacker:
        await attacker.send(headers(0, REQUEST_BLOCK[:20], flags=0))
        await attacker.assert_goaway(ErrorCode.PROTOCOL_ERROR, "6.2", last=0)


# S28: trailers from a client


@pytest.mark.parametrize(
    "trailers",
    [
        headers(3, block([(b"x-trailer", b"1")])),
        headers(3, block([(b":path", b"/")]), end=True),
        headers(3, block([(b"X-Upper", b"1")]), end=True),
        headers(3, block([(b"connection", b"close")]), end=True),
    ],
    ids=["without END_STREAM", "with a pseudo-header", "with upper case", "with a connection field"],
)
async def test_s28_bad_trailers_reset_their_stream(trailers: bytes) -> None:
    """RFC 9113 8.1, 8.1.1."""
    async with attacked(Handlers(busy=True)) as scene, scene.attacker() as attacker:
        await scene.bystander(attacker)
        await attacker.send(headers(3) + data_frame(3, BODY) + trailers)
        await attacker.assert_reset(3, ErrorCode.PROTOCOL_ERROR)
        assert (scene.seen["stream_faults"], scene.seen["resets"]) == (1, 1)
        assert scene.handlers.started == 1
        await scene.assert_lives(attacker, 5)


async def test_s28_good_trailers_end_the_request() -> None:
    """RFC 9113 8.1. gRPC clients send none; nothing forbids them."""
    async with attacked() as scene, scene.attacker() as attacker:
        end = headers(1, block([(b"x-trailer", b"1")]), end=True)
        await attacker.send(headers(1) + data_frame(1, BODY) + end)
        await attacker.assert_served(1)
        assert scene.seen["stream_faults"] == 0
