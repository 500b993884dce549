"""Servers that go away (RFC 9113 6.8), well or badly, and stream ids that run out (RFC 9113 5.1.1).

The numbers in the names are those of the catalogue of bad servers, C17 to C21.
"""

from __future__ import annotations

import asyncio

import pytest

from lbkit import ConnectivityState, StatusCode
from lbkit.http2 import frames
from lbkit.http2.engine import NativeEngine
from lbkit.http2.frames import ErrorCode
from tests.attacks.bad_server import GOOD, Scene, goaways, good, heard, of_kind, resets, scene
from tests.support.servers import PATIENCE_S, Item, RawPeer, channel_to, failure, raw_server, unary, until
from tests.support.wire import goaway_frame

ALL = frames.MAX_STREAM_ID  # "I am going, and take what is on its way"
THREE_QUARTERS = frames.MAX_STREAM_ID // 4 * 3


async def assert_old_connection_closed(stage: Scene, *, streams: int) -> None:
    """The client hung up on the first connection after so many calls, without a reset or a complaint."""
    await until(stage.peer.reader.at_eof)
    assert len(of_kind(stage.peer, frames.HEADERS)) == streams
    assert resets(stage.peer) == []
    assert goaways(stage.peer) == []


# C17: a last id below our streams


async def test_c17_calls_above_the_last_id_move_and_those_below_finish() -> None:
    async with scene() as stage:
        low, *high = await stage.calls(4)
        stage.say(goaway_frame(1))
        for call in high:  # streams 3, 5, 7
            assert await call == GOOD
        assert len(stage.server.peers) == 2
        assert not low.done()
        stage.say(good(stage.peer, 1))
        assert await low == GOOD
        await assert_old_connection_closed(stage, streams=4)
        assert len(stage.server.heads) == 4 + 3


async def test_c17_last_id_zero_moves_every_call_once() -> None:
    async with scene() as stage:
        calls = await stage.calls(10)
        stage.say(goaway_frame(0))
        assert await asyncio.gather(*calls) == [GOOD] * 10
        assert len(stage.server.peers) == 2
        assert len(stage.server.heads) == 20
        await assert_old_connection_closed(stage, streams=10)


