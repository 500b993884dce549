"""A server enters a registry when it serves, and leaves it before it stops serving."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import lbkit
import lbkit.compat
from lbkit import Instance, Registrar, RegistrationError, RegistrationState, Target, sync
from lbkit.compat import aio
from lbkit.protos import health as pb
from lbkit.services import health
from lbkit.testing import memory_channel, virtual_time
from tests.support.certificates import certificates
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S, Backend, failure, unary, until

Item = kinds_pb2.Item
AUTHORITY = "127.0.0.1:99"


class Book(Registrar):
    """A registry of the test's own: writes down who comes and goes, and what the test wants to know then."""

    def __init__(self, authority: str = AUTHORITY) -> None:
        super().__init__(Target.parse(f"book://{authority}/greeter", {"book"}))
        self.entries: list[Instance] = []
        self.events: list[str] = []
        self.entered = threading.Event()
        self.on_register: Callable[[], Awaitable[object]] | None = None
        self.on_deregister: Callable[[], Awaitable[object]] | None = None

    async def register(self, instance: Instance) -> None:
        self.events.append("register")
        if self.on_register is not None:
            await self.on_register()
        self.entries.append(instance)
        self.entered.set()

    async def keep(self, instance: Instance) -> None:
        await asyncio.Event().wait()

    async def deregister(self, instance: Instance) -> None:
        self.events.append("deregister")
        if self.on_deregister is not None:
            await self.on_deregister()
        self.entries.clear()

    async def close(self) -> None:
        self.events.append("close")


async def hang() -> None:
    await asyncio.Event().wait()


def now() -> float:
    return asyncio.get_running_loop().time()


# Starting


async def test_who_is_registered_listens_and_is_serving() -> None:
    backend, book = Backend(), Book()
    health.add(backend.server)
    found: list[int] = []

    async def ask() -> None:
        port = backend.server.ports[0]
        async with lbkit.Channel(f"static:///127.0.0.1:{port}") as channel:
            stub = channel.stub(pb, "Health")
            found.append((await stub.Check(pb.HealthCheckRequest(), timeout=PATIENCE_S)).status)

    book.on_register = ask
    async with backend.server.serving("127.0.0.1:0", register=book, propagation=0.0) as server:
        await until(lambda: book.entries)
        assert found == [health.SERVING]
        assert book.entries == [Instance(f"127.0.0.1:{server.ports[0]}")]
    assert book.entries == []
    assert book.events == ["register", "deregister", "close"]


async def test_a_registry_that_does_not_answer_keeps_no_server_from_starting_or_stopping() -> None:
    backend, book = Backend(), Book()
    book.on_register = hang
    async with backend.server.serving("127.0.0.1:0", register=book, propagation=0.0) as server:
        async with lbkit.Channel(f"static:///127.0.0.1:{server.ports[0]}") as channel:
            assert await unary(channel)(Item(text="served"), timeout=PATIENCE_S)
        assert not book.entries
    assert book.events == ["register", "deregister", "close"]


async def test_a_target_that_makes_no_sense_stops_the_server_that_was_started() -> None:
    server = lbkit.Server()
    with pytest.raises(lbkit.UnknownPluginError):
        async with server.serving("127.0.0.1:0", register="nosuch://127.0.0.1/greeter"):
            raise AssertionError("the block must not run")
    assert server.ports == ()


async def test_only_who_serves_is_registered() -> None:
    backend, book = Backend(), Book()
    with pytest.raises(RuntimeError, match="register\\(\\) before start\\(\\), or after stop"):
        await backend.server.register(book)
    await backend.start()
    await backend.server.stop(None)
    with pytest.raises(RuntimeError, match="register\\(\\) before start\\(\\), or after stop"):
        await backend.server.register(book)
    assert book.events == []


@pytest.mark.parametrize("propagation", [-1.0, float("nan"), float("inf")])
async def test_a_propagation_that_is_no_time_is_refused(propagation: float) -> None:
    backend = await Backend().start()
    with pytest.raises(ValueError, match="propagation="):
        await backend.server.register(Book(), propagation=propagation)
    await backend.server.stop(None)


# Which address


@pytest.mark.parametrize(
    ("bound", "instance", "registered"),
    [
        ("127.0.0.1:0", None, "127.0.0.1:{port}"),
        ("0.0.0.0:0", None, "127.0.0.1:{port}"),  # of the interface that leads to the registry
        ("[::]:0", None, "127.0.0.1:{port}"),
        ("[::1]:0", None, "[::1]:{port}"),
        ("127.0.0.1:0", Instance("10.0.0.7:0"), "10.0.0.7:{port}"),
        ("127.0.0.1:0", Instance("10.0.0.7:443"), "10.0.0.7:443"),
        ("127.0.0.1:0", Instance("0.0.0.0:443"), "127.0.0.1:443"),
    ],
)
async def test_the_address_is_one_that_clients_can_use(
    bound: str, instance: Instance | None, registered: str
) -> None:
    server, book = lbkit.Server(), Book()
    async with server.serving(bound, register=book, instance=instance, propagation=0.0):
        await until(lambda: book.entries)
        assert book.entries == [Instance(registered.format(port=server.ports[0]))]


