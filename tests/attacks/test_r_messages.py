"""Requests whose messages are wrong: rows R17 to R26; of compressed ones test_r_compressed has the rest.

A unary request is looked at before its handler runs. A stream's handler runs already: it is given what came before,
and then the fault, where it reads.
"""

from __future__ import annotations

from typing import Any

import pytest

from lbkit.http2 import frames
from lbkit.limits import Limits
from lbkit.wire.faults import WireFault
from lbkit.wire.messages import frame_message
from tests.attacks.four_kinds import (
    KINDS,
    MIB,
    REQUEST_STREAMS,
    RESPONSE_STREAMS,
    Echo,
    EchoInThreads,
    Stage,
    message,
    staged,
)
from tests.support.servers import Item
from tests.support.wire import data_frame

GOOD = message("good")
INTERNAL, UNIMPLEMENTED, RESOURCE_EXHAUSTED = 13, 12, 8
UNARY_REQUESTS = ("UnaryUnary", "UnaryStream")
STYLES = (Echo, EchoInThreads)
DEEP = b"\x7b" * 1000 + b"\x7c" * 1000  # groups within groups, of a field that nobody knows

# Bytes that must not be in a stream of messages; the status they end with, and words of its text.
BAD: dict[str, tuple[bytes, int, str]] = {
    "R17 two of a hundred bytes": (b"\0\0\0\0\x64ab", INTERNAL, "in the middle of a message"),
    "R19 one byte of a prefix": (b"\0", INTERNAL, "in the middle of a message"),
    "R19 four bytes of a prefix": (b"\0\0\0\0", INTERNAL, "in the middle of a message"),
    "R18 4 GiB": (b"\0\xff\xff\xff\xff", RESOURCE_EXHAUSTED, "4294967295"),
    "R18 a byte above the limit": (b"\0\x00\x40\x00\x01", RESOURCE_EXHAUSTED, "4194305"),
    "R20 flag 2": (b"\x02" + GOOD[1:], INTERNAL, "flag 2"),
    "R20 flag 255": (b"\xff" + GOOD[1:], INTERNAL, "flag 255"),
    "R21 flag 1": (b"\x01" + GOOD[1:], INTERNAL, "flag 1"),
    "R26 no protobuf": (frame_message(b"\xff\xff"), INTERNAL, "cannot be parsed"),
    "R26 deep": (frame_message(DEEP), INTERNAL, "cannot be parsed"),
}
AT_THE_PREFIX = [name for name, (data, *_) in BAD.items() if len(data) == 5 or "flag" in name]


async def send_bad(stage: Stage, kind: str, data: bytes, *, bytewise: bool) -> int:
    """Make a call with these bytes, in one frame or in many; return its stream."""
    if not bytewise:
        return await stage.caller.call(kind, data)
    stream_id = await stage.caller.call(kind, end=False)
    *others, last = [data[at : at + 1] for at in range(len(data))]
    said = b"".join(data_frame(stream_id, each) for each in others)
    await stage.caller.send(said + data_frame(stream_id, last, end=True))
    return stream_id


@pytest.mark.parametrize("kind", UNARY_REQUESTS)
@pytest.mark.parametrize("name", BAD)
async def test_r17_to_r26_bad_message_ends_a_unary_request_before_its_handler(name: str, kind: str) -> None:
    data, status, words = BAD[name]
    async with staged() as stage:
        for bytewise in (False, True):
            stream_id = await send_bad(stage, kind, data, bytewise=bytewise)
            await stage.caller.assert_ends(stream_id, status, words)
        assert stage.servicer.started.total() == 1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", REQUEST_STREAMS)
