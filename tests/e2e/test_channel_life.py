"""A channel's life: states, closing, other event loops, other processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit import ConnectivityState, StatusCode
from tests.support.protos import kinds_pb2
from tests.support.servers import (
    PATIENCE_S,
    Backend,
    Item,
    channel_to,
    failure,
    naming,
    serving,
    silence,
    target_of,
    unary,
    until,
)

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY
TRANSIENT_FAILURE = ConnectivityState.TRANSIENT_FAILURE
SHUTDOWN = ConnectivityState.SHUTDOWN

ROOT = Path(__file__).parents[2]


async def for_ever(request: Any, context: lbkit.ServicerContext) -> Any:
    await asyncio.get_running_loop().create_future()


def run_script(script: str) -> str:
    """Run Python code in a process of its own; return what it printed."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "resolvers", ROOT / "balancers")))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


# Making one


def test_making_a_channel_needs_no_loop_and_no_network() -> None:
    channel = lbkit.Channel("static:///127.0.0.1:1")
    assert channel.get_state() is IDLE
    assert repr(channel) == "<lbkit.Channel static:///127.0.0.1:1 round_robin IDLE>"


def test_unknown_scheme_is_said_at_once_with_the_nearest() -> None:
    with pytest.raises(lbkit.UnknownPluginError, match="static"):
        lbkit.Channel("statik:///127.0.0.1:1")


def test_unknown_policy_is_said_at_once_with_the_nearest() -> None:
    with pytest.raises(lbkit.UnknownPluginError, match="round_robin"):
        lbkit.Channel("static:///127.0.0.1:1", balancer="round_robbin")


@pytest.mark.parametrize(
    "target", ["", " ", "static:///", "static:///127.0.0.1", "static:///127.0.0.1:99999"]
)
def test_bad_target_is_said_at_once(target: str) -> None:
    with pytest.raises(ValueError):
        lbkit.Channel(target)


async def test_policy_that_refuses_its_configuration_fails_each_use() -> None:
    class Picky(lbkit.Balancer):
        def __init__(self, controller: Any, config: Any) -> None:
            super().__init__(controller, config)
            raise ValueError(f"no such option: {next(iter(config))}")

    Picky.__abstractmethods__ = frozenset()
    lbkit.balancer("tests_picky")(Picky)
    async with channel_to(1, balancer="tests_picky", balancer_config={"speed": 11}) as channel:
        for _ in range(2):
            with pytest.raises(ValueError, match="no such option: speed"):
                unary(channel)(Item())


# States


async def test_states_of_a_channel_that_connects_and_closes() -> None:
    async with serving() as backend:
        channel = channel_to(backend)
        assert channel.get_state() is IDLE
        await unary(channel)(Item())
        assert channel.get_state() is READY
        await channel.close()
        assert channel.get_state() is SHUTDOWN
        assert "SHUTDOWN" in repr(channel)


async def test_asking_for_the_state_may_connect() -> None:
    async with serving() as backend, channel_to(backend) as channel:
        assert channel.get_state(try_to_connect=True) in {IDLE, CONNECTING}
        async with asyncio.timeout(PATIENCE_S):
            while (state := channel.get_state()) is not READY:
                await channel.wait_for_state_change(state)


async def test_every_change_of_state_is_seen() -> None:
    seen: list[ConnectivityState] = []

    async def watch(channel: lbkit.Channel) -> None:
        while not seen or seen[-1] is not SHUTDOWN:
            seen.append(channel.get_state())
            await channel.wait_for_state_change(seen[-1]) if seen[-1] is not SHUTDOWN else None

    async with serving() as backend:
        channel = channel_to(backend)
        watching = asyncio.create_task(watch(channel))
        await asyncio.sleep(0)
        await channel.channel_ready()
        await until(lambda: READY in seen)
        await backend.server.stop(None)
        await until(lambda: TRANSIENT_FAILURE in seen)
        await channel.close()
        async with asyncio.timeout(PATIENCE_S):
            await watching
    assert seen[0] is IDLE
    assert seen.index(CONNECTING) < seen.index(READY) < seen.index(TRANSIENT_FAILURE)
    assert seen[-1] is SHUTDOWN


