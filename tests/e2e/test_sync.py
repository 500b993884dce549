"""The blocking API: threads, timeouts, back-pressure, misuse, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit import sync
from tests.support.blocking import (
    Blocking,
    Item,
    blocking_channel,
    blocking_server,
    blocking_stub,
    lbkit_threads,
    nothing_left,
    wait_until,
)
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S
from tests.support.tied import tied

ROOT = Path(__file__).resolve().parents[2]
HELD_S = 30.0
STANDING = 20  # looks at a thread that has not moved meanwhile, 5 ms apart: it waits


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    with nothing_left():
        yield


def loop_of(channel: Any) -> asyncio.AbstractEventLoop:
    return channel.thread.loop  # type: ignore[no-any-return]


class BusyLoop:
    """Blocks the loop of ``lbkit.sync`` until it is let go."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._entered = threading.Event()
        self._go = threading.Event()
        self._loop = loop

    def __enter__(self) -> None:
        self._loop.call_soon_threadsafe(self._block)
        assert self._entered.wait(PATIENCE_S)

    def __exit__(self, *_: object) -> None:
        self._go.set()

    def _block(self) -> None:
        self._entered.set()
        self._go.wait(HELD_S)


WAYS: dict[str, Callable[[Any, float], object]] = {
    "call": lambda stub, timeout: stub.UnaryUnary(Item(), timeout=timeout),
    "with_call": lambda stub, timeout: stub.UnaryUnary.with_call(Item(), timeout=timeout),
    "future": lambda stub, timeout: stub.UnaryUnary.future(Item(), timeout=timeout).result(),
    "stream": lambda stub, timeout: next(stub.UnaryStream(Item(number=1), timeout=timeout)),
    "requests": lambda stub, timeout: stub.StreamUnary(iter([Item()]), timeout=timeout),
}


class Held(Blocking):
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.left = threading.Event()
        self.go = threading.Event()

    def UnaryUnary(self, request: Any, context: Any) -> Any:
        context.add_callback(self.left.set)
        self.entered.set()
        self.go.wait(HELD_S)
        return request


# Threads


def test_sixteen_threads_share_a_channel() -> None:
    with blocking_stub() as stub, ThreadPoolExecutor(16) as threads:

        def work(first: int) -> int:
            return sum(
                stub.UnaryUnary(Item(number=number), timeout=HELD_S).number == number + 1
                for number in range(first, first + 500)
            )

        assert list(threads.map(work, range(0, 16_000, 1000))) == [500] * 16


def test_all_channels_and_servers_share_one_thread_that_ends_with_the_last() -> None:
    assert lbkit_threads() == []
    with blocking_server() as port:
        with blocking_channel(port) as one, blocking_channel(port) as other:
            one.ready(PATIENCE_S)
            other.ready(PATIENCE_S)
            assert lbkit_threads() == ["lbkit-loop"]
        assert lbkit_threads() == ["lbkit-loop"]
    wait_until(lambda: not lbkit_threads())
    with blocking_server() as port, blocking_channel(port) as again:
        again.ready(PATIENCE_S)


def test_channel_that_is_not_used_does_nothing() -> None:
    with blocking_channel(1):
        assert lbkit_threads() == []


def test_channel_that_is_forgotten_is_closed() -> None:
    with blocking_server() as port:
        channel = blocking_channel(port)
        stub = channel.stub(kinds_pb2, "Kinds")
        assert stub.UnaryUnary(Item()).number == 1
        core = channel._core
        del channel, stub
        gc.collect()
        wait_until(lambda: core.get_state() is lbkit.ConnectivityState.SHUTDOWN)


def test_closed_channel_refuses_calls() -> None:
    with blocking_server() as port:
        channel = blocking_channel(port)
        stub = channel.stub(kinds_pb2, "Kinds")
        unused = blocking_channel(port)
        stub.UnaryUnary(Item())
        for each in (channel, unused):
            each.close()
            each.close()
            assert each.get_state() is lbkit.ConnectivityState.SHUTDOWN
            with pytest.raises(lbkit.ChannelClosedError):
                each.stub(kinds_pb2, "Kinds").UnaryUnary(Item())
        with pytest.raises(lbkit.ChannelClosedError):
            next(stub.UnaryStream(Item()))
    with pytest.raises(lbkit.ChannelClosedError):  # the loop has ended as well
        stub.UnaryUnary(Item())
    with pytest.raises(lbkit.ChannelClosedError):
        stub.StreamUnary(iter([]))


