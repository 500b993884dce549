"""Compressed requests that are wrong, or too large when they are decompressed: rows R20 to R24."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from lbkit.encoding.compressors import known
from lbkit.wire.messages import frame_message
from tests.attacks.attacker import HAS_PROC, give_back_memory, resident
from tests.attacks.four_kinds import KINDS, MIB, REQUEST_STREAMS, Echo, EchoInThreads, Stage, message, staged
from tests.support.servers import Item
from tests.support.wire import data_frame

GOOD = message("good")
INTERNAL, RESOURCE_EXHAUSTED = 13, 8
NAMES = ["gzip", "deflate", "zstd"]
STYLES = (Echo, EchoInThreads)
UNARY_REQUESTS = ("UnaryUnary", "UnaryStream")
LIMIT = 4 * MIB
NOISE = random.Random(3).randbytes(100_000)

Spoil = Callable[[bytes], bytes]


def compress(data: bytes, name: str = "gzip") -> bytes:
    found = known(name)
    assert found is not None
    return found.compressor.compress(data)


def flagged(data: bytes, flag: int = 1) -> bytes:
    """A message as it is on the wire."""
    return bytes((flag,)) + frame_message(data)[1:]


def item(size: int) -> bytes:
    """A request of exactly this size."""
    for length in range(size - 8, size):
        data: bytes = Item(body=bytes(length)).SerializeToString()
        if len(data) == size:
            return data
    raise AssertionError(size)


def encoded(name: str) -> tuple[bytes, bytes]:
    return b"grpc-encoding", name.encode()


async def send(stage: Stage, kind: str, data: bytes, name: str = "gzip") -> int:
    """Make a call with these bytes, in as many frames as they need; return its stream."""
    stream_id = await stage.caller.call(kind, None, encoded(name), end=False)
    await stage.caller.stream(stream_id, data, end=True)
    return stream_id


def wrong_checksum(data: bytes) -> bytes:
    return data[:-8] + bytes((data[-8] ^ 1,)) + data[-7:]


# Small ones are decompressed where they arrive, and large ones in threads.
CORRUPT: dict[str, tuple[bytes, Spoil]] = {
    "no gzip at all": (b"x", lambda data: b"this is no gzip"),
    "no bytes": (b"x", lambda data: b""),
    "cut short": (b"x" * 1000, lambda data: data[:-1]),
    "wrong checksum": (b"x" * 1000, wrong_checksum),
    "garbage behind it": (b"x" * 1000, lambda data: data + b"garbage"),
    "another message behind it": (b"x" * 1000, lambda data: data * 2),
    "large and cut short": (NOISE, lambda data: data[:-1]),
    "large with a wrong checksum": (NOISE, wrong_checksum),
    "large when it is decompressed, with a wrong checksum": (bytes(MIB), wrong_checksum),
}


@pytest.mark.parametrize("kind", UNARY_REQUESTS)
@pytest.mark.parametrize("name", CORRUPT)
async def test_r23_corrupt_request_is_internal_and_its_handler_does_not_run(name: str, kind: str) -> None:
    body, spoil = CORRUPT[name]
    data = flagged(spoil(compress(Item(text="bad", body=body).SerializeToString())))
    async with staged() as stage:
        stream_id = await send(stage, kind, data)
        await stage.caller.assert_ends(stream_id, INTERNAL, "'gzip' cannot be decompressed")
        assert stage.servicer.started.total() == 1
        stream_id = await send(stage, kind, flagged(compress(GOOD[5:])))
        await stage.caller.assert_ends(stream_id, 0)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", REQUEST_STREAMS)
@pytest.mark.parametrize("name", CORRUPT)
async def test_r23_corrupt_message_in_a_stream_comes_behind_the_good_ones(
    name: str, kind: str, style: type[Echo]
) -> None:
    body, spoil = CORRUPT[name]
    data = flagged(spoil(compress(Item(text="bad", body=body).SerializeToString())))
    good = GOOD + flagged(compress(GOOD[5:]))
    async with staged(style()) as stage:
        stream_id = await send(stage, kind, good + data)
        await stage.caller.assert_ends(stream_id, INTERNAL, "'gzip' cannot be decompressed")
        assert stage.servicer.got == ["good", "good"]
        assert stage.servicer.errors == ["WireFault"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
async def test_r23_compressed_bytes_that_are_no_protobuf_are_internal(name: str, kind: str) -> None:
    for data in (b"\xff" * 100, b"\xff" * MIB):
        async with staged() as stage:
            stream_id = await send(stage, kind, flagged(compress(data, name)), name)
            await stage.caller.assert_ends(stream_id, INTERNAL, "cannot be parsed")
            assert stage.servicer.got == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
async def test_r24_limit_is_for_the_decompressed_size(name: str, kind: str) -> None:
    async with staged() as stage:
        for size, status in ((LIMIT, 0), (LIMIT + 1, RESOURCE_EXHAUSTED)):
            data = flagged(compress(item(size), name))
            words = ("larger than the limit of 4194304",) if status else ()
            stream_id = await send(stage, kind, data, name)
            await stage.caller.assert_ends(stream_id, status, *words)


@pytest.mark.parametrize("kind", KINDS)
async def test_r24_limit_is_for_the_compressed_size_too(kind: str) -> None:
    """From the prefix, before anything is collected."""
    async with staged() as stage:
        prefix = b"\x01" + (LIMIT + 1).to_bytes(4, "big")
        stream_id = await stage.caller.call(kind, prefix, encoded("gzip"), end=False)
        await stage.caller.assert_ends(stream_id, RESOURCE_EXHAUSTED, "4194305")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
async def test_r24_bomb_is_resource_exhausted_and_memory_stays_flat(name: str, kind: str) -> None:
    bomb = flagged(compress(bytes(40 * MIB), name))
    assert len(bomb) < 50_000
    async with staged() as stage:
        give_back_memory()
        before = resident() if HAS_PROC else 0
        for _ in range(20):
            stream_id = await send(stage, kind, bomb, name)
            await stage.caller.assert_ends(stream_id, RESOURCE_EXHAUSTED, "larger than the limit")
        give_back_memory()
        assert not HAS_PROC or resident() - before < 16 * MIB
        assert stage.servicer.got == []


@pytest.mark.parametrize("flag", [2, 255])
@pytest.mark.parametrize("kind", KINDS)
async def test_r20_other_flags_are_internal_with_an_encoding_as_well(kind: str, flag: int) -> None:
    async with staged() as stage:
        data = flagged(compress(GOOD[5:]), flag)
        stream_id = await send(stage, kind, data)
        await stage.caller.assert_ends(stream_id, INTERNAL, f"flag {flag}")


@pytest.mark.parametrize("kind", KINDS)
async def test_message_without_the_flag_is_read_in_spite_of_the_encoding(kind: str) -> None:
    """A message that is not worth it goes as it is (gRPC compression.md)."""
    async with staged() as stage:
        for body in (GOOD, GOOD + flagged(compress(GOOD[5:])) if kind in REQUEST_STREAMS else GOOD):
            stage.servicer.got.clear()
            stream_id = await send(stage, kind, body)
            await stage.caller.assert_ends(stream_id, 0)
            assert set(stage.servicer.got) == {"good"}


async def test_handlers_in_threads_do_not_keep_messages_from_being_decompressed() -> None:
    """Though all of them wait: the threads that decompress are others."""
    async with staged(EchoInThreads()) as stage:
        waiting = [await stage.caller.call("StreamStream", end=False) for _ in range(40)]  # of 32 threads
        large = Item(text="good", body=bytes(100_000)).SerializeToString()
        await stage.caller.assert_ends(await send(stage, "UnaryUnary", flagged(compress(large))), 0)
        for each in waiting:
            await stage.caller.send(data_frame(each, b"", end=True))
            await stage.caller.assert_ends(each, 0)