async def test_what_an_instance_says_beside_its_address_is_kept() -> None:
    server, book = lbkit.Server(), Book()
    instance = Instance(id="greeter-0", weight=3, zone="a", metadata={"version": "7"})
    async with server.serving("127.0.0.1:0", register=book, instance=instance, propagation=0.0):
        await until(lambda: book.entries)
        assert book.entries == [instance.at(f"127.0.0.1:{server.ports[0]}")]


async def test_a_server_with_tls_says_so() -> None:
    made = certificates()
    server, book = lbkit.Server(), Book()
    server.bind("127.0.0.1:0", tls=lbkit.tls(cert=made.cert, key=made.key))
    async with server.serving(register=book, propagation=0.0):
        await until(lambda: book.entries)
        assert book.entries[0].secure


async def test_a_server_on_unix_sockets_only_needs_an_address(tmp_path: Path) -> None:
    server, book = lbkit.Server(), Book()
    with pytest.raises(RegistrationError, match="listens on no TCP port"):
        async with server.serving(f"unix:{tmp_path}/s", register=book):
            raise AssertionError("the block must not run")
    assert not (tmp_path / "s").exists()
    server = lbkit.Server()
    proxied = Instance("10.0.0.7:443")
    async with server.serving(f"unix:{tmp_path}/s", register=book, instance=proxied, propagation=0.0):
        await until(lambda: book.entries)
        assert book.entries == [proxied]


# Stopping


@virtual_time
async def test_a_stop_leaves_the_registry_first_and_serves_on_until_clients_know() -> None:
    backend, book = Backend(), Book()
    checks = health.add(backend.server)
    async with memory_channel(backend.server) as channel:
        call = unary(channel)
        await backend.server.register(book, Instance("10.0.0.1:50051"))
        await call(Item())
        stub = channel.stub(pb, "Health")
        said: list[int] = []

        async def note() -> None:
            said.append((await stub.Check(pb.HealthCheckRequest())).status)

        book.on_deregister = note
        (connection,) = backend.server.connections()
        stopping = asyncio.ensure_future(backend.server.stop(5.0))
        await asyncio.sleep(1.99)
        assert said == [health.NOT_SERVING]
        assert book.events == ["register", "deregister", "close"]
        assert (await call(Item(text="late"))).text == "late"
        assert not connection.closed.done()
        await stopping
        assert 2.0 <= now() < 2.1
        assert connection.closed.done()
        assert (await failure(call(Item()))).code() is lbkit.StatusCode.UNAVAILABLE
    checks.set("", health.SERVING)


@virtual_time
async def test_a_stop_without_grace_leaves_the_registry_and_waits_for_nobody() -> None:
    backend, book = Backend(), Book()
    async with memory_channel(backend.server):
        one = await backend.server.register(book, Instance("10.0.0.1:50051"))
        await one.registered()
        await backend.server.stop(None)
        assert now() == 0
        assert book.events == ["register", "deregister", "close"]
        assert one.state is RegistrationState.CLOSED


@virtual_time
async def test_a_registry_that_does_not_answer_holds_a_stop_up_for_three_seconds() -> None:
    backend, book = Backend(), Book()
    book.on_deregister = hang
    async with memory_channel(backend.server):
        await (await backend.server.register(book, Instance("10.0.0.1:50051"))).registered()
        await backend.server.stop(None)
        assert now() == 3.0


@virtual_time
async def test_the_second_stop_cuts_the_wait_for_clients_but_not_the_deregistration() -> None:
    backend, book = Backend(), Book()
    book.on_deregister = lambda: asyncio.sleep(0.8)
    async with memory_channel(backend.server):
        await (await backend.server.register(book, Instance("10.0.0.1:50051"), propagation=60.0)).registered()
        first = asyncio.ensure_future(backend.server.stop(60.0))
        await asyncio.sleep(0.5)
        await backend.server.stop(None)
        assert now() == 0.8
        assert book.entries == []
        await first
        assert now() == 0.8


@virtual_time
async def test_the_second_stop_hardly_waits_for_a_registry_that_does_not_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend, book = Backend(), Book()
    book.on_deregister = hang
    async with memory_channel(backend.server):
        one = await backend.server.register(book, Instance("10.0.0.1:50051"), propagation=60.0)
        await one.registered()
        first = asyncio.ensure_future(backend.server.stop(60.0))
        await asyncio.sleep(0.5)
        await asyncio.gather(backend.server.stop(None), backend.server.stop(None), first)
        assert now() == 1.0
        said = "10.0.0.1:50051 could not be removed, and stays listed until it expires: that took too long"
        assert caplog.text.count(said) == 1
        await one.close()  # goes on for as long as the program does
        assert now() == 3.0
        assert book.events == ["register", "deregister", "close"]


