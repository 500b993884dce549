"""``lbkit.serve``: several processes on one port, started, renewed, replaced and stopped, with real signals."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.processes import serving
from lbkit.testing import registry
from tests.faults.uids import Ledger, check, read
from tests.support.protos import helloworld_pb2, kinds_pb2
from tests.support.servers import PATIENCE_S, QUICK, Item, unary, until
from tests.support.tied import tied
from tests.support.worker_app import DIE, make_server

ROOT = Path(__file__).parents[2]
WITHIN_S = 30.0  # of a busy machine, for what a process must do
APP = "tests.support.worker_app"

pytestmark = [pytest.mark.timeout(120), pytest.mark.may_leak("thread", reason="asyncio's child watcher")]


class Program:
    """A running supervisor."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process = process
        self.address = address

    def channel(self) -> lbkit.Channel:
        """Make a channel to whichever worker takes the connection."""
        return lbkit.Channel(f"static:///{self.address}", backoff=QUICK)

    async def pid(self, **options: Any) -> int:
        """Ask a worker for its process id, over a connection of its own."""
        async with self.channel() as channel:
            return int((await unary(channel)(Item(), timeout=PATIENCE_S, **options)).number)

    def workers(self) -> set[int]:
        """The processes that the supervisor has, less multiprocessing's tracker."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        workers = set()
        for pid in found:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    workers.add(int(pid))
        return workers

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    async def end(self) -> tuple[int, str]:
        """Wait until it has ended; return its status and what it said last."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            said = await self.process.stdout.read()
            return await self.process.wait(), said.decode()


@asynccontextmanager
async def program(*arguments: str, **variables: str) -> AsyncGenerator[Program, None]:
    """Start ``python -m``; wait until it says where it serves. Its process group is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *tied([sys.executable, "-m", *arguments]),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}", **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            line = (await process.stdout.readline()).decode().split()
        yield Program(process, line[-1] if line else "")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # its pipe, at once


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def alive_socket(folder: Path) -> bool:
    """Whether the file of the Unix socket is there still."""
    return (folder / "s").exists()


async def eventually(condition: Any) -> None:
    """Wait for what processes do."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 -- processes set no event
            await asyncio.sleep(0.01)


async def test_workers_share_one_port_and_stop_when_their_calls_are_over() -> None:
    async with program(APP, "3") as running, running.channel() as channel:
        assert len(running.workers()) == 3
        pids = {await running.pid() for _ in range(5)}
        assert pids <= running.workers()
        call = unary(channel)(Item(text="slow", number=600), timeout=PATIENCE_S)
        await until(lambda: channel.subchannels() and channel.subchannels()[0].in_flight)
        await running.pid()  # the slow one is with its worker by now
        running.signal(signal.SIGTERM)
        assert (await call).text == "slow"
        assert await running.end() == (0, "stopped\n")


async def test_second_signal_ends_calls_at_once() -> None:
    async with program(APP, "1", GRACE="60") as running, running.channel() as channel:
        call = unary(channel)(Item(number=60_000))
        await until(lambda: channel.subchannels() and channel.subchannels()[0].in_flight)
        await running.pid()
        running.signal(signal.SIGINT)
        await eventually(lambda: channel.subchannels()[0].state is not lbkit.ConnectivityState.READY)
        assert not call.done()
        running.signal(signal.SIGINT)
        assert await running.end() == (0, "stopped\n")
        with pytest.raises(lbkit.RpcError) as caught:
            await call
        assert caught.value.code() is StatusCode.UNAVAILABLE


