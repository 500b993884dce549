"""Servers that answer one call badly: that call fails by name, and the others on the connection do not notice.

The numbers in the names are those of the catalogue of bad servers, C9 and C12 to C16.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

import pytest

from lbkit import StatusCode
from lbkit.http2.frames import ErrorCode
from tests.attacks.bad_server import (
    GOOD,
    GOOD_MESSAGE,
    Scene,
    goaways,
    good,
    heard,
    in_frames,
    resets,
    scene,
    socket_of,
)
from tests.support.servers import (
    PATIENCE_S,
    Item,
    RawPeer,
    all_connected,
    channel_to,
    failure,
    raw_server,
    unary,
)
from tests.support.wire import RESPONSE, TRAILERS, data_frame, reset_frame

Say = Callable[[RawPeer, int], bytes]

CODES: dict[ErrorCode, StatusCode] = {
    ErrorCode.NO_ERROR: StatusCode.INTERNAL,
    ErrorCode.PROTOCOL_ERROR: StatusCode.INTERNAL,
    ErrorCode.INTERNAL_ERROR: StatusCode.INTERNAL,
    ErrorCode.FLOW_CONTROL_ERROR: StatusCode.INTERNAL,
    ErrorCode.SETTINGS_TIMEOUT: StatusCode.INTERNAL,
    ErrorCode.FRAME_SIZE_ERROR: StatusCode.INTERNAL,
    ErrorCode.COMPRESSION_ERROR: StatusCode.INTERNAL,
    ErrorCode.CONNECT_ERROR: StatusCode.INTERNAL,
}
OTHER_CODES: dict[ErrorCode, StatusCode] = {
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}
UNKNOWN_CODE = 0xBAD  # RFC 9113 7: to be treated as nothing special


async def assert_other_call_lives(stage: Scene, other: Any) -> None:
    """The call on stream 3 and the next one are answered on the same connection."""
    stage.say(good(stage.peer, 3))
    assert await other == GOOD
    (third,) = await stage.calls(1)
    stage.say(good(stage.peer, 5))
    assert await third == GOOD
    assert len(stage.server.peers) == 1
    assert goaways(stage.peer) == []
    assert not stage.connection.engine.streams


async def fails_alone(say: Say, code: StatusCode, text: str, sent: ErrorCode | None) -> None:
    """Have a bad answer fail its call, which the client resets with ``sent``, while another call lives."""
    async with scene() as stage:
        victim, other = await stage.calls(2)
        stage.say(say(stage.peer, 1))
        error = await failure(victim)
        assert error.code() is code
        assert text in error.details()
        assert len(error.attempts) == 1
        await heard(stage.peer)
        assert resets(stage.peer) == ([] if sent is None else [(1, sent)])
        await assert_other_call_lives(stage, other)


# C9: informational responses (RFC 9110 15.2, RFC 9113 8.1)


@pytest.mark.parametrize(
    "statuses",
    [(b"100",), (b"103",), (b"100", b"103"), (b"102",) * 20],
    ids=lambda each: b"+".join(each[:3]).decode(),
)
async def test_c9_informational_responses_are_skipped(statuses: tuple[bytes, ...]) -> None:
    async with scene() as stage:
        first, other = await stage.calls(2)
        early = [
            stage.peer.headers(1, ((b":status", status), (b"link", b"</style.css>"))) for status in statuses
        ]
        stage.say(*early)
        await heard(stage.peer)
        assert not first.done()
        stage.say(good(stage.peer, 1))
        assert await first == GOOD
        assert ("link", "</style.css>") not in list(await first.initial_metadata())
        assert resets(stage.peer) == []
        await assert_other_call_lives(stage, other)


@pytest.mark.parametrize("status", [b"100", b"103"])
async def test_c9_informational_response_that_ends_the_stream_is_internal(status: bytes) -> None:
    await fails_alone(
        lambda peer, stream_id: peer.headers(stream_id, ((b":status", status),), end=True),
        StatusCode.INTERNAL,
        "informational response",
        ErrorCode.PROTOCOL_ERROR,
    )


async def test_c9_informational_response_after_the_headers_is_internal() -> None:
    """What comes second is trailers, and those have no :status (RFC 9113 8.1)."""
    await fails_alone(
        lambda peer, stream_id: (
            peer.headers(stream_id, RESPONSE) + peer.headers(stream_id, ((b":status", b"103"),), end=True)
        ),
        StatusCode.INTERNAL,
        "malformed trailers",
        ErrorCode.PROTOCOL_ERROR,
    )


# C12: header blocks that are out of place or malformed (RFC 9113 8.1, 8.3)


async def test_c12_second_headers_without_end_fails_that_call_only() -> None:
    await fails_alone(
        lambda peer, stream_id: peer.headers(stream_id, RESPONSE) + peer.headers(stream_id, TRAILERS),
        StatusCode.INTERNAL,
        "HEADERS in mid-stream",
        ErrorCode.PROTOCOL_ERROR,
    )


async def test_c12_third_block_fails_that_call_only() -> None:
    """The third one comes for a stream that is gone; it is read for its HPACK entries, which later blocks use."""
    kept = (b"x-kept", b"in the dynamic table")

    def say(peer: RawPeer, stream_id: int) -> bytes:
        said = peer.headers(stream_id, RESPONSE) + peer.headers(stream_id, TRAILERS)
        said += peer.headers(stream_id, (*TRAILERS, kept), end=True)
        return said

    async with scene() as stage:
        victim, other = await stage.calls(2)
        stage.say(say(stage.peer, 1))
        error = await failure(victim)
        assert error.code() is StatusCode.INTERNAL
        last = stage.peer.headers(3, (*TRAILERS, kept), end=True)
        assert len(last) == 9 + 2  # it is two indexes
        stage.say(stage.peer.headers(3, RESPONSE), data_frame(3, GOOD_MESSAGE), last)
        assert await other == GOOD
        assert dict(await other.trailing_metadata())["x-kept"] == kept[1].decode()
        await heard(stage.peer)
        assert resets(stage.peer) == [(1, ErrorCode.PROTOCOL_ERROR)]
        assert len(stage.server.peers) == 1


@pytest.mark.parametrize(
    "pseudo", [(b":status", b"200"), (b":path", b"/"), (b":made-up", b"1")], ids=lambda each: each[0].decode()
)
async def test_c12_pseudo_header_in_trailers_fails_that_call_only(pseudo: tuple[bytes, bytes]) -> None:
    await fails_alone(
        lambda peer, stream_id: (
            peer.headers(stream_id, RESPONSE)
            + data_frame(stream_id, GOOD_MESSAGE)
            + peer.headers(stream_id, (pseudo, *TRAILERS), end=True)
        ),
        StatusCode.INTERNAL,
        "malformed trailers",
        ErrorCode.PROTOCOL_ERROR,
    )


MALFORMED: dict[str, list[tuple[bytes, bytes]]] = {
    "no :status": [(b"content-type", b"application/grpc")],
    ":status not first": [(b"content-type", b"application/grpc"), (b":status", b"200")],
    "two :status": [(b":status", b"200"), (b":status", b"200")],
    ":status of two digits": [(b":status", b"20")],
    "a request's pseudo-header": [(b":status", b"200"), (b":path", b"/")],
    "upper case": [(b":status", b"200"), (b"X-Big", b"1")],
    "connection": [(b":status", b"200"), (b"connection", b"close")],
    "line feed in a value": [(b":status", b"200"), (b"x-a", b"1\nx-b: 2")],
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_c12_malformed_response_fails_that_call_only(name: str) -> None:
    """RFC 9113 8.1.1: a malformed message is a stream error."""
    await fails_alone(
        lambda peer, stream_id: peer.headers(stream_id, MALFORMED[name]),
        StatusCode.INTERNAL,
        "malformed response",
        ErrorCode.PROTOCOL_ERROR,
    )


# C13: header lists above the limit (16 KiB, RFC 9113 10.5.1)


def big_list(size: int) -> list[tuple[bytes, bytes]]:
    """Fields of so many bytes together, none of which fills a table."""
    return [(b"x-%d" % number, b"\xfe" * 1000) for number in range(size // 1000)]


@pytest.mark.parametrize("size", [20_000, 30_000, 50_000])
async def test_c13_trailers_above_the_limit_are_resource_exhausted(size: int) -> None:
    def say(peer: RawPeer, stream_id: int) -> bytes:
        opening = peer.headers(stream_id, RESPONSE) + data_frame(stream_id, GOOD_MESSAGE)
        block = peer.encoder.encode([*TRAILERS, *big_list(size)], huffman=False)
        return opening + in_frames(stream_id, block, end=True)

    await fails_alone(say, StatusCode.RESOURCE_EXHAUSTED, "limit", ErrorCode.ENHANCE_YOUR_CALM)


async def test_c13_headers_above_the_limit_are_resource_exhausted() -> None:
    def say(peer: RawPeer, stream_id: int) -> bytes:
        return in_frames(stream_id, peer.encoder.encode([*RESPONSE, *big_list(30_000)], huffman=False))

    await fails_alone(say, StatusCode.RESOURCE_EXHAUSTED, "limit", ErrorCode.ENHANCE_YOUR_CALM)


# C14, C16: what a reset means (PROTOCOL-HTTP2, "Errors")


@pytest.mark.parametrize("code", CODES, ids=lambda each: each.name)
async def test_c14_reset_is_internal_and_names_its_code(code: ErrorCode) -> None:
    await fails_alone(lambda peer, stream_id: reset_frame(stream_id, code), CODES[code], code.name, None)


async def test_c14_reset_with_a_code_that_nobody_knows_is_internal() -> None:
    await fails_alone(
        lambda peer, stream_id: reset_frame(stream_id, UNKNOWN_CODE),
        StatusCode.INTERNAL,
        f"error {UNKNOWN_CODE}",
        None,
    )


async def test_c14_reset_in_mid_message_is_internal() -> None:
    await fails_alone(
        lambda peer, stream_id: (
            peer.headers(stream_id, RESPONSE)
            + data_frame(stream_id, GOOD_MESSAGE[:7])
            + reset_frame(stream_id, ErrorCode.INTERNAL_ERROR)
        ),
        StatusCode.INTERNAL,
        "INTERNAL_ERROR",
        None,
    )


@pytest.mark.parametrize("code", OTHER_CODES, ids=lambda each: each.name)
async def test_c16_reset_has_a_status_of_its_own(code: ErrorCode) -> None:
    await fails_alone(
        lambda peer, stream_id: reset_frame(stream_id, code), OTHER_CODES[code], code.name, None
    )


async def test_c16_cancel_after_the_deadline_is_deadline_exceeded() -> None:
    """Both ends watch the deadline, and the server's RST_STREAM may be read before our timer has fired."""
    async with scene() as stage:
        victim, other = stage.call(timeout=0.5), stage.call()
        await stage.arrived(2)
        stage.say(reset_frame(1, ErrorCode.CANCEL))
        assert select.select([socket_of(stage.connection)], [], [], PATIENCE_S)[0]
        while victim.time_remaining():  # a loop that is busy with something else: sockets come before timers
            time.sleep(0.001)  # noqa: ASYNC251 -- see above
        error = await failure(victim)
        assert error.code() is StatusCode.DEADLINE_EXCEEDED
        assert stage.channel.counters.seen["resets"] == 1  # of a live stream: the timer had not ended it
        await heard(stage.peer)
        assert resets(stage.peer) == []
        await assert_other_call_lives(stage, other)