async def test_c17_call_that_moved_once_is_not_moved_again() -> None:
    """Who is turned away twice hears of it (gRFC A6): there may be no end to it."""

    def answer(peer: RawPeer, stream_id: int) -> bytes:
        return goaway_frame(0)

    async with raw_server(answer) as server, channel_to(server.port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert len(error.attempts) == len(server.heads) == len(server.peers) == 2


async def test_c17_call_with_an_answer_begun_above_the_last_id_is_not_repeated() -> None:
    """The server contradicts itself; what it has begun to do is not done twice."""
    async with scene() as stage:
        low, high = await stage.calls(2)
        stage.say(stage.peer.headers(3, ((b":status", b"200"), (b"content-type", b"application/grpc"))))
        await high.initial_metadata()
        stage.say(goaway_frame(1), good(stage.peer, 1))
        error = await failure(high)
        assert error.code() is StatusCode.UNAVAILABLE
        assert len(error.attempts) == 1
        assert await low == GOOD
        assert len(stage.server.heads) == 2


# C18: a graceful stop


async def test_c18_calls_in_flight_finish_and_new_ones_go_elsewhere() -> None:
    async with scene() as stage:
        first, second = await stage.calls(2)
        connection = stage.connection
        stage.say(goaway_frame(ALL))
        await heard(stage.peer)
        (subchannel,) = stage.channel.subchannels()
        assert subchannel.state is not ConnectivityState.READY or stage.connection is not connection
        assert await stage.call() == GOOD
        assert len(stage.server.peers) == 2
        assert not first.done()
        assert not second.done()
        stage.say(good(stage.peer, 1), good(stage.peer, 3))
        assert [await first, await second] == [GOOD, GOOD]
        await assert_old_connection_closed(stage, streams=2)


async def test_c18_answers_in_the_same_read_as_the_goaway_are_not_lost() -> None:
    """python-hyper/h2#1181: h2 took the connection for closed as soon as GOAWAY came."""
    async with scene() as stage:
        calls = await stage.calls(3)
        stage.say(goaway_frame(ALL), *(good(stage.peer, stream_id) for stream_id in (1, 3, 5)))
        assert await asyncio.gather(*calls) == [GOOD] * 3
        assert len(stage.server.heads) == 3
        await assert_old_connection_closed(stage, streams=3)


async def test_c18_idle_connection_is_left_at_once() -> None:
    async with scene() as stage:
        stage.say(goaway_frame(ALL))
        await assert_old_connection_closed(stage, streams=0)
        await stage.assert_reconnects()


async def test_c18_call_that_waited_for_room_goes_elsewhere() -> None:
    async with scene((frames.Setting.MAX_CONCURRENT_STREAMS, 1)) as stage:
        (first,) = await stage.calls(1)
        waiting = stage.call()
        await heard(stage.peer)
        assert len(stage.server.heads) == 1
        stage.say(goaway_frame(ALL))
        assert await waiting == GOOD
        assert len(stage.server.peers) == 2
        stage.say(good(stage.peer, 1))
        assert await first == GOOD
        await assert_old_connection_closed(stage, streams=1)


# C19: GOAWAY again


async def test_c19_lower_second_id_moves_the_difference() -> None:
    async with scene() as stage:
        first, second, third = await stage.calls(3)
        stage.say(goaway_frame(ALL))
        await heard(stage.peer)
        stage.say(goaway_frame(3))
        assert await third == GOOD
        assert not second.done()
        stage.say(goaway_frame(1))
        assert await second == GOOD
        assert not first.done()
        stage.say(good(stage.peer, 1))
        assert await first == GOOD
        assert len(stage.server.peers) == 2
        await assert_old_connection_closed(stage, streams=3)


async def test_c19_same_id_again_changes_nothing() -> None:
    async with scene() as stage:
        first, second = await stage.calls(2)
        stage.say(*[goaway_frame(3)] * 3)
        await heard(stage.peer)
        assert not first.done()
        assert not second.done()
        stage.say(good(stage.peer, 3), good(stage.peer, 1))
        assert [await first, await second] == [GOOD, GOOD]
        await assert_old_connection_closed(stage, streams=2)


async def test_c19_higher_second_id_is_a_connection_error() -> None:
    """RFC 9113 6.8: endpoints MUST NOT increase the value; what moved would run twice."""
    async with scene() as stage:
        first, second, third = await stage.calls(3)
        stage.say(goaway_frame(3))
        assert await third == GOOD
        stage.say(goaway_frame(5))
        await stage.assert_connection_error(
            ErrorCode.PROTOCOL_ERROR, "GOAWAY rose from 3 to 5", first, second
        )


@pytest.mark.parametrize("last", [2, 4, ALL - 1])
async def test_c19_id_of_a_stream_that_only_a_server_opens_is_a_connection_error(last: int) -> None:
    async with scene() as stage:
        first, second = await stage.calls(2)
        stage.say(goaway_frame(last))
        await stage.assert_connection_error(ErrorCode.PROTOCOL_ERROR, f"GOAWAY {last}", first, second)


async def test_c19_goaway_on_a_stream_is_a_connection_error() -> None:
    async with scene() as stage:
        first, second = await stage.calls(2)
        stage.say(frames.frame(frames.GOAWAY, 0, 1, bytes(8)))
        await stage.assert_connection_error(ErrorCode.PROTOCOL_ERROR, "on stream 1", first, second)


async def test_c19_short_goaway_is_a_connection_error() -> None:
    async with scene() as stage:
        first, second = await stage.calls(2)
        stage.say(frames.frame(frames.GOAWAY, 0, 0, bytes(7)))
        await stage.assert_connection_error(ErrorCode.FRAME_SIZE_ERROR, "under 8 bytes", first, second)


# C20: a server that finds us too lively (gRFC A8)


async def test_c20_too_many_pings_is_in_the_error_and_the_channel_reconnects() -> None:
    async with scene() as stage:
        first, second = await stage.calls(2)
        stage.say(goaway_frame(ALL, ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings"))
        stage.peer.writer.write_eof()
        for call in (first, second):
            error = await failure(call)
            assert error.code() is StatusCode.UNAVAILABLE
            assert "ENHANCE_YOUR_CALM too_many_pings" in error.details()
        await stage.assert_reconnects()


async def test_c20_calls_that_were_not_begun_are_tried_elsewhere() -> None:
    async with scene() as stage:
        calls = await stage.calls(2)
        stage.say(goaway_frame(0, ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings"))
        assert await asyncio.gather(*calls) == [GOOD] * 2
        assert len(stage.server.peers) == 2


async def test_c20_call_turned_away_twice_says_why() -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes:
        return goaway_frame(0, ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings")

    async with raw_server(answer) as server, channel_to(server.port) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "too_many_pings" in error.details()


async def test_c20_text_that_is_no_text_is_harmless() -> None:
    async with scene() as stage:
        (first,) = await stage.calls(1)
        stage.say(goaway_frame(ALL, 0xBAD, b"\xff\xfe\r\n\x00" * 100))
        stage.peer.writer.write_eof()
        error = await failure(first)
        assert error.code() is StatusCode.UNAVAILABLE
        assert f"error {0xBAD}" in error.details()
        await stage.assert_reconnects()


# C21: stream ids are used up


def advance(stage: Scene, next_id: int) -> None:
    """Have the connection's next call take this stream id, as if there had been that many."""
    engine = stage.connection.engine
    assert isinstance(engine, NativeEngine)
    engine._next_id = next_id


async def test_c21_used_up_stream_ids_fail_no_call() -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes:
        return good(peer, stream_id)

    async with raw_server(answer) as server, channel_to(server.port) as channel:
        stage = Scene(channel, server)
        await channel.ready(PATIENCE_S)
        advance(stage, THREE_QUARTERS - 8)
        for _ in range(10):
            calls = [unary(channel)(Item(), timeout=PATIENCE_S) for _ in range(2)]
            assert await asyncio.gather(*calls) == [GOOD] * 2
        assert len(server.peers) == 2
        old, new = (of_kind(peer, frames.HEADERS) for peer in server.peers)
        assert [each.stream_id for each in old] == [
            THREE_QUARTERS + n for n in range(-8, len(old) * 2 - 8, 2)
        ]
        assert [each.stream_id for each in new] == list(range(1, 2 * len(new), 2))
        assert len(old) + len(new) == 20
        await until(server.peers[0].reader.at_eof)
        assert goaways(server.peers[0]) == []


async def test_c21_calls_in_flight_finish_on_the_old_connection() -> None:
    async with scene() as stage:
        advance(stage, THREE_QUARTERS - 2)
        below, at = await stage.calls(2)
        assert await stage.call() == GOOD  # a new call, on a new connection
        assert len(stage.server.peers) == 2
        assert not below.done()
        assert not at.done()
        stage.say(good(stage.peer, THREE_QUARTERS - 2), good(stage.peer, THREE_QUARTERS))
        assert [await below, await at] == [GOOD, GOOD]
        await assert_old_connection_closed(stage, streams=2)


async def test_c21_burst_across_the_threshold_stays_together() -> None:
    """Calls of the same turn of the loop as the one that reaches it go out, on ids that are still valid."""
    async with scene() as stage:
        advance(stage, THREE_QUARTERS - 10)
        calls = await stage.calls(50)
        opened = [each.stream_id for each in of_kind(stage.peer, frames.HEADERS)]
        assert opened == list(range(THREE_QUARTERS - 10, THREE_QUARTERS + 90, 2))
        stage.say(*(good(stage.peer, stream_id) for stream_id in opened))
        assert await asyncio.gather(*calls) == [GOOD] * 50
        await stage.assert_reconnects()
