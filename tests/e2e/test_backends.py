"""Several backends: shares, deaths, restarts, graceful stops, and what callers are told when nobody is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from tests.support.servers import (
    PATIENCE_S,
    QUICK,
    Backend,
    Item,
    all_connected,
    all_serving,
    calling,
    channel_to,
    failure,
    fleet,
    listening,
    naming,
    serving,
    shares,
    unary,
    until,
)
from tests.support.tied import tied

CHILD = """
import asyncio
from tests.support.servers import Backend, naming

async def stuck(request, context):
    if request.text == "stay":
        await asyncio.get_running_loop().create_future()
    return await naming("the child")(request, context)

async def main():
    backend = await Backend(stuck).start()
    print(backend.port, flush=True)
    await backend.server.wait_for_termination()

asyncio.run(main())
"""


@contextmanager
def child_process() -> Generator[tuple[int, int], None, None]:
    """A server in a process of its own; give its port and pid."""
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (root, root / "resolvers", root / "balancers"))),
    }
    with subprocess.Popen(
        tied([sys.executable, "-c", CHILD]), stdout=subprocess.PIPE, env=environment, cwd=root
    ) as child:
        assert child.stdout is not None
        try:
            yield int(child.stdout.readline()), child.pid
        finally:
            child.kill()


def closed_port() -> int:
    """A port of this machine that nobody listens on."""
    from lbkit.address import Address
    from lbkit.transport.server import listen

    with listen(Address("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


# Shares


async def test_round_robin_gives_equal_shares() -> None:
    async with fleet(3) as backends, channel_to(*backends) as channel:
        await all_serving(channel, 3)
        counts = await shares(unary(channel), 30)
        assert counts == {backend.name: 10 for backend in backends}


async def test_pick_first_stays_with_one_backend() -> None:
    async with fleet(3) as backends, channel_to(*backends, balancer="pick_first") as channel:
        assert await shares(unary(channel), 12) == {"backend 0": 12}


async def test_pick_first_goes_on_to_the_next() -> None:
    async with fleet(2) as backends, channel_to(closed_port(), *backends, balancer="pick_first") as channel:
        assert await shares(unary(channel), 5) == {"backend 0": 5}
        await backends[0].server.stop(None)
        counts: Counter[str] = Counter()
        async with asyncio.timeout(PATIENCE_S):
            while not counts["backend 1"]:
                with contextlib.suppress(lbkit.RpcError):
                    counts += await shares(unary(channel), 1)


async def test_dead_backend_among_good_ones_fails_nothing() -> None:
    async with fleet(2) as backends, channel_to(closed_port(), *backends, closed_port()) as channel:
        counts = await shares(unary(channel), 20)
        assert set(counts) <= {"backend 0", "backend 1"}
        assert sum(counts.values()) == 20


async def test_policy_may_be_a_function() -> None:
    lbkit.balancer("tests_last")(lambda ready, call: ready[-1])
    async with fleet(2) as backends, channel_to(*backends, balancer="tests_last") as channel:
        await all_connected(channel, 2)
        assert await shares(unary(channel), 6) == {"backend 1": 6}


async def test_policy_that_raises_fails_the_call_only(caplog: pytest.LogCaptureFixture) -> None:
    def pick(ready: Any, call: lbkit.CallInfo) -> Any:
        return ready[0] if ("x-good", "1") in call.metadata else ready[99]

    lbkit.balancer("tests_raises")(pick)
    async with calling(channel={"balancer": "tests_raises"}) as call:
        assert await call(Item(text="a"), metadata=[("x-good", "1")]) == Item(text="a")
        error = await failure(call(Item()))
        assert error.code() is StatusCode.INTERNAL
        assert "IndexError" in error.details()
        assert await call(Item(text="b"), metadata=iter([("x-good", "1")])) == Item(text="b")
    assert any("picker" in record.getMessage() for record in caplog.records)


async def test_policy_sees_metadata_given_as_an_iterator() -> None:
    seen: list[Any] = []

    def pick(ready: Any, call: lbkit.CallInfo) -> Any:
        seen.append((call.method, tuple(call.metadata)))
        return ready[0]

    lbkit.balancer("tests_sees")(pick)
    async with calling(channel={"balancer": "tests_sees"}) as call:
        await call(Item(), metadata=iter([("x-a", "1"), ("x-b-bin", b"\xff")]), timeout=PATIENCE_S)
    assert seen == [("/lbkit.tests.Kinds/UnaryUnary", (("x-a", "1"), ("x-b-bin", b"\xff")))]


@pytest.mark.parametrize("answer", [None, "a backend", 7])
async def test_policy_that_answers_nonsense_fails_the_call(answer: Any) -> None:
    lbkit.balancer("tests_nonsense")(lambda ready, call: answer)
    async with calling(channel={"balancer": "tests_nonsense"}) as call:
        error = await failure(call(Item()))
        assert error.code() is StatusCode.INTERNAL
        assert repr(answer) in error.details()


async def test_policys_own_metadata_travels_with_the_call() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        return Item(text=str(context.invocation_metadata().get("x-policy")))

    def pick(ready: Any, call: lbkit.CallInfo) -> Any:
        return lbkit.Picked(ready[0], metadata=lbkit.Metadata([("x-policy", "chose this")]))

    lbkit.balancer("tests_metadata")(pick)
    async with calling(behaviour, channel={"balancer": "tests_metadata"}) as call:
        assert (await call(Item())).text == "chose this"


async def test_policys_bad_metadata_fails_the_call_only() -> None:
    def pick(ready: Any, call: lbkit.CallInfo) -> Any:
        good = ("x-good", "1") in call.metadata
        return lbkit.Picked(ready[0], metadata=lbkit.Metadata([("x-policy" if good else "X Bad", "v")]))

    lbkit.balancer("tests_bad_metadata")(pick)
    async with calling(channel={"balancer": "tests_bad_metadata"}) as call:
        early = [call(Item()), call(Item(text="good"), metadata=[("x-good", "1")])]
        assert (await failure(early[0])).code() is StatusCode.INTERNAL
        assert await early[1] == Item(text="good")
        error = await failure(call(Item()))
        assert "policy" in error.details()
        assert "'X Bad'" in error.details()
        assert await call(Item(text="c"), metadata=[("x-good", "1")]) == Item(text="c")


async def test_policy_hears_of_each_calls_end_once() -> None:
    outcomes: list[lbkit.Outcome] = []

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        context.set_trailing_metadata([("x-load", "7")])
        if request.number == 1:
            await context.abort(StatusCode.ABORTED, "no")
        if request.number == 2:
            await asyncio.get_running_loop().create_future()
        return request

    lbkit.balancer("tests_outcomes")(lambda ready, call: lbkit.Picked(ready[0], outcomes.append))
    async with calling(behaviour, channel={"balancer": "tests_outcomes"}) as call:
        await call(Item())
        await failure(call(Item(number=1)))
        await failure(call(Item(number=2), timeout=0.02))
        cancelled = call(Item(number=2))
        cancelled.cancel()
        assert [outcome.status and outcome.status.code for outcome in outcomes] == [
            StatusCode.OK,
            StatusCode.ABORTED,
            StatusCode.DEADLINE_EXCEEDED,
            StatusCode.CANCELLED,
        ]
        assert outcomes[0].trailing_metadata == (("x-load", "7"),)
        assert not cancelled._channel._queued


# Limits of a connection


async def test_calls_above_the_stream_limit_queue_and_none_fails() -> None:
    running = most = 0

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(3):
            await asyncio.sleep(0)
        running -= 1
        return request

    async with calling(behaviour, max_concurrent_streams=5) as call:
        answers = await asyncio.gather(*(call(Item(number=n)) for n in range(200)))
        assert [answer.number for answer in answers] == list(range(200))
        assert most == 5


async def test_queued_call_takes_the_room_of_a_cancelled_one() -> None:
    started = asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        if request.text == "stay":
            started.set()
            await asyncio.get_running_loop().create_future()
        return request

    async with calling(behaviour, max_concurrent_streams=1) as call:
        first = call(Item(text="stay"))
        await started.wait()
        second, third = call(Item(number=2)), call(Item(number=3))
        second.cancel()
        first.cancel()
        assert await third == Item(number=3)


async def test_deadline_runs_while_a_call_waits_for_room() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        await asyncio.get_running_loop().create_future()

    async with calling(behaviour, max_concurrent_streams=1) as call:
        first = call(Item())
        error = await failure(call(Item(), timeout=0.05))
        assert error.code() is StatusCode.DEADLINE_EXCEEDED
        assert "request sent" not in error.details()
        first.cancel()


# Deaths


async def test_call_on_a_dying_backend_is_unavailable_and_names_it() -> None:
    started = asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        started.set()
        await asyncio.get_running_loop().create_future()

    async with serving(behaviour) as backend, channel_to(backend) as channel:
        running = unary(channel)(Item())
        await started.wait()
        await backend.server.stop(None)
        error = await failure(running)
        assert error.code() is StatusCode.UNAVAILABLE
        assert "connection broke" in error.details()
        assert error.backend == backend.address


async def test_others_serve_on_when_one_is_killed() -> None:
    async with fleet(2) as backends:
        with child_process() as (port, pid):
            async with channel_to(port, *backends) as channel:
                await all_serving(channel, 3)
                counts = await shares(unary(channel), 9)
                assert counts == {"the child": 3, "backend 0": 3, "backend 1": 3}
                stuck = [unary(channel)(Item(text="stay")) for _ in range(3)]
                await until(lambda: sum(call.done() for call in stuck) == 2)  # the child has the third
                os.kill(pid, signal.SIGKILL)
                results = await asyncio.gather(*stuck, return_exceptions=True)
                failed = [result for result in results if isinstance(result, lbkit.RpcError)]
                assert [error.code() for error in failed] == [StatusCode.UNAVAILABLE]
                assert [error.backend for error in failed] == [f"127.0.0.1:{port}"]
                counts = await shares(unary(channel), 10)
                assert counts == {"backend 0": 5, "backend 1": 5}


async def test_restarted_backend_is_found_again() -> None:
    first = await Backend(naming("first")).start()
    async with channel_to(first) as channel:
        assert (await shares(unary(channel), 1)) == {"first": 1}
        await first.server.stop(None)
        second = await Backend(naming("second")).start(first.address)
        try:
            answer = await unary(channel)(Item(), wait_for_ready=True, timeout=PATIENCE_S)
            assert answer.text == "second"
        finally:
            await second.server.stop(None)


# Nobody left


async def test_unavailable_names_every_address_error_and_next_try() -> None:
    ports = [closed_port(), closed_port()]
    backoff = lbkit.BackoffPolicy(initial_s=30, maximum_s=30)
    async with channel_to(*ports, backoff=backoff) as channel:
        error = await failure(unary(channel)(Item()))
        assert error.code() is StatusCode.UNAVAILABLE
        text = error.details()
        assert "all 2 backends are down (round_robin)" in text
        for port in ports:
            (line,) = [line for line in text.splitlines() if f"127.0.0.1:{port}" in line]
            assert "refused" in line.lower()
            assert "next try in" in line
        assert "wait_for_ready=True" in text
        assert error.backend is None


async def test_second_call_of_a_dead_channel_fails_at_once() -> None:
    backoff = lbkit.BackoffPolicy(initial_s=30, maximum_s=30)
    async with channel_to(closed_port(), backoff=backoff) as channel:
        await failure(unary(channel)(Item()))
        assert (await failure(unary(channel)(Item()))).code() is StatusCode.UNAVAILABLE


async def test_wait_for_ready_waits_until_a_server_comes_up() -> None:
    port = closed_port()
    async with channel_to(port) as channel:
        await failure(unary(channel)(Item()))
        waiting = [unary(channel)(Item(number=n), wait_for_ready=True) for n in range(5)]
        await failure(unary(channel)(Item()))
        assert not any(call.done() for call in waiting)
        late = await Backend(naming("late")).start(f"127.0.0.1:{port}")
        try:
            async with asyncio.timeout(PATIENCE_S):
                assert [(await call).text for call in waiting] == ["late"] * 5
        finally:
            await late.server.stop(None)


async def test_wait_for_ready_keeps_its_deadline() -> None:
    async with channel_to(closed_port()) as channel:
        error = await failure(unary(channel)(Item(), wait_for_ready=True, timeout=0.05))
        assert error.code() is StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"])
async def test_peer_that_is_no_grpc_server_is_described(said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        writer.close()

    async with listening(serve) as port, channel_to(port, connect_timeout=0.1) as channel:
        error = await failure(unary(channel)(Item()))
        assert error.code() is StatusCode.UNAVAILABLE
        expected = (
            "does not speak HTTP/2; it began with b'HTTP/1.1 400"
            if said
            else "got no HTTP/2 SETTINGS within 0.1 s"
        )
        assert expected in error.details()


async def test_peer_that_hangs_up_at_once_is_described() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with listening(serve) as port, channel_to(port) as channel:
        error = await failure(unary(channel)(Item()))
        assert error.code() is StatusCode.UNAVAILABLE
        assert f"127.0.0.1:{port}" in error.details()


async def test_host_name_that_cannot_be_is_described() -> None:
    async with channel_to(f"{'x' * 70}.invalid:1") as channel:
        error = await failure(unary(channel)(Item()))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "x.invalid:1" in error.details()


# Graceful stops


@asynccontextmanager
async def load(channel: lbkit.Channel, workers: int = 16) -> AsyncGenerator[Counter[str], None]:
    """Calls without a pause until the end of the block; give a running count of answers and failures."""
    counts: Counter[str] = Counter()
    stop = asyncio.Event()

    async def work() -> None:
        call = unary(channel)
        while not stop.is_set():
            try:
                counts[(await call(Item(), timeout=PATIENCE_S)).text] += 1
            except lbkit.RpcError as error:
                counts[f"failed: {error}"] += 1
                await asyncio.sleep(0)  # a call that fails at once never waits

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work())
        try:
            yield counts
        finally:
            stop.set()


def failed(counts: Counter[str]) -> list[str]:
    """What failed under load."""
    return [name for name in counts if name.startswith("failed")]


async def test_graceful_stop_under_load_fails_no_call() -> None:
    async with fleet(2) as backends, channel_to(*backends) as channel:
        async with load(channel) as counts:
            await until(lambda: counts["backend 0"] > 50 and counts["backend 1"] > 50)
            await backends[0].server.stop(grace=PATIENCE_S)
            at_stop = counts["backend 1"]
            await until(lambda: counts["backend 1"] > at_stop + 50)
        assert failed(counts) == []


async def test_rolling_restart_under_load_fails_no_call() -> None:
    async with fleet(2) as backends, channel_to(*backends) as channel:
        replaced: list[Backend] = []
        async with load(channel) as counts:
            for number in (0, 1):
                await until(lambda: counts["backend 0"] > 20 and counts["backend 1"] > 20)
                old = backends[number]
                await old.server.stop(grace=PATIENCE_S)
                new = await Backend(naming(f"new {number}")).start(old.address)
                await until(lambda name=f"new {number}": counts[name] > 20)  # type: ignore[misc]
                replaced.append(new)
            await replaced[0].server.stop(grace=PATIENCE_S)
        assert failed(counts) == []
        await replaced[1].server.stop(None)


async def test_running_call_finishes_during_a_graceful_stop() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        started.set()
        await go_on.wait()
        return request

    async with serving(behaviour) as backend, channel_to(backend) as channel:
        running = unary(channel)(Item(text="finish me"))
        await started.wait()
        stopping = asyncio.create_task(backend.server.stop(grace=PATIENCE_S))
        await until(lambda: channel.get_state() is not lbkit.ConnectivityState.READY)
        assert not stopping.done()
        assert (await failure(unary(channel)(Item()))).code() is StatusCode.UNAVAILABLE
        go_on.set()
        assert await running == Item(text="finish me")
        await stopping
        assert backend.calls == 1


async def test_grace_ends_and_then_calls_are_cut_off() -> None:
    ended = asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    async with serving(behaviour) as backend, channel_to(backend) as channel:
        running = unary(channel)(Item())
        await until(lambda: backend.calls)
        await backend.server.stop(grace=0.05)
        assert ended.is_set()  # stop() waits for handlers
        assert (await failure(running)).code() is StatusCode.UNAVAILABLE


async def test_second_stop_shortens_the_first() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        await asyncio.get_running_loop().create_future()

    async with serving(behaviour) as backend, channel_to(backend) as channel:
        running = unary(channel)(Item())
        await until(lambda: backend.calls)
        patient = asyncio.create_task(backend.server.stop(grace=1000))
        await until(lambda: channel.get_state() is not lbkit.ConnectivityState.READY)
        await backend.server.stop(None)
        await patient
        await failure(running)
        assert not await backend.server.wait_for_termination(timeout=PATIENCE_S)


async def test_wait_for_termination_says_whether_it_timed_out() -> None:
    async with serving() as backend:
        assert await backend.server.wait_for_termination(timeout=0.01)
        await backend.server.stop(None)
        assert not await backend.server.wait_for_termination()


async def test_connection_that_comes_during_a_graceful_stop_is_sent_away() -> None:
    """A TCP connection may be accepted in the very turn that the server stops."""
    from lbkit.transport.server import ServerConnection
    from lbkit.transport.setup import ConnectionSetup
    from tests.support.memory import MemoryTransport

    started, go_on = asyncio.Event(), asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        started.set()
        await go_on.wait()
        return request

    async with serving(behaviour) as backend, channel_to(backend) as channel:
        running = unary(channel)(Item(text="slow"))
        await started.wait()
        stopping = asyncio.create_task(backend.server.stop(grace=PATIENCE_S))
        await until(lambda: channel.get_state() is not lbkit.ConnectivityState.READY)
        loop = asyncio.get_running_loop()
        late = ServerConnection(loop, backend.server, ConnectionSetup())
        late.connection_made(MemoryTransport(loop, late, "late client"))
        assert late._drain_due  # once its client knows that it is up
        late.abort("the test is over")
        go_on.set()
        await running
        await stopping


def test_quick_backoff_is_quick() -> None:
    assert QUICK.maximum_s < 0.1