# C15: the server has done nothing for it (RFC 9113 8.7, gRFC A6)


async def test_c15_refused_stream_is_tried_again_on_another_pick_once() -> None:
    refused: list[int] = []

    def answer(peer: RawPeer, stream_id: int) -> bytes:
        if not refused:
            refused.append(stream_id)
            return reset_frame(stream_id, ErrorCode.REFUSED_STREAM)
        return good(peer, stream_id)

    async with (
        raw_server(answer) as one,
        raw_server(answer) as two,
        channel_to(one.port, two.port) as channel,
    ):
        await all_connected(channel, 2)
        assert await unary(channel)(Item(), timeout=PATIENCE_S) == GOOD
        assert (len(one.heads), len(two.heads)) == (1, 1)


async def test_c15_stream_refused_twice_is_unavailable_with_two_attempts() -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes:
        return reset_frame(stream_id, ErrorCode.REFUSED_STREAM)

    async with (
        raw_server(answer) as one,
        raw_server(answer) as two,
        channel_to(one.port, two.port) as channel,
    ):
        await all_connected(channel, 2)
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "REFUSED_STREAM" in error.details()
        assert {each.backend for each in error.attempts} == {
            f"127.0.0.1:{one.port}",
            f"127.0.0.1:{two.port}",
        }
        assert len(error.attempts) == 2
        assert (len(one.heads), len(two.heads)) == (1, 1)
        assert [each.in_flight for each in channel.subchannels()] == [0, 0]


