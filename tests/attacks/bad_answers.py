"""A call of any kind that a server answers badly, beside one on the same connection that must not notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field
from lbkit.wire.messages import frame_message
from tests.attacks.bad_server import GOOD, Scene, Sender, goaways, good, heard, resets, scene
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S, Item, RawPeer, until
from tests.support.wire import RESPONSE, TRAILERS, data_frame, split_frames

KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
UNARY_RESPONSES = ("UnaryUnary", "StreamUnary")
RESPONSE_STREAMS = ("UnaryStream", "StreamStream")
MIB = 1 << 20
FIRST = frame_message(Item(text="first").SerializeToString())
each_kind = pytest.mark.parametrize("kind", KINDS)

Say = Callable[[RawPeer, int], bytes]


class Outcome:
    """What an application gets of one call."""

    def __init__(self, call: Any, texts: list[str], error: lbkit.RpcError | None) -> None:
        self.call = call
        self.texts = texts
        self.error = error

    async def assert_failed(self, code: StatusCode, *words: str) -> lbkit.RpcError:
        assert self.error is not None, self.texts
        assert self.error.code() is code is await self.call.code()
        for word in words:
            assert word in self.error.details()
        assert len(self.error.attempts) == 1
        return self.error


class Stage:
    """A call on stream 1 that is answered badly, beside one on stream 3 that lives."""

    def __init__(self, stage: Scene, kind: str, call: Any) -> None:
        self.scene = stage
        self.kind = kind
        self.call = call
        self._said = 0  # bytes of DATA

    @property
    def peer(self) -> RawPeer:
        """The server's end."""
        return self.scene.peer

    def say(self, *words: bytes) -> None:
        """Write whole frames, all at once."""
        said = b"".join(words)
        self._said += sum(len(each.payload) for each in split_frames(said) if each.kind == frames.DATA)
        self.scene.say(said)

    async def assert_windows_whole(self) -> None:
        """A response of a mebibyte fits through, sent no faster than the windows say."""
        large = Item(text="large", body=bytes(MIB))
        before = len(self.scene.server.heads)
        running = start(self.scene.channel, "UnaryUnary", end=True, max_response_bytes=2 * MIB)
        await self.scene.arrived(before + 1)
        stream_id = 1 + 2 * before
        sender = Sender(self.peer)
        sender.sent[0] = self._said
        self.say(self.peer.headers(stream_id, RESPONSE))
        async with asyncio.timeout(PATIENCE_S):
            await sender.send(stream_id, frame_message(large.SerializeToString()))
        self.say(self.peer.headers(stream_id, TRAILERS, end=True))
        assert await running == large

    async def outcome(self) -> Outcome:
        """Wait for the end of the call."""
        texts: list[str] = []
        try:
            if self.kind in RESPONSE_STREAMS:
                async for response in self.call:
                    texts.append(response.text)  # noqa: PERF401  # a comprehension would lose them
            else:
                texts.append((await self.call).text)
        except lbkit.RpcError as error:
            return Outcome(self.call, texts, error)
        return Outcome(self.call, texts, None)


def start(channel: lbkit.Channel, kind: str, *, end: bool, **options: Any) -> Any:
    """Start a call; ``end`` says whether a stream of requests ends at once."""
    method = getattr(channel.stub(kinds_pb2, "Kinds"), kind)
    if kind in {"UnaryUnary", "UnaryStream"}:
        return method(Item(), timeout=PATIENCE_S, **options)
    return method([Item()] if end else None, timeout=PATIENCE_S, **options)


@asynccontextmanager
async def calling(
    kind: str,
    *,
    end: bool = True,
    channel: dict[str, Any] | None = None,
    sent: ErrorCode | None = None,
    **options: Any,
) -> AsyncGenerator[Stage, None]:
    """Make the call, and see at the end that nobody else has noticed.

    Args:
        kind: of call.
        end: the client ends its side at once.
        channel: options of the channel.
        sent: the code of the RST_STREAM that the client must have sent; None for none.
        options: of the call.
    """
    async with scene(**(channel or {})) as stage:
        call = start(stage.channel, kind, end=end, **options)
        await stage.arrived(1)
        if end:
            await until(
                lambda: any(
                    each.stream_id == 1 and each.flags & frames.END_STREAM for each in stage.peer.received
                )
            )
        other = stage.call()
        await stage.arrived(2)
        mine = Stage(stage, kind, call)
        yield mine
        await heard(stage.peer)
        assert resets(stage.peer) == ([] if sent is None else [(1, sent)])
        mine.say(good(stage.peer, 3))
        assert await other == GOOD
        await mine.assert_windows_whole()
        assert goaways(stage.peer) == []
        assert len(stage.server.peers) == 1
        assert not stage.connection.engine.streams
        assert [each.in_flight for each in stage.channel.subchannels()] == [0]


async def fails(
    kind: str,
    say: Say,
    code: StatusCode,
    *words: str,
    texts: tuple[str, ...] = (),
    sent: ErrorCode | None = None,
    **options: Any,
) -> lbkit.RpcError:
    """Have a bad answer fail its call, behind these responses if they are a stream."""
    async with calling(kind, sent=sent, **options) as stage:
        stage.say(say(stage.peer, 1))
        outcome = await stage.outcome()
        assert outcome.texts == (list(texts) if kind in RESPONSE_STREAMS else [])
        return await outcome.assert_failed(code, *words)


def answer(*body: bytes, trailers: tuple[Field, ...] | None = TRAILERS, end: bool = False) -> Say:
    """An answer of headers, DATA frames, and trailers, if any; ``end`` has the last DATA end the stream."""

    def say(peer: RawPeer, stream_id: int) -> bytes:
        said = peer.headers(stream_id, RESPONSE)
        for number, each in enumerate(body):
            said += data_frame(stream_id, each, end=end and number == len(body) - 1)
        if trailers is not None:
            said += peer.headers(stream_id, trailers, end=True)
        return said

    return say


def headers_only(*fields: Field, end: bool = True) -> Say:
    """An answer of one header block."""
    return lambda peer, stream_id: peer.headers(stream_id, fields, end=end)