async def test_waiting_for_a_change_may_be_given_up() -> None:
    channel = channel_to(1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await channel.wait_for_state_change(IDLE)
    assert channel._state_watchers == []
    await channel.close()


async def test_foreign_states_compare_equal() -> None:
    import grpc

    async with serving() as backend, channel_to(backend) as channel:
        foreign: Any = grpc.ChannelConnectivity
        await channel.wait_for_state_change(foreign.CONNECTING)
        await channel.channel_ready()
        assert channel.get_state() == foreign.READY


async def test_ready_returns_when_ready() -> None:
    async with serving() as backend, channel_to(backend) as channel:
        await channel.ready(timeout=PATIENCE_S)
        assert channel.get_state() is READY
        await channel.ready(timeout=PATIENCE_S)
        assert backend.calls == 0


async def test_ready_that_times_out_says_why() -> None:
    async with channel_to(1) as channel:
        channel.get_state(try_to_connect=True)
        await until(lambda: channel.get_state() is TRANSIENT_FAILURE)
        with pytest.raises(lbkit.RpcError) as caught:
            await channel.ready(timeout=0.1)
        assert caught.value.code() is StatusCode.UNAVAILABLE
        assert "127.0.0.1:1" in caught.value.details()
        assert "refused" in caught.value.details()


async def test_channel_ready_ends_when_the_channel_is_closed() -> None:
    async with silence() as port:
        channel = channel_to(port)
        waiting = asyncio.create_task(channel.channel_ready())
        await until(lambda: channel.get_state() is CONNECTING)
        await channel.close()
        with pytest.raises(lbkit.ChannelClosedError):
            await waiting


# Closing


async def test_closed_channel_says_so_at_each_use() -> None:
    async with serving() as backend:
        channel = channel_to(backend)
        call = unary(channel)
        await call(Item())
        await channel.close()
        await channel.close()
        with pytest.raises(lbkit.ChannelClosedError, match="make a new channel"):
            call(Item())
        with pytest.raises(lbkit.ChannelClosedError):
            await channel.channel_ready()
        assert channel.get_state(try_to_connect=True) is SHUTDOWN


async def test_unused_channel_closes_too() -> None:
    channel = channel_to(1)
    await channel.close()
    assert channel.get_state() is SHUTDOWN
    with pytest.raises(lbkit.ChannelClosedError):
        unary(channel)(Item())


async def test_close_cancels_calls_in_flight_and_their_handlers() -> None:
    ended: list[bool] = []

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        try:
            await for_ever(request, context)
        finally:
            ended.append(True)

    async with serving(behaviour) as backend:
        channel = channel_to(backend)
        running = [unary(channel)(Item(number=n)) for n in range(5)]
        await until(lambda: backend.calls == 5)
        await channel.close()
        for call in running:
            error = await failure(call)
            assert error.code() is StatusCode.CANCELLED
            assert "channel was closed" in error.details()
        await until(lambda: len(ended) == 5)


async def test_close_cancels_calls_that_wait_for_a_backend() -> None:
    async with silence() as port:
        channel = channel_to(port)
        waiting = [unary(channel)(Item(), wait_for_ready=bool(n % 2), timeout=100) for n in range(4)]
        await until(lambda: channel.get_state() is CONNECTING)
        await channel.close()
        assert [(await failure(call)).code() for call in waiting] == [StatusCode.CANCELLED] * 4


async def test_close_cancels_calls_that_wait_for_room() -> None:
    async with serving(for_ever, max_concurrent_streams=1) as backend:
        channel = channel_to(backend)
        calls = [unary(channel)(Item()) for _ in range(4)]
        await until(lambda: backend.calls == 1)
        await channel.close()
        assert [(await failure(call)).code() for call in calls] == [StatusCode.CANCELLED] * 4


async def test_close_ends_dials_under_way() -> None:
    async with silence() as port:
        channel = channel_to(*[port] * 3, f"127.0.0.2:{port}", 1)
        channel.get_state(try_to_connect=True)
        await asyncio.sleep(0)
        await channel.close()


async def test_close_at_every_moment_of_a_first_call() -> None:
    async with serving() as backend:
        for turns in range(25):
            channel = channel_to(backend)
            call = unary(channel)(Item(text="x"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await channel.close()
            try:
                assert await call == Item(text="x")
            except lbkit.RpcError as error:
                assert error.code() is StatusCode.CANCELLED  # noqa: PT017 -- either way is right


async def test_close_with_grace_lets_calls_finish() -> None:
    go_on = asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        await go_on.wait()
        return request

    async with serving(behaviour) as backend:
        channel = channel_to(backend)
        running = unary(channel)(Item(text="last"))
        await until(lambda: backend.calls)
        closing = asyncio.create_task(channel.close(grace=PATIENCE_S))
        await asyncio.sleep(0)
        with pytest.raises(lbkit.ChannelClosedError):
            unary(channel)(Item())
        go_on.set()
        assert await running == Item(text="last")
        await closing
        assert channel.get_state() is SHUTDOWN


async def test_close_with_grace_ends_when_the_grace_does() -> None:
    async with serving(for_ever) as backend:
        channel = channel_to(backend)
        running = unary(channel)(Item())
        await until(lambda: backend.calls)
        await channel.close(grace=0.02)
        assert (await failure(running)).code() is StatusCode.CANCELLED


async def test_call_refused_while_the_channel_closes_gracefully_ends() -> None:
    """A refused call is tried again, but there is nothing to try it on any more."""
    async with serving(for_ever) as backend:
        channel = channel_to(backend)
        running = unary(channel)(Item())
        await until(lambda: backend.calls)
        closing = asyncio.create_task(channel.close(grace=PATIENCE_S))
        await asyncio.sleep(0)
        (connection,) = backend.server._connections
        connection.engine.goaway(0, 0)
        connection.kick()
        async with asyncio.timeout(PATIENCE_S):
            assert (await failure(running)).code() is StatusCode.CANCELLED
        await closing


async def test_leaving_the_block_by_an_exception_closes() -> None:
    async with serving() as backend:
        channel = channel_to(backend)

        async def fail() -> None:
            async with channel:
                await unary(channel)(Item())
                raise KeyError

        with pytest.raises(KeyError):
            await fail()
        assert channel.get_state() is SHUTDOWN


# Other loops, threads, processes


def test_channel_of_another_loop_is_refused_at_once() -> None:
    async def use(channel: lbkit.Channel) -> None:
        with contextlib.suppress(lbkit.RpcError):
            await unary(channel)(Item())

    async def misuse(channel: lbkit.Channel) -> None:
        with pytest.raises(lbkit.ForeignLoopError, match="one channel for each loop"):
            unary(channel)(Item())
        with pytest.raises(lbkit.ForeignLoopError):
            await channel.channel_ready()
        with pytest.raises(lbkit.ForeignLoopError):
            await channel.close()

    channel = channel_to(1, backoff=lbkit.BackoffPolicy(initial_s=100))
    with asyncio.Runner() as first:
        first.run(use(channel))
        with asyncio.Runner() as second:
            second.run(misuse(channel))
        first.run(channel.close())


def test_channel_without_a_loop_is_refused_at_once() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        unary(channel_to(1))(Item())


def test_two_loops_in_two_threads_have_a_channel_each() -> None:
    failures: list[BaseException] = []
    barrier = threading.Barrier(2)

    async def main(name: str) -> None:
        async with serving(naming(name)) as backend, channel_to(backend) as channel:
            call = unary(channel)
            await call(Item())
            await asyncio.to_thread(barrier.wait, PATIENCE_S)
            answers = await asyncio.gather(*(call(Item(number=n)) for n in range(200)))
            assert [answer.number for answer in answers] == list(range(200))
            assert {answer.text for answer in answers} == {name}

    def run(name: str) -> None:
        try:
            asyncio.run(main(name))
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(f"thread {n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


SERVING = """
import asyncio, os, signal, threading
import lbkit
from tests.support.protos import kinds_pb2
from tests.support.servers import Item, channel_to, unary

class Slow:
    async def UnaryUnary(self, request, context):
        started.set()
        await go_on.wait()
        return request

async def main():
    global started, go_on
    started, go_on = asyncio.Event(), asyncio.Event()
    server = lbkit.Server()
    server.add(kinds_pb2, "Kinds", Slow())
    async with server.serving("127.0.0.1:0", grace=10.0):
        port = server._sockets[0].getsockname()[1]
        async with channel_to(port) as channel:
            call = unary(channel)(Item(text="finished"))
            await started.wait()
            if threading.current_thread() is threading.main_thread():
                os.kill(os.getpid(), signal.SIGTERM)
                await channel.wait_for_state_change(lbkit.ConnectivityState.READY)
            go_on.set()
            print((await call).text)
        if threading.current_thread() is threading.main_thread():
            await server.wait_for_termination()
    print("stopped")
"""


def test_serving_drains_on_a_signal() -> None:
    assert run_script(SERVING + "asyncio.run(main())") == "finished\nstopped\n"


def test_serving_works_in_another_thread_without_signals() -> None:
    script = "thread = threading.Thread(target=lambda: asyncio.run(main()))\nthread.start()\nthread.join()\n"
    assert run_script(SERVING + script) == "finished\nstopped\n"


FORK = """
import asyncio, os, sys
import lbkit
from tests.support.protos import kinds_pb2
from tests.support.servers import Backend, Item, channel_to, naming, unary

def child(channel, address):
    async def main():
        try:
            unary(channel)(Item())
        except lbkit.ForkedError as error:
            print("child:", error)
        async with channel_to(address) as own:
            print("child:", (await unary(own)(Item(), timeout=10)).text)
    asyncio.set_event_loop_policy(None)
    asyncio.events._set_running_loop(None)
    asyncio.run(main())
    sys.stdout.flush()
    os._exit(0)

async def main():
    backend = await Backend(naming("served")).start()
    async with channel_to(backend) as channel:
        await unary(channel)(Item())
        pid = os.fork()
        if pid == 0:
            child(channel, backend.address)
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            await asyncio.sleep(0.01)
        print("parent:", (await unary(channel)(Item())).text)
    await backend.server.stop(None)

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_is_told_and_makes_its_own_channel() -> None:
    lines = run_script(FORK).splitlines()
    assert lines[0].startswith("child: <lbkit.Channel")
    assert "make a new channel in the child" in lines[0]
    assert lines[1:] == ["child: served", "parent: served"]


def test_program_that_forgets_to_close_ends_all_the_same() -> None:
    script = (
        "import asyncio\n"
        "from tests.support.servers import Backend, Item, channel_to, unary\n"
        "async def main():\n"
        "    backend = await Backend().start()\n"
        "    channel = channel_to(backend)\n"
        "    print((await unary(channel)(Item(text='fine'))).text)\n"
        "import warnings; warnings.simplefilter('ignore', ResourceWarning)\n"
        "asyncio.run(main())\n"
    )
    assert run_script(script) == "fine\n"


# Resolvers


async def test_resolver_error_reaches_calls_until_there_is_an_answer() -> None:
    answers: list[Any] = [OSError("the registry is on fire")]

    @lbkit.resolver("tests-flaky")
    async def resolve(target: lbkit.Target) -> list[str]:
        if answers:
            raise answers[0]
        return [backend.address]

    async with serving(naming("found")) as backend, lbkit.Channel("tests-flaky:///x") as channel:
        error = await failure(unary(channel)(Item()))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "the registry is on fire" in error.details()
        answers.clear()
        assert (await unary(channel)(Item(), wait_for_ready=True, timeout=PATIENCE_S)).text == "found"


async def test_new_addresses_move_calls_and_old_connections_drain() -> None:
    from lbkit_resolvers.manual import Manual

    backends = [await Backend(naming(f"backend {n}")).start() for n in range(2)]
    manual = Manual("tests-moving")
    manual.update([backends[0].address])
    async with lbkit.Channel(manual.target) as channel:
        assert (await unary(channel)(Item())).text == "backend 0"
        manual.update([backends[1].address])
        assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "backend 1"
        await until(lambda: not backends[0].server._connections)
        manual.update([])
        await asyncio.sleep(0)
        error = await failure(unary(channel)(Item()))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "no endpoints" in error.details()
    for backend in backends:
        await backend.server.stop(None)


async def test_resolver_may_be_given_as_an_object() -> None:
    class Fixed(lbkit.Resolver):
        async def run(self, sink: lbkit.Sink) -> None:
            sink.update(lbkit.Resolution((lbkit.Endpoint(backend.address),)))

    async with serving(naming("fixed")) as backend:
        resolver = Fixed(lbkit.Target.parse("anything:///x", {"anything"}))
        async with lbkit.Channel("anything:///x", resolver=resolver) as channel:
            assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "fixed"


def test_target_of_backends_is_static() -> None:
    assert target_of(1, "b:2") == "static:///127.0.0.1:1,b:2"
    assert kinds_pb2.Item is Item
