"""Handlers that go wrong, answer early, or take too long: rows R27 to R29, for all four kinds and for threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import lbkit
from lbkit import EOF, StatusCode
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode
from tests.attacks.four_kinds import (
    KINDS,
    MIB,
    REQUEST_STREAMS,
    RESPONSE_STREAMS,
    Echo,
    Stage,
    message,
    staged,
)
from tests.support.servers import PATIENCE_S, Item, kinds, until
from tests.support.wire import data_frame, settings_frame

CANCELLED, UNKNOWN, INTERNAL, DEADLINE_EXCEEDED = 1, 2, 13, 4
GOOD = message("good")
SECRET = "the password is swordfish"


def made(kind: str, style: str, act: Callable[[], Any]) -> Any:
    """A behaviour of a kind and a style; streams give one response first, then all ``act()``."""
    if style == "async" and kind in RESPONSE_STREAMS:

        async def generator(request: Any, context: Any) -> AsyncIterator[Any]:
            yield Item(text="first")
            yield act()

        return generator
    if style == "async":

        async def coroutine(request: Any, context: Any) -> Any:
            return act()

        return coroutine
    if style == "write":

        async def writer(request: Any, context: Any) -> None:
            await context.write(Item(text="first"))
            await context.write(act())

        return writer
    if kind in RESPONSE_STREAMS:

        def plain_generator(request: Any, context: Any) -> Iterator[Any]:
            yield Item(text="first")
            yield act()

        return plain_generator
    return lambda request, context: act()


STYLES = [
    *((kind, style) for kind in KINDS for style in ("async", "thread")),
    *((kind, "write") for kind in RESPONSE_STREAMS),
]
each_style = pytest.mark.parametrize(("kind", "style"), STYLES)


async def ends(kind: str, style: str, act: Callable[[], Any], status: int, *words: str) -> dict[bytes, bytes]:
    """Have a handler do something; the call ends with a status, behind what was sent before."""
    async with staged() as stage:
        stage.install(kind, made(kind, style, act))
        stream_id = await stage.call_bad(kind)
        found = await stage.caller.assert_ends(stream_id, status, *words)
        assert stage.caller.texts(stream_id) == (["first"] if kind in RESPONSE_STREAMS else [])
        return found


# R27: exceptions


def explode() -> Any:
    raise ValueError(SECRET)


def stop() -> Any:
    raise StopIteration


def cancel_oneself() -> Any:
    raise asyncio.CancelledError


@each_style
async def test_r27_handler_that_raises_is_unknown_and_keeps_the_text_to_itself(kind: str, style: str) -> None:
    """The client learns the type. A text, or a trace, may hold what is none of its business."""
    found = await ends(kind, style, explode, UNKNOWN, "raised ValueError")
    for value in found.values():
        assert b"swordfish" not in value
        assert b"Traceback" not in value


@each_style
async def test_r27_handler_that_returns_none_is_internal(kind: str, style: str) -> None:
    await ends(kind, style, lambda: None, INTERNAL, "NoneType", "cannot be serialised")


@each_style
async def test_r27_handler_that_answers_with_something_else_is_internal(kind: str, style: str) -> None:
    await ends(kind, style, lambda: SECRET, INTERNAL, "a str", "cannot be serialised")


@each_style
async def test_r27_handler_that_cancels_itself_is_cancelled(kind: str, style: str) -> None:
    await ends(kind, style, cancel_oneself, CANCELLED)


@each_style
async def test_r27_handler_that_raises_stop_iteration_is_unknown(kind: str, style: str) -> None:
    """No future takes one, and no generator lets one through."""
    await ends(kind, style, stop, UNKNOWN, "RuntimeError")


@pytest.mark.parametrize("kind", KINDS)
async def test_r27_task_of_a_handler_that_is_cancelled_from_within_is_cancelled(kind: str) -> None:
    async def suicide(request: Any, context: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async with staged() as stage:
        stage.install(kind, suicide)
        stream_id = await stage.call_bad(kind)
        await stage.caller.assert_ends(stream_id, CANCELLED)


@pytest.mark.parametrize("kind", RESPONSE_STREAMS)
async def test_r27_plain_function_that_gives_no_iterator_is_unknown(kind: str) -> None:
    async with staged() as stage:
        stage.install(kind, lambda request, context: None)
        stream_id = await stage.call_bad(kind)
        await stage.caller.assert_ends(stream_id, UNKNOWN, "TypeError")


# R27: more than the answer


class Late:
    """A handler that ends without a word, and whose context is used afterwards."""

    def __init__(self) -> None:
        self.context: Any = None

    async def behaviour(self, request: Any, context: Any) -> Any:
        self.context = context
        return Item(text="answer")


@pytest.mark.parametrize("kind", RESPONSE_STREAMS)
async def test_r27_response_behind_the_end_is_the_handlers_error(kind: str) -> None:
    late = Late()
    async with staged() as stage:
        stage.install(kind, late.behaviour)
        stream_id = await stage.call_bad(kind)
        await stage.caller.assert_ends(stream_id, 0)
        assert late.context.done()
        with pytest.raises(lbkit.UsageError, match="the call is over"):
            await late.context.write(Item(text="late"))
        await late.context.send_initial_metadata((("late", "yes"),))
        late.context.set_trailing_metadata((("late", "yes"),))
        small = await stage.caller.call("UnaryUnary", GOOD)
        await stage.caller.assert_ends(small, 0)
        assert stage.caller.texts(stream_id) == []
        assert b"late" not in stage.caller.heads[stream_id]


@pytest.mark.parametrize("kind", REQUEST_STREAMS)
async def test_r27_request_read_behind_the_end_is_the_handlers_error(kind: str) -> None:
    late = Late()
    async with staged() as stage:
        stage.install(kind, late.behaviour)
        stream_id = await stage.call_bad(kind, GOOD, end=False)
        await stage.caller.assert_ends(stream_id, 0)
        with pytest.raises(lbkit.UsageError, match="the call is over"):
            await late.context.read()


@pytest.mark.parametrize("kind", KINDS)
async def test_r27_what_the_kind_does_not_have_is_the_handlers_error(kind: str) -> None:
    """A second response of a unary method, say; whoever lets the error pass fails the call."""

    async def confused(request: Any, context: Any) -> Any:
        if kind not in RESPONSE_STREAMS:
            with pytest.raises(lbkit.UsageError, match="one response"):
                await context.write(Item())
        if kind not in REQUEST_STREAMS:
            await context.read()
        return Item()

    async with staged() as stage:
        stage.install(kind, confused)
        stream_id = await stage.call_bad(kind)
        if kind in REQUEST_STREAMS:
            await stage.caller.assert_ends(stream_id, 0)
        else:
            await stage.caller.assert_ends(stream_id, UNKNOWN, "UsageError")


@pytest.mark.parametrize("kind", KINDS)
async def test_r27_second_initial_metadata_are_the_handlers_error(kind: str) -> None:
    async def eager(request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("x-first", "1"),))
        await context.send_initial_metadata((("x-second", "2"),))

    async with staged() as stage:
        stage.install(kind, eager)
        stream_id = await stage.call_bad(kind)
        found = await stage.caller.assert_ends(stream_id, UNKNOWN, "RuntimeError")
        assert found[b"x-first"] == b"1"
        assert b"x-second" not in found


# R28: an answer before the end of the request


async def decide(context: Any, answer: str) -> Any:
    """Answer without reading."""
    if answer == "refuse":
        await context.abort(StatusCode.PERMISSION_DENIED, "no need to read on")
    return Item(text="enough")


@pytest.mark.parametrize("answer", ["ok", "refuse"])
@pytest.mark.parametrize("reads", [0, 1])
@pytest.mark.parametrize("kind", REQUEST_STREAMS)
async def test_r28_early_answer_is_trailers_and_then_a_reset_without_error(
    kind: str, reads: int, answer: str
) -> None:
    """PROTOCOL-HTTP2, RFC 9113 8.1: what the client still sends is dropped, and its window is given back."""

    async def early(requests: Any, context: Any) -> Any:
        for _ in range(reads):
            assert (await context.read()).text == "good"
        response = await decide(context, answer)
        if kind == "StreamStream":
            await context.write(response)
        return response

    async with staged() as stage:
        stage.install(kind, early)
        for _ in range(5):  # more than the connection's window, all together
            stream_id = await stage.call_bad(kind, GOOD, end=False)
            await stage.caller.assert_ends(stream_id, 0 if answer == "ok" else 7)
            await stage.caller.assert_no_more_wanted(stream_id)
            said = [each for each in stage.caller.frames if each.stream_id == stream_id]
            assert [each.kind for each in said[-2:]] == [frames.HEADERS, frames.RST_STREAM]
            assert said[-2].flags & frames.END_STREAM
            assert stage.caller.texts(stream_id) == (["enough"] if answer == "ok" else [])
            await stage.caller.stream(stream_id, bytes(200_000), end=True)


async def write_on(call: Any) -> None:
    while True:
        await call.write(Item(body=bytes(100_000)))


@pytest.mark.parametrize("style", ["iterator", "write"])
@pytest.mark.parametrize("kind", REQUEST_STREAMS)
async def test_r28_client_call_ends_well_however_much_it_had_to_say(kind: str, style: str) -> None:
    class Early(Echo):
        async def StreamUnary(self, requests: Any, context: Any) -> Any:
            await context.read()
            return Item(text="enough")

        async def StreamStream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
            await context.read()
            yield Item(text="enough")

    async def endless() -> AsyncIterator[Any]:
        while True:
            yield Item(body=bytes(100_000))

    async with kinds(Early()) as stub:
        if style == "iterator":
            call = getattr(stub, kind)(endless(), timeout=PATIENCE_S)
        else:
            call = getattr(stub, kind)(timeout=PATIENCE_S)
            with pytest.raises(asyncio.InvalidStateError, match="the call is over"):
                await write_on(call)
        assert (await (call if kind == "StreamUnary" else call.read())).text == "enough"
        if kind == "StreamStream":
            assert await call.read() is EOF
        assert await call.code() is StatusCode.OK
        assert await stub.UnaryUnary(Item(body=bytes(MIB)), timeout=PATIENCE_S) == Item(body=bytes(MIB))


# R29: the deadline passes in the handler

SHORT = (b"grpc-timeout", b"50m")
TIMEOUTS = (SHORT, *((b"grpc-timeout", b"%dm" % timeout) for timeout in (200, 800, 3200)))


class Stuck:
    """A handler that does not end by itself.

    Attributes:
        at: where it waits.
        began: set when it has come to that.
        saw: the type of what ended it.
    """

    def __init__(self, at: str) -> None:
        self.at = at
        self.began = threading.Event()
        self.saw: list[str] = []
        self.context: Any = None

    async def on_loop(self, request: Any, context: Any) -> Any:
        self.context = context
        try:
            self.began.set()
            if self.at == "read":
                await context.read()
            while self.at == "write":
                await context.write(Item(body=bytes(50_000)))
            await asyncio.Event().wait()
        except BaseException as error:
            self.saw.append(type(error).__name__)
            raise

    def read_in_thread(self, requests: Any, context: Any) -> Any:
        self.context = context
        self.began.set()
        try:
            next(requests)
        except BaseException as error:
            self.saw.append(type(error).__name__)
            raise

    def write_in_thread(self, request: Any, context: Any) -> Iterator[Any]:
        self.context = context
        self.began.set()
        try:
            while True:
                yield Item(body=bytes(50_000))
        except BaseException as error:
            self.saw.append(type(error).__name__)
            raise

    def look_in_thread(self, request: Any, context: Any) -> Any:
        self.context = context
        self.began.set()
        while context.is_active():
            threading.Event().wait(0.001)
        self.saw.append("not active")
        return Item()


async def too_late(stage: Stage, kind: str, stuck: Stuck, *, end: bool) -> int:
    """Make a call that is not answered in time: it is reset with CANCEL, and its handler ends. Return its stream."""
    stream_id = 0
    for timeout in TIMEOUTS:  # a handler does not even begin in a short time, on a machine that is busy
        if stuck.began.is_set():
            break
        body = b"" if kind in REQUEST_STREAMS else GOOD
        stream_id = await stage.call_bad(kind, body, timeout, end=end)
        await stage.caller.assert_reset(stream_id, ErrorCode.CANCEL)
        assert b"grpc-status" not in stage.caller.heads.get(stream_id, {})
    await until(lambda: stuck.saw)
    return stream_id


@pytest.mark.parametrize("kind", KINDS)
async def test_r29_deadline_resets_the_stream_and_cancels_the_handler(kind: str) -> None:
    stuck = Stuck("nothing")
    async with staged() as stage:
        stage.install(kind, stuck.on_loop)
        await too_late(stage, kind, stuck, end=True)
        assert stuck.saw == ["CancelledError"]
        assert stuck.context.cancelled()
        assert stuck.context.time_remaining() == 0


@pytest.mark.parametrize("kind", REQUEST_STREAMS)
async def test_r29_deadline_ends_a_handler_that_waits_for_a_request(kind: str) -> None:
    stuck = Stuck("read")
    async with staged() as stage:
        stage.install(kind, stuck.on_loop)
        await too_late(stage, kind, stuck, end=False)
        assert stuck.saw == ["CancelledError"]


@pytest.mark.parametrize("kind", RESPONSE_STREAMS)
async def test_r29_deadline_ends_a_handler_that_waits_for_room(kind: str) -> None:
    """Of a client that reads no more of this call: its window is used up."""
    stuck = Stuck("write")
    async with staged() as stage:
        await stage.caller.send(settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 100_000)))
        stage.install(kind, stuck.on_loop)
        await too_late(stage, kind, stuck, end=True)
        assert stuck.saw == ["CancelledError"]
        await stage.caller.send(settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 1 << 30)))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("StreamUnary", "read_in_thread"),
        ("StreamStream", "read_in_thread"),
        ("UnaryStream", "write_in_thread"),
        ("StreamStream", "write_in_thread"),
        ("UnaryUnary", "look_in_thread"),
    ],
)
async def test_r29_deadline_ends_a_function_that_waits_in_a_thread(kind: str, method: str) -> None:
    """No thread can be cancelled: what it waits for ends with an error, and it may ask."""
    stuck = Stuck("")
    with ThreadPoolExecutor(1) as threads:
        async with staged(threads=threads) as stage:
            await stage.caller.send(settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 100_000)))
            stage.install(kind, getattr(stuck, method))
            await too_late(stage, kind, stuck, end=not method.startswith("read"))
            await stage.caller.send(settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, 1 << 30)))


@pytest.mark.parametrize("kind", KINDS)
async def test_r29_request_that_does_not_come_in_time_is_given_up(kind: str) -> None:
    """Nothing is sent to who does not send; a unary handler never runs."""
    async with staged() as stage:
        for body in (None, GOOD[:4], GOOD[:-1]):
            stream_id = await stage.caller.call(kind, body, SHORT, end=False)
            await stage.caller.assert_reset(stream_id, ErrorCode.CANCEL)
        if kind not in REQUEST_STREAMS:
            assert stage.servicer.started.total() == 1


async def test_r29_data_behind_the_deadline_are_dropped() -> None:
    stuck = Stuck("read")
    async with staged() as stage:
        stage.install("StreamStream", stuck.on_loop)
        stream_id = await too_late(stage, "StreamStream", stuck, end=False)
        await stage.caller.send(data_frame(stream_id, GOOD, end=True))
        await stage.caller.settle()