def test_loop_goes_on_when_something_on_it_asks_the_program_to_exit(caplog: pytest.LogCaptureFixture) -> None:
    with blocking_server() as port, blocking_channel(port) as channel:
        stub = channel.stub(kinds_pb2, "Kinds")
        stub.UnaryUnary(Item())
        for end in (sys.exit, loop_of(channel).stop):
            loop_of(channel).call_soon_threadsafe(end)
            assert stub.UnaryUnary(Item(number=1), timeout=PATIENCE_S).number == 2
    assert caplog.text.count("it goes on") == 1


# Timeouts and interruptions


@pytest.mark.parametrize("kind", list(WAYS))
def test_timeout_holds_while_something_blocks_the_loop(kind: str) -> None:
    with blocking_server() as port, blocking_channel(port) as channel:
        stub = channel.stub(kinds_pb2, "Kinds")
        stub.UnaryUnary(Item())
        with BusyLoop(loop_of(channel)):
            began = time.monotonic()
            with pytest.raises(lbkit.RpcError, match="blocks it") as caught:
                WAYS[kind](stub, 0.2)
            took = time.monotonic() - began
        assert caught.value.code() is lbkit.StatusCode.DEADLINE_EXCEEDED
        assert 0.2 <= took < 5.0  # far from HELD_S
        assert stub.UnaryUnary(Item(number=1), timeout=PATIENCE_S).number == 2