@pytest.mark.parametrize("name", BAD)
async def test_r17_to_r26_bad_message_in_a_stream_comes_behind_the_good_ones(
    name: str, kind: str, style: type[Echo]
) -> None:
    data, status, words = BAD[name]
    async with staged(style()) as stage:
        for bytewise in (False, True):
            stage.servicer.got.clear()
            stage.servicer.errors.clear()
            stream_id = await send_bad(stage, kind, GOOD * 2 + data, bytewise=bytewise)
            await stage.caller.assert_ends(stream_id, status, words)
            assert stage.servicer.got == ["good", "good"]
            assert stage.servicer.errors == ["WireFault"]
            assert stage.caller.texts(stream_id) == ["good"] * (2 if kind in RESPONSE_STREAMS else 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", AT_THE_PREFIX)
async def test_r18_r20_r21_prefix_is_enough_to_refuse_a_message(name: str, kind: str) -> None:
    """The client is told that the rest is not wanted, and what it sends of it nevertheless is dropped."""
    data, status, words = BAD[name]
    async with staged() as stage:
        for _ in range(5):  # more than the connection's window, all together
            stream_id = await stage.caller.call(kind, data[:5], end=False)
            await stage.caller.assert_ends(stream_id, status, words)
            await stage.caller.assert_no_more_wanted(stream_id)
            rest = bytes(max(0, min(stage.caller.room(stream_id), 200_000)))
            await stage.caller.stream(stream_id, rest, end=True)
        await stage.caller.settle()


async def test_r18_limit_is_the_servers() -> None:
    async with staged(max_request_bytes=2 * MIB) as stage:
        for kind in KINDS:
            stream_id = await stage.caller.call(kind, b"\0\x00\x20\x00\x01", end=False)
            await stage.caller.assert_ends(stream_id, RESOURCE_EXHAUSTED, "2097153", "2097152")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
async def test_r18_response_above_the_servers_limit_is_resource_exhausted(
    kind: str, style: type[Echo]
) -> None:
    """Of a stream, the responses before it are sent."""
    async with staged(style(), max_response_bytes=MIB + 1000) as stage:
        large = message("too large", body=bytes(MIB + 1000))

        async def answer(request: Any, context: Any) -> Any:
            return Item(text="x", body=bytes(MIB + 1000))

        if kind == "StreamUnary":  # its echo is of texts only
            stage.install(kind, answer)
            stream_id = await stage.call_bad(kind)
        else:
            stream_id = await stage.caller.call(kind, end=False)
            good = GOOD if kind == "StreamStream" else b""
            await stage.caller.stream(stream_id, good + large, end=True)
        await stage.caller.assert_ends(stream_id, RESOURCE_EXHAUSTED, "larger than the limit")
        assert stage.caller.texts(stream_id) == (["good"] if kind == "StreamStream" else [])


# R22: grpc-encoding


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_r22_unknown_encoding_is_unimplemented_and_says_what_is_known(kind: str, end: bool) -> None:
    """Before the handler runs, and whether or not a message is compressed with it (gRPC compression.md)."""
    async with staged() as stage:
        for encoding in (b"snappy", b"gzip,identity", b"Identity", b"GZIP"):
            stream_id = await stage.caller.call(kind, GOOD, (b"grpc-encoding", encoding), end=end)
            found = await stage.caller.assert_ends(stream_id, UNIMPLEMENTED, encoding.decode())
            assert found[b":status"] == b"200"
            known = found[b"grpc-accept-encoding"].split(b",")
            assert known[:3] == [b"identity", b"deflate", b"gzip"]
            assert encoding not in known
        assert stage.servicer.started.total() == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_r21_flag_of_a_message_that_is_said_not_to_be_encoded_is_internal(kind: str) -> None:
    async with staged() as stage:
        identity = (b"grpc-encoding", b"identity")
        stream_id = await stage.caller.call(kind, b"\x01" + GOOD[1:], identity)
        await stage.caller.assert_ends(stream_id, INTERNAL, "flag 1")
        stream_id = await stage.caller.call(kind, GOOD, identity)
        await stage.caller.assert_ends(stream_id, 0)


# R25: how many messages


@pytest.mark.parametrize("kind", UNARY_REQUESTS)
async def test_r25_no_message_where_there_must_be_one_is_unimplemented(kind: str) -> None:
    async with staged() as stage:
        for body in (None, b""):
            stream_id = await stage.caller.call(kind, body)
            await stage.caller.assert_ends(stream_id, UNIMPLEMENTED, "no message")
        assert stage.servicer.started.total() == 1


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("kind", UNARY_REQUESTS)
async def test_r25_second_message_where_there_must_be_one_is_unimplemented(kind: str, end: bool) -> None:
    """As soon as its first byte comes."""
    async with staged() as stage:
        stream_id = await stage.caller.call(kind, GOOD + b"\0", end=end)
        await stage.caller.assert_ends(stream_id, UNIMPLEMENTED, "more than one message")
        stream_id = await stage.caller.call(kind, GOOD, end=False)
        await stage.caller.send(data_frame(stream_id, GOOD, end=end))
        await stage.caller.assert_ends(stream_id, UNIMPLEMENTED, "more than one message")
        if not end:
            await stage.caller.assert_no_more_wanted(stream_id)
        assert stage.servicer.started.total() == 1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", REQUEST_STREAMS)
async def test_r25_stream_of_no_messages_is_a_stream(kind: str, style: type[Echo]) -> None:
    async with staged(style()) as stage:
        for body in (None, b""):
            stream_id = await stage.caller.call(kind, body)
            await stage.caller.assert_ends(stream_id, 0)
            assert stage.caller.texts(stream_id) == ([""] if kind == "StreamUnary" else [])


# What a handler can do about a fault in its stream


async def test_r26_handler_may_go_on_behind_a_message_that_cannot_be_parsed() -> None:
    got: list[str] = []

    async def patient(requests: Any, context: Any) -> Any:
        while True:
            try:
                request = await context.read()
            except WireFault as fault:
                got.append(fault.code.name)
                continue
            if not request:
                return Item(text="+".join(got))
            got.append(request.text)

    async with staged() as stage:
        stage.install("StreamUnary", patient)
        stream_id = await stage.call_bad("StreamUnary", GOOD + frame_message(b"\xff") + GOOD)
        await stage.caller.assert_ends(stream_id, 0)
        assert stage.caller.texts(stream_id) == ["good+INTERNAL+good"]


async def test_r17_handler_that_does_not_read_does_not_care() -> None:
    async def deaf(requests: Any, context: Any) -> Any:
        await context.abort(5, "never read")

    async with staged() as stage:
        stage.install("StreamUnary", deaf)
        stream_id = await stage.call_bad("StreamUnary", b"\xff" * 100)
        await stage.caller.assert_ends(stream_id, 5, "never read")


async def test_r18_nothing_is_buffered_behind_a_fault_that_nobody_reads() -> None:
    """The stream's window stays shut, and that of the connection open."""

    async def deaf(requests: Any, context: Any) -> Any:
        await stage.servicer.go_on.wait()

    async with staged() as stage:
        stage.install("StreamStream", deaf)
        stream_id = await stage.call_bad("StreamStream", b"\0\xff\xff\xff\xff", end=False)
        window = Limits().stream_window - 5
        await stage.caller.stream(stream_id, bytes(window), end=False)
        small = await stage.caller.call("UnaryUnary", GOOD)
        await stage.caller.assert_ends(small, 0)
        assert stage.caller.given_back >= window
        assert not any(each.kind == frames.WINDOW_UPDATE and each.stream_id for each in stage.caller.frames)