async def test_signal_to_the_whole_group_is_as_graceful() -> None:
    """As Ctrl-C in a terminal, and as service managers send it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        async with program(APP, "2") as running, running.channel() as channel:
            call = unary(channel)(Item(text="slow", number=400), timeout=PATIENCE_S)
            await until(lambda: channel.subchannels() and channel.subchannels()[0].in_flight)
            await running.pid()
            os.killpg(running.process.pid, number)
            assert (await call).text == "slow"
            assert await running.end() == (0, "stopped\n")


class Load:
    """Calls with ids of their own: over one long-lived channel, streams, and over new channels again and again."""

    def __init__(self, running: Program, channel: lbkit.Channel) -> None:
        self.running = running
        self.stub = channel.stub(kinds_pb2, "Kinds")
        self.ledger = Ledger()
        self.errors: list[str] = []
        self.enough = False
        self.pids: Counter[int] = Counter()
        self._made = 0

    async def one(self, call: Any, number: int, *, streams: bool = False) -> None:
        """Make one call."""
        self._made += 1
        uid = f"call-{self._made}"
        try:
            request = Item(text=uid, number=number)
            if streams:
                answers = [item async for item in call(request, timeout=PATIENCE_S)]
                assert len(answers) == 10
                answer = answers[-1]
            else:
                answer = await call(request, timeout=PATIENCE_S)
        except lbkit.RpcError as error:
            self.ledger.failures[uid] = StatusCode.of(error.code())
            self.errors.append(str(error))
        else:
            self.ledger.answers[uid] = answer.text
            self.pids[answer.number] += 1

    async def steady(self) -> None:
        """Call over the same channel."""
        while not self.enough:
            await self.one(self.stub.UnaryUnary, 5)

    async def streaming(self) -> None:
        """Stream over the same channel."""
        while not self.enough:
            await self.one(self.stub.UnaryStream, 300, streams=True)

    async def churning(self) -> None:
        """Call over a new channel each time."""
        while not self.enough:
            async with self.running.channel() as channel:
                await self.one(unary(channel), 0)


async def test_renewing_all_workers_under_load_loses_no_call(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with program(APP, "2", JOURNAL=str(journal)) as running, running.channel() as channel:
        load = Load(running, channel)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(load.steady())
                group.create_task(load.streaming())
                group.create_task(load.churning())
            try:
                for _ in range(2):
                    before = running.workers()
                    running.signal(signal.SIGHUP)
                    await eventually(lambda before=before: not before & running.workers())
                    await eventually(lambda: len(running.workers()) == 2)
                    after = len(load.ledger.answers)
                    await eventually(lambda after=after: len(load.ledger.answers) > after + 50)
            finally:
                load.enough = True
        assert load.errors == []
        assert check(load.ledger, read([journal])).good
        assert len(load.pids) >= 4
        running.signal(signal.SIGTERM)
        assert (await running.end())[0] == 0


async def test_worker_that_dies_is_replaced_while_the_others_serve() -> None:
    async with program(APP, "2") as running:
        before = running.workers()
        async with running.channel() as channel:
            with pytest.raises(lbkit.RpcError):
                await unary(channel)(Item(text=DIE), timeout=PATIENCE_S)
        await eventually(lambda: before - running.workers())
        assert await running.pid() in before
        await eventually(lambda: len(running.workers()) == 2)
        for pid in running.workers():
            os.kill(pid, signal.SIGKILL)
        assert await running.pid(wait_for_ready=True) not in before
        running.signal(signal.SIGTERM)
        assert (await running.end())[0] == 0


async def test_broken_program_is_not_taken_when_workers_are_renewed(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    async with program(APP, "2", BROKEN=str(broken)) as running:
        before = running.workers()
        broken.touch()
        running.signal(signal.SIGHUP)
        await eventually(lambda: running.workers() - before)
        await eventually(lambda: not running.workers() - before)
        assert running.workers() == before
        assert await running.pid() in before
        broken.unlink()
        running.signal(signal.SIGHUP)
        await eventually(lambda: not running.workers() & before and len(running.workers()) == 2)


async def test_workers_are_added_and_taken_away_by_signals() -> None:
    async with program(APP, "1") as running:
        running.signal(signal.SIGTTIN)
        await eventually(lambda: len(running.workers()) == 2)
        running.signal(signal.SIGTTOU)
        running.signal(signal.SIGTTOU)
        await eventually(lambda: len(running.workers()) == 1)
        assert await running.pid() in running.workers()


async def test_worker_that_is_asked_to_end_goes_when_another_serves_in_its_place() -> None:
    async with program(APP, "1") as running, running.channel() as channel:
        (worker,) = running.workers()
        call = unary(channel)(Item(text="slow", number=1000), timeout=WITHIN_S)
        await until(lambda: channel.subchannels() and channel.subchannels()[0].in_flight)
        assert await running.pid() == worker
        os.kill(worker, signal.SIGTERM)
        async with asyncio.timeout(WITHIN_S):
            while await running.pid() == worker:  # there is always one that takes calls
                pass
        assert (await call).number == worker
        await eventually(lambda: not alive(worker) and len(running.workers()) == 1)


async def test_workers_end_when_the_supervisor_is_killed() -> None:
    async with program(APP, "2") as running, running.channel() as channel:
        workers = running.workers()
        call = unary(channel)(Item(text="slow", number=400), timeout=PATIENCE_S)
        await until(lambda: channel.subchannels() and channel.subchannels()[0].in_flight)
        await running.pid()
        running.process.kill()
        assert (await call).text == "slow"
        await eventually(lambda: not any(alive(pid) for pid in workers))


async def test_program_that_cannot_start_ends_with_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    async with program(APP, "2", BROKEN=str(broken)) as running:
        assert (await running.end())[0] == 1


@pytest.mark.parametrize("name", ["make_server", "make_server_later"])
async def test_command_serves_a_function_by_its_name(name: str, tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/s"
    arguments = ("lbkit", "serve", f"{APP}:{name}", "--bind", where, "--workers", "2", "--quiet")
    async with program(*arguments) as running:
        assert running.address == where
        async with lbkit.Channel(where) as channel:
            assert (await unary(channel)(Item(), timeout=PATIENCE_S)).number in running.workers()
        running.signal(signal.SIGTERM)
        assert await running.end() == (0, f"{APP}:{name} has stopped\n")
        assert not alive_socket(tmp_path)


@pytest.mark.parametrize("to", ["the supervisor", "the whole group"])
async def test_all_workers_are_one_record_which_is_gone_before_they_stop(to: str) -> None:
    async with registry() as listed:
        arguments = ("--bind", "0.0.0.0:0", "--workers", "2", "--quiet", "--register", listed.target("app"))
        patience = ("--propagation", "600", "--grace", "600")
        async with program("lbkit", "serve", f"{APP}:make_server", *arguments, *patience) as running:
            send = running.signal if to == "the supervisor" else partial(os.killpg, running.process.pid)
            port = running.address.rpartition(":")[2]
            await eventually(lambda: list(listed.items("app/")) == [f"app/127.0.0.1:{port}".encode()])
            async with lbkit.Channel(listed.target("app")) as channel:
                call = unary(channel)(Item(text="slow", number=60_000))
                await until(lambda: channel.subchannels() and channel.subchannels()[0].in_flight)
                before = running.workers()
                send(signal.SIGTERM)
                await eventually(lambda: not listed.items("app/"))
                # Clients have time to hear of it.
                assert {await running.pid() for _ in range(10)} <= before <= running.workers()
                running.signal(signal.SIGTERM)  # or not
                with pytest.raises(lbkit.RpcError) as caught:
                    await call
                assert caught.value.code() is StatusCode.UNAVAILABLE
            assert await running.end() == (0, f"{APP}:make_server has stopped\n")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nothing.like.it:make", "No module named 'nothing'"),
        (f"{APP}:nothing", "has no attribute 'nothing'"),
        (f"{APP}:make_nothing", "returned None; it has to return an lbkit.Server"),
    ],
)
async def test_command_says_what_is_wrong_with_a_function(name: str, error: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "lbkit", "serve", name, "--bind", "127.0.0.1:0", "--workers", "1"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, errors = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert error in errors.decode()
    assert "worker 1" in errors.decode().splitlines()[-1]
    assert "was lost before it served: it ended with exit status 1" in errors.decode().splitlines()[-1]


def refused(kind: type[Exception], text: str, make: Any = make_server, **options: Any) -> None:
    with pytest.raises(kind, match=text):
        lbkit.serve(make, *options.pop("addresses", ("127.0.0.1:0",)), **options)


def test_what_makes_no_sense_is_refused_before_anything_starts() -> None:
    refused(TypeError, "workers cannot import", lambda: None)
    refused(TypeError, "it must be a function", 5)
    refused(ValueError, "package.module:function", "module")
    refused(ValueError, "needs an address", addresses=())
    refused(ValueError, "workers >= 1", workers=0)
    refused(ValueError, "grace >= 0", grace=-1.0)
    refused(lbkit.AddressError, "nowhere", addresses=("nowhere",))
    refused(lbkit.UnknownPluginError, "Did you mean 'etcd'", register="ectd://127.0.0.1/app")
    refused(ValueError, "propagation=-1", register="etcd://127.0.0.1/app", propagation=-1.0)


async def test_serve_inside_an_event_loop_is_refused() -> None:
    refused(RuntimeError, "runs an event loop of its own")


async def test_serve_in_another_thread_is_refused() -> None:
    with pytest.raises(RuntimeError, match="main thread"):
        await asyncio.to_thread(partial(lbkit.serve, make_server, "127.0.0.1:0"))


def test_function_of_an_interactive_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> None: ...

    make.__module__ = "__main__"
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(TypeError, match="interactive program; make it a function of a module"):
        serving._checked(make)


PAGE = (ROOT / "docs/server-modes.md").read_text()


async def test_program_of_the_page_serves_with_as_many_workers_as_it_says(tmp_path: Path) -> None:
    (code,) = [each for each in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "# service.py" in each]
    code = code.replace(
        '"127.0.0.1:50051", workers=4', '"127.0.0.1:0", workers=2, ready=lambda a: print(*a, flush=True)'
    )
    names = ("helloworld_pb2",)
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"from tests.support.protos.{name} import *\n"
                                             f"from tests.support.protos.{name} import DESCRIPTOR\n")  # fmt: skip
    (tmp_path / "service.py").write_text(code)
    async with program("service", PYTHONPATH=f"{ROOT}:{tmp_path}") as running, running.channel() as channel:
        greeter = channel.stub(helloworld_pb2, "Greeter")
        assert (await greeter.SayHello(helloworld_pb2.HelloRequest(name="ann"))).message == "hello ann"
        assert len(running.workers()) == 2
        running.signal(signal.SIGTERM)
        assert (await running.end())[0] == 0


def test_options_of_the_page_are_there_and_it_is_short() -> None:
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0], {})  # the project's own page
    assert len(PAGE.splitlines()) <= 120