def test_ready_says_when_it_was_not() -> None:
    with blocking_server() as port:
        pass
    with blocking_channel(port) as channel:
        with pytest.raises(lbkit.RpcError, match=r"not READY within 0\.1 s") as caught:
            channel.ready(0.1)
        assert caught.value.code() is lbkit.StatusCode.UNAVAILABLE
        with BusyLoop(loop_of(channel)), pytest.raises(lbkit.RpcError, match="blocks the event loop"):
            channel.ready(0.1)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """What Python does with SIGINT, unless it was started in the background of a script, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_when(entered: threading.Event) -> None:
    """Have this thread, the main one, interrupted once it waits for a call."""
    main = threading.get_ident()

    def place() -> tuple[object, int]:
        frame = sys._current_frames()[main]
        return frame, frame.f_lasti

    def interrupt() -> None:
        assert entered.wait(PATIENCE_S)
        # The handler may have begun before this thread got to where it waits.
        before, same = place(), 0
        while same < STANDING:
            time.sleep(0.005)
            now = place()
            before, same = now, same + 1 if now == before else 0
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("kind", list(WAYS))
def test_keyboard_interrupt_cancels_the_call_that_is_waited_for(kind: str) -> None:
    class Streaming(Held):
        def UnaryStream(self, request: Any, context: Any) -> Iterator[Any]:
            yield self.UnaryUnary(request, context)

        def StreamUnary(self, requests: Any, context: Any) -> Any:
            return self.UnaryUnary(Item(), context)

    servicer = Streaming()
    with blocking_stub(servicer) as stub:
        interrupt_when(servicer.entered)
        try:
            with pytest.raises(KeyboardInterrupt):
                WAYS[kind](stub, HELD_S)
            assert servicer.left.wait(PATIENCE_S)
        finally:
            servicer.go.set()


def test_what_cannot_be_parsed_fails_the_call() -> None:
    def refuse(_: bytes) -> Any:
        raise ValueError("not my kind")

    path = "/lbkit.tests.Kinds/"
    with blocking_server() as port, blocking_channel(port) as channel:
        unary = channel.unary_unary(path + "UnaryUnary", Item.SerializeToString, refuse)
        stream = channel.unary_stream(path + "UnaryStream", Item.SerializeToString, refuse)
        failed = unary.future(Item())
        for call in (lambda: unary(Item()), failed.result, lambda: next(stream(Item(number=1)))):
            with pytest.raises(lbkit.RpcError, match="cannot be parsed: ValueError: not my kind") as caught:
                call()
            assert caught.value.code() is lbkit.StatusCode.INTERNAL
        assert failed.code() is lbkit.StatusCode.INTERNAL
        raw = channel.unary_unary(path + "UnaryUnary")
        assert raw(b"") == Item(number=1).SerializeToString()


def test_errors_before_the_call_reach_the_caller() -> None:
    with blocking_stub() as stub:
        with pytest.raises(lbkit.MetadataError):
            stub.UnaryUnary(Item(), metadata=(("UPPER", "x\n"),))
        bad = stub.UnaryUnary.future(Item(), metadata=(("UPPER", "x\n"),))
        for ask in (bad.result, bad.code, bad.details):
            with pytest.raises(lbkit.MetadataError):
                ask()
        assert isinstance(bad.exception(), lbkit.MetadataError)
        with pytest.raises(lbkit.MetadataError):
            next(stub.UnaryStream(Item(), metadata=(("UPPER", "x\n"),)))
        with pytest.raises(TypeError):
            stub.UnaryUnary(Item(), no_such_option=1)


def test_limits_of_a_call_are_those_of_the_asynchronous_one() -> None:
    with blocking_stub() as stub, pytest.raises(lbkit.RpcError) as caught:
        stub.UnaryUnary(Item(text="x" * 100), max_request_bytes=50)
    assert caught.value.code() is lbkit.StatusCode.RESOURCE_EXHAUSTED


# Streams


def test_server_is_not_read_further_ahead_than_allowed() -> None:
    sent = [0]
    stopped = threading.Event()

    class Fast(Blocking):
        def UnaryStream(self, request: Any, context: Any) -> Iterator[Any]:
            context.add_callback(stopped.set)
            while True:
                sent[0] += 1
                yield Item(body=bytes(1000))

    with blocking_stub(Fast()) as stub:
        call = stub.UnaryStream(Item())
        next(call)
        settled(sent)
        assert sent[0] < 10_000  # windows and buffers of kilobytes
        before = sent[0]
        for _ in range(before):
            next(call)
        wait_until(lambda: sent[0] > before)
        call.cancel()
        assert stopped.wait(PATIENCE_S)


def test_iterator_of_requests_is_not_read_further_ahead_than_allowed() -> None:
    taken = [0]
    go = threading.Event()

    class Slow(Blocking):
        def StreamUnary(self, requests: Any, context: Any) -> Any:
            next(requests)
            go.wait(HELD_S)
            return Item(number=1 + sum(1 for _ in requests))

    def requests() -> Iterator[Any]:
        for _ in range(50_000):
            taken[0] += 1
            yield Item(body=bytes(1000))

    with blocking_stub(Slow()) as stub:
        future = stub.StreamUnary.future(requests())
        settled(taken)
        assert 0 < taken[0] < 10_000
        go.set()
        assert future.result(timeout=HELD_S).number == taken[0] == 50_000


def settled(count: list[int]) -> None:
    """Wait until a count has stood still for a while."""
    seen = -1
    while count[0] != seen or not seen:
        seen = count[0]
        time.sleep(0.1)  # standing still is nothing that happens


def test_thread_of_requests_ends_with_its_call() -> None:
    over = threading.Event()

    class Deaf(Blocking):
        def StreamUnary(self, requests: Any, context: Any) -> Any:
            return Item()

    def requests() -> Iterator[Any]:
        try:
            while True:
                yield Item(body=bytes(1000))
        finally:
            over.set()

    with blocking_stub(Deaf()) as stub:
        stub.StreamUnary(requests(), timeout=PATIENCE_S)
        wait_until(lambda: "lbkit-requests" not in lbkit_threads())
        gc.collect()
        assert over.wait(PATIENCE_S)


def test_several_threads_may_read_one_stream() -> None:
    with blocking_stub() as stub, ThreadPoolExecutor(4) as threads:
        call = stub.UnaryStream(Item(number=5000))

        def read(_: int) -> list[int]:
            return [item.number for item in call]

        found = [number for part in threads.map(read, range(4)) for number in part]
    assert sorted(found) == list(range(5000))


# What there is to ask


def test_initial_metadata_come_before_the_end_of_the_call() -> None:
    class Early(Held):
        def UnaryUnary(self, request: Any, context: Any) -> Any:
            context.send_initial_metadata((("first", "1"),))
            return super().UnaryUnary(request, context)

    servicer = Early()
    with blocking_server(servicer) as port, blocking_channel(port) as channel:
        future = channel.stub(kinds_pb2, "Kinds").UnaryUnary.future(Item())
        assert future.initial_metadata()["first"] == "1"
        assert not future.done()
        assert future.time_remaining() is None
        assert future.backend == f"127.0.0.1:{port}"
        assert [attempt.kind for attempt in future.attempts] == ["first"]
        servicer.go.set()
        assert future.code() is lbkit.StatusCode.OK
        assert future.initial_metadata()["first"] == "1"


def test_channel_tells_of_itself_as_the_asynchronous_one_does() -> None:
    with blocking_server() as port, blocking_channel(port) as channel:
        assert channel.target == f"static:///127.0.0.1:{port}"
        assert channel.get_state() is lbkit.ConnectivityState.IDLE
        assert channel.subchannels() == ()
        channel.get_state(try_to_connect=True)
        seen: list[Any] = []
        ready = threading.Event()

        def watch(state: Any) -> None:
            seen.append(state)
            if state == lbkit.ConnectivityState.READY:
                ready.set()
                raise ValueError("a subscriber's mistake")

        channel.subscribe(watch, try_to_connect=True)
        channel.subscribe(watch)  # once is enough
        assert ready.wait(PATIENCE_S)
        assert seen.count(lbkit.ConnectivityState.READY) == 1
        assert len(channel.subchannels()) == 1
        assert "lbkit.sync.Channel static:///" in repr(channel)
        assert channel.counters.exceeded.total() == 0


def test_result_of_an_idle_future_times_out_without_ending_the_call() -> None:
    servicer = Held()
    with blocking_stub(servicer) as stub:
        future = stub.UnaryUnary.future(Item(text="kept"), timeout=HELD_S)
        with pytest.raises(sync.FutureTimeoutError, match=r"not over after 0\.01 s"):
            future.result(timeout=0.01)
        with pytest.raises(TimeoutError):
            future.exception(timeout=0)
        servicer.go.set()
        assert future.result().text == "kept"


# Servers


def test_server_stops_gracefully_and_says_when() -> None:
    servicer = Held()
    server = sync.Server()
    server.add(kinds_pb2, "Kinds", servicer)
    port = server.bind("127.0.0.1:0")
    with pytest.raises(RuntimeError, match="has not been started"):
        server.wait_for_termination(0.0)
    server.start()
    with pytest.raises(RuntimeError, match="started once"):
        server.start()
    assert server.wait_for_termination(0.01)
    with blocking_channel(port) as channel:
        future = channel.stub(kinds_pb2, "Kinds").UnaryUnary.future(Item(text="kept"))
        assert servicer.entered.wait(PATIENCE_S)
        stopped = server.stop(HELD_S)
        assert not stopped.is_set()
        servicer.go.set()
        assert future.result(timeout=PATIENCE_S).text == "kept"
        assert stopped.wait(PATIENCE_S)
        assert not server.wait_for_termination(0.0)
        assert server.stop().is_set()


def test_function_that_goes_on_after_its_server_has_gone_can_use_its_context() -> None:
    raised: list[BaseException] = []

    class Late(Held):
        def UnaryUnary(self, request: Any, context: Any) -> Any:
            super().UnaryUnary(request, context)
            context.send_initial_metadata((("too", "late"),))
            assert not context.add_callback(self.left.set)
            try:
                context.abort(lbkit.StatusCode.ABORTED, "nobody hears it")
            except lbkit.AbortError as error:
                raised.append(error)
            self.returning.set()

        returning = threading.Event()

    servicer = Late()
    with blocking_server(servicer) as port, blocking_channel(port) as channel:
        channel.stub(kinds_pb2, "Kinds").UnaryUnary.future(Item())
        assert servicer.entered.wait(PATIENCE_S)
    wait_until(lambda: "lbkit-loop" not in lbkit_threads())
    servicer.go.set()
    assert servicer.returning.wait(PATIENCE_S)
    assert len(raised) == 1


def test_server_that_was_not_started_lets_go_of_its_address() -> None:
    server = sync.Server()
    port = server.bind("127.0.0.1:0")
    assert server.stop().is_set()
    with pytest.raises(RuntimeError, match="nothing to listen on"):
        sync.Server().start()
    with blocking_server() as other:
        assert port
        assert other


PROGRAM = """
import sys
from lbkit import sync
from tests.support.blocking import Blocking
from tests.support.protos import kinds_pb2

server = sync.Server()
server.add(kinds_pb2, "Kinds", Blocking())
with server.serving("127.0.0.1:0"):
    print("serving", flush=True)
    server.wait_for_termination()
print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serving_ends_on_a_signal(number: signal.Signals) -> None:
    process = subprocess.Popen(
        tied([sys.executable, "-W", "error", "-c", PROGRAM]),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        process.send_signal(number)
        assert process.communicate(timeout=PATIENCE_S) == ("stopped\n", "")
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_program_that_closes_nothing_ends_all_the_same() -> None:
    code = (
        PROGRAM.partition("server = ")[0]
        + """
server = sync.Server()
server.add(kinds_pb2, "Kinds", Blocking())
port = server.bind("127.0.0.1:0")
server.start()
channel = sync.Channel(f"static:///127.0.0.1:{port}")
print(channel.stub(kinds_pb2, "Kinds").UnaryUnary(kinds_pb2.Item(number=41)).number)
"""
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )
    assert (ended.stdout, ended.stderr) == ("42\n", "")


def test_importing_lbkit_does_not_import_it() -> None:
    code = "import sys, lbkit; print(any(name.startswith('lbkit.sync') for name in sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