@virtual_time
async def test_a_second_stop_that_has_time_too_takes_none_from_clients() -> None:
    """A program's own, and then that at the end of ``serving``, say."""
    backend, book = Backend(), Book()
    async with memory_channel(backend.server):
        await backend.server.register(book, Instance("10.0.0.1:50051"), propagation=2.0)
        first = asyncio.ensure_future(backend.server.stop(5.0))
        await asyncio.sleep(1.0)
        await backend.server.stop(5.0)
        assert 2.0 <= now() < 2.1
        await first
        assert now() < 2.1


@virtual_time
async def test_nobody_enters_a_registry_while_the_server_leaves() -> None:
    backend, book, late = Backend(), Book(), Book()
    async with memory_channel(backend.server):
        await backend.server.register(book, Instance("10.0.0.1:50051"))
        stopping = asyncio.ensure_future(backend.server.stop(5.0))
        await asyncio.sleep(1.0)
        with pytest.raises(RuntimeError, match="or after stop"):
            await backend.server.register(late, Instance("10.0.0.1:50051"))
        await stopping
        assert late.events == []


@virtual_time
async def test_all_registries_are_left_and_the_longest_propagation_counts() -> None:
    backend, books = Backend(), [Book(), Book()]
    async with memory_channel(backend.server):
        for book, propagation in zip(books, (3.0, 1.0), strict=True):
            await backend.server.register(book, Instance("10.0.0.1:50051"), propagation=propagation)
            book.on_deregister = lambda: asyncio.sleep(0.5)
        await backend.server.stop(1.0)
        assert now() == pytest.approx(3.5)
        assert [book.entries for book in books] == [[], []]


async def test_a_signal_leaves_the_registry_and_a_second_one_does_not_wait() -> None:
    backend, book = Backend(), Book()
    async with backend.server.serving("127.0.0.1:0", register=book, grace=60.0, propagation=60.0) as server:
        await until(lambda: book.entries)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: not book.entries)
        async with lbkit.Channel(f"static:///127.0.0.1:{server.ports[0]}") as channel:
            call = unary(channel)
            assert (await call(Item(text="still here"), timeout=PATIENCE_S)).text == "still here"
            os.kill(os.getpid(), signal.SIGTERM)
            assert not await server.wait_for_termination(PATIENCE_S)
    assert book.events == ["register", "deregister", "close"]


# Blocking programs


def test_a_blocking_server_enters_and_leaves() -> None:
    server, book = sync.Server(), Book()
    with server.serving("127.0.0.1:0", register=book, instance=Instance(weight=3), propagation=0.0):
        assert book.entered.wait(PATIENCE_S)
        assert book.entries[0].weight == 3
    assert book.events == ["register", "deregister", "close"]


def test_a_blocking_server_is_registered_once_started() -> None:
    server, book = sync.Server(), Book()
    port = server.bind("127.0.0.1:0")
    with pytest.raises(RuntimeError, match="before start"):
        server.register(book)
    server.start()
    one = server.register(book)
    one.registered(PATIENCE_S)
    assert (one.state, one.error) == (RegistrationState.REGISTERED, None)
    assert one.instance == Instance(f"127.0.0.1:{port}")
    one.close()
    assert book.entries == []
    server.stop(None).wait()
    one.close()
    assert book.events == ["register", "deregister", "close"]


def test_a_blocking_server_with_a_target_that_makes_no_sense_is_stopped() -> None:
    server = sync.Server()
    with pytest.raises(lbkit.UnknownPluginError), server.serving("127.0.0.1:0", register="nosuch://x/y"):
        raise AssertionError("the block must not run")
    assert server.wait_for_termination(0.0) is False


def test_a_blocking_program_registers_what_another_library_serves() -> None:
    book = Book()
    with sync.Registration(book, Instance("10.0.0.7:50051")) as one:
        one.registered(PATIENCE_S)
        assert book.entries == [Instance("10.0.0.7:50051")]
        one.start()
    one.start()
    one.close()
    assert book.events == ["register", "deregister", "close"]
    assert one.state is RegistrationState.CLOSED


def test_a_blocking_registration_that_was_never_started() -> None:
    book = Book()
    one = sync.Registration(book, Instance("10.0.0.7:50051"))
    with pytest.raises(RuntimeError, match=r"start\(\) it first"):
        one.registered(1.0)
    one.close()
    assert book.events == []


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it has threads, and forks
def test_the_child_of_a_fork_leaves_a_blocking_registration_alone() -> None:
    book = Book()
    with sync.Registration(book, Instance("10.0.0.7:50051")) as one:
        one.registered(PATIENCE_S)
        child = os.fork()
        if not child:
            status = 1
            try:
                one.close()
                status = int(book.events != ["register"])
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert one.state is RegistrationState.REGISTERED
    assert book.events == ["register", "deregister", "close"]


def test_servers_in_grpcio_clothes_register_too() -> None:
    assert issubclass(type(aio.server()), lbkit.Server)
    with ThreadPoolExecutor() as threads:
        assert isinstance(lbkit.compat.server(threads), sync.Server)