async def test_c15_refusal_of_one_call_leaves_the_others_of_its_connection() -> None:
    async with scene() as stage:
        victim, other = await stage.calls(2)
        stage.say(reset_frame(1, ErrorCode.REFUSED_STREAM))
        await heard(stage.peer)
        assert len(stage.server.heads) == 3  # it is back, on stream 5
        stage.say(good(stage.peer, 5), good(stage.peer, 3))
        assert await victim == GOOD
        assert await other == GOOD
        assert len(stage.server.peers) == 1


@pytest.mark.parametrize("body", [b"", GOOD_MESSAGE[:7]], ids=["headers", "half a message"])
async def test_c15_stream_refused_after_its_headers_is_not_tried_again(body: bytes) -> None:
    """Whoever answers has done something, whatever it says later."""
    await fails_alone(
        lambda peer, stream_id: (
            peer.headers(stream_id, RESPONSE)
            + (data_frame(stream_id, body) if body else b"")
            + reset_frame(stream_id, ErrorCode.REFUSED_STREAM)
        ),
        StatusCode.UNAVAILABLE,
        "REFUSED_STREAM",
        None,
    )


async def test_c15_refused_call_keeps_its_deadline() -> None:
    async with scene() as stage:
        (victim,) = await stage.calls(1, timeout=0.5)
        stage.say(reset_frame(1, ErrorCode.REFUSED_STREAM))
        error = await failure(victim)
        assert error.code() is StatusCode.DEADLINE_EXCEEDED
        assert len(error.attempts) == 2
        await heard(stage.peer)
        assert resets(stage.peer) == [(3, ErrorCode.CANCEL)]
