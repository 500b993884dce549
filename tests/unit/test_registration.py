"""A registration tries, tries again after a loss, and takes back what is its own, however its registrar behaves."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable

import pytest

from lbkit import (
    BackoffPolicy,
    Instance,
    Registrar,
    Registration,
    RegistrationError,
    RegistrationState,
    Target,
)
from lbkit.own_address import own_address
from lbkit.registration import MOVES, RegistrationEvent, completed
from lbkit.testing import virtual_time
from tests.support.servers import until

INSTANCE = Instance("10.0.0.7:50051")
TARGET = Target.parse("fake://10.0.0.1:99/greeter", {"fake"})


class Fake(Registrar):
    """Does what the test says, and notes what it is told to do."""

    backoff = BackoffPolicy(initial_s=1.0, multiplier=2.0, jitter=0.2, maximum_s=8.0)

    def __init__(self, target: Target = TARGET) -> None:
        super().__init__(target)
        self.did: list[str] = []
        self.at: list[float] = []  # when register() was called
        self.instances: list[Instance] = []
        self.failures: list[Exception] = []  # of register(), one each time
        self.lost = asyncio.Event()
        self.on_register: Callable[[], Awaitable[object]] | None = None
        self.on_deregister: Callable[[], Awaitable[object]] | None = None
        self.busy = 0

    async def register(self, instance: Instance) -> None:
        await self._do("register", self.on_register)
        self.at.append(asyncio.get_running_loop().time())
        self.instances.append(instance)
        if self.failures:
            raise self.failures.pop(0)

    async def keep(self, instance: Instance) -> None:
        await self._do("keep", self.lost.wait)
        self.lost.clear()
        raise ConnectionError("the lease is gone")

    async def deregister(self, instance: Instance) -> None:
        await self._do("deregister", self.on_deregister)

    async def close(self) -> None:
        await self._do("close", None)

    async def _do(self, what: str, more: Callable[[], Awaitable[object]] | None) -> None:
        assert not self.busy, "two at a time"
        self.did.append(what)
        self.busy += 1
        try:
            if more is not None:
                await more()
        finally:
            self.busy -= 1


def registration(fake: Fake, instance: Instance = INSTANCE) -> Registration:
    return Registration(fake, instance, random=random.Random(1))


async def hang() -> None:
    await asyncio.Event().wait()


# States


def test_the_table_has_every_move_there_is() -> None:
    impossible = {
        (RegistrationState.REGISTERED, RegistrationEvent.ACCEPTED),
        *((RegistrationState.CLOSED, event) for event in RegistrationEvent),
    }
    assert set(MOVES) | impossible == set(itertools.product(RegistrationState, RegistrationEvent))
    assert not set(MOVES) & impossible


@virtual_time
async def test_from_start_to_close() -> None:
    fake = Fake()
    one = registration(fake)
    states = [one.state]
    async with one:
        await one.registered(1.0)
        states.append(one.state)
        assert one.error is None
        assert not one.ended
    states.append(one.state)
    assert states == [RegistrationState.REGISTERING, RegistrationState.REGISTERED, RegistrationState.CLOSED]
    assert one.ended
    assert fake.did == ["register", "keep", "deregister", "close"]
    assert fake.instances == [INSTANCE]


@virtual_time
async def test_starting_takes_no_time_with_a_registry_that_does_not_answer() -> None:
    fake = Fake()
    fake.on_register = hang
    one = registration(fake)
    one.start()
    assert asyncio.get_running_loop().time() == 0
    with pytest.raises(
        RegistrationError, match=r"greeter: 10.0.0.7:50051 is not registered after 2 s: no answer yet"
    ):
        await one.registered(2.0)
    await one.close()


@virtual_time
async def test_starting_twice_registers_once() -> None:
    fake = Fake()
    async with registration(fake) as one:
        one.start()
        await one.registered()
    one.start()
    assert fake.did.count("register") == 1


@virtual_time
async def test_what_was_lost_is_registered_again() -> None:
    fake = Fake()
    async with registration(fake) as one:
        await one.registered()
        fake.lost.set()
        await asyncio.sleep(0.1)
        assert one.state is RegistrationState.LOST
        assert str(one.error) == "the lease is gone"
        await one.registered()
        assert one.error is None
    assert fake.did == ["register", "keep", "register", "keep", "deregister", "close"]


@virtual_time
async def test_a_record_that_needs_no_keeping_is_registered_all_the_same() -> None:
    class Once(Fake):
        async def keep(self, instance: Instance) -> None:
            await self._do("keep", None)

    fake = Once()
    async with registration(fake) as one:
        await asyncio.sleep(3600)
        assert one.state is RegistrationState.REGISTERED
    assert fake.did == ["register", "keep", "deregister", "close"]


# Trying again


@virtual_time
async def test_failures_are_spaced_by_a_back_off_with_jitter() -> None:
    fake = Fake()
    fake.failures = [ConnectionError("refused")] * 6
    async with registration(fake) as one:
        await one.registered(60.0)
    waits = [later - earlier for earlier, later in itertools.pairwise(fake.at)]
    for wait, base in zip(waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert 0.8 * base <= wait <= 1.2 * base
    assert len({wait / base for wait, base in zip(waits, [1, 2, 4, 8, 8, 8], strict=True)}) == 6


@virtual_time
async def test_who_held_for_long_is_tried_again_soon() -> None:
    fake = Fake()
    fake.failures = [ConnectionError("refused")] * 4
    async with registration(fake) as one:
        await one.registered()
        await asyncio.sleep(60.0)
        lost_at = asyncio.get_running_loop().time()
        fake.lost.set()
        await asyncio.sleep(0)
        await asyncio.sleep(1.2)
    assert 0.8 <= fake.at[-1] - lost_at <= 1.2


@virtual_time
async def test_who_is_lost_at_once_every_time_is_tried_less_and_less() -> None:
    class Fleeting(Fake):
        async def keep(self, instance: Instance) -> None:
            raise ConnectionError("gone again")

    fake = Fleeting()
    async with registration(fake):
        await asyncio.sleep(60.0)
    assert len(fake.at) < 15


@virtual_time
async def test_a_registrar_can_ask_for_a_longer_wait() -> None:
    fake = Fake()
    fake.failures = [RegistrationError("the token may not do that", wait_s=60.0)] * 2
    async with registration(fake) as one:
        await one.registered()
    waits = [later - earlier for earlier, later in itertools.pairwise(fake.at)]
    assert all(48 <= wait <= 72 for wait in waits)


@virtual_time
async def test_a_try_that_hangs_is_given_up() -> None:
    fake = Fake()
    fake.on_register = hang
    async with registration(fake) as one:
        await asyncio.sleep(16.0)
        assert str(one.error) == "no answer within 15 s"
        fake.on_register = None
        await one.registered()


@virtual_time
async def test_a_cancellation_inside_the_registrar_is_a_failure_like_any_other() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    fake = Fake()
    fake.on_register = cancelled
    async with registration(fake) as one:
        await asyncio.sleep(0.1)
        assert "was cancelled" in str(one.error)
        fake.on_register = None
        await one.registered()


@virtual_time
async def test_an_error_is_logged_once_however_long_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake()
    fake.failures = [ConnectionError("refused")] * 20
    async with registration(fake) as one:
        await one.registered()
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == [
        "fake://10.0.0.1:99/greeter: 10.0.0.7:50051 is not registered: refused",
        "fake://10.0.0.1:99/greeter: 10.0.0.7:50051 is registered now",
    ]


@virtual_time
async def test_an_error_without_text_is_told_by_its_name(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake()
    fake.failures = [KeyError()]
    async with registration(fake) as one:
        await one.registered()
    assert "is not registered: KeyError" in caplog.text


@virtual_time
async def test_passwords_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(Target.parse("fake://ann:secret@10.0.0.1:99/greeter", {"fake"}))
    fake.failures = [ConnectionError("refused")]
    fake.on_deregister = hang
    async with registration(fake) as one:
        with pytest.raises(RegistrationError) as caught:
            await one.registered(0.1)
    assert "ann:***@" in caplog.text
    assert "secret" not in caplog.text + str(caught.value)


# Leaving


@virtual_time
async def test_closing_while_registering_still_takes_back_what_may_be_there() -> None:
    fake = Fake()
    fake.on_register = hang
    one = registration(fake)
    one.start()
    await asyncio.sleep(1.0)
    await one.close()
    assert fake.did == ["register", "deregister", "close"]


@virtual_time
async def test_closing_during_the_back_off_is_quick() -> None:
    fake = Fake()
    fake.failures = [ConnectionError("refused")]
    one = registration(fake)
    one.start()
    await asyncio.sleep(0.1)
    await one.close()
    assert asyncio.get_running_loop().time() == pytest.approx(0.1)
    assert fake.did == ["register", "deregister", "close"]


@virtual_time
async def test_what_was_never_started_takes_nothing_back() -> None:
    fake = Fake()
    await registration(fake).close()
    assert fake.did == ["close"]


@virtual_time
async def test_taking_back_is_bounded_in_time(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake()
    fake.on_deregister = hang
    async with registration(fake) as one:
        await one.registered()
    assert asyncio.get_running_loop().time() == 3.0
    assert "could not be removed, and stays listed until it expires: no answer within 3 s" in caplog.text
    assert fake.did[-1] == "close"


@pytest.mark.parametrize("error", [ConnectionError("refused"), asyncio.CancelledError()])
def test_what_cannot_be_taken_back_is_logged_and_not_raised(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails() -> None:
        raise error

    @virtual_time
    async def run() -> None:
        fake = Fake()
        fake.on_deregister = fails
        async with registration(fake) as one:
            await one.registered()
        assert fake.did[-1] == "close"

    run()
    assert "stays listed until it expires" in caplog.text


@virtual_time
async def test_what_never_was_there_is_not_missed(caplog: pytest.LogCaptureFixture) -> None:
    async def refused() -> None:
        raise ConnectionError("refused")

    fake = Fake()
    fake.on_register = fake.on_deregister = refused
    async with registration(fake):
        await asyncio.sleep(0.1)
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warned == ["fake://10.0.0.1:99/greeter: 10.0.0.7:50051 is not registered: refused"]


@virtual_time
async def test_a_close_of_the_registrar_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Fake):
        async def close(self) -> None:
            raise OSError("cannot")

    async with registration(Broken()):
        pass
    assert "close() of its registrar: cannot" in caplog.text


@virtual_time
async def test_a_registrar_that_raises_when_cancelled_is_closed_all_the_same() -> None:
    class Raises(Fake):
        async def keep(self, instance: Instance) -> None:
            try:
                await hang()
            except asyncio.CancelledError:
                raise ConnectionError("on the way out") from None

    fake = Raises()
    async with registration(fake) as one:
        await one.registered()
    assert fake.did == ["register", "deregister", "close"]
    assert asyncio.get_running_loop().time() == 0


@virtual_time
async def test_a_registrar_that_does_not_end_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.Event()

    class Stubborn(Fake):
        async def keep(self, instance: Instance) -> None:
            while not ended.is_set():
                try:
                    await ended.wait()
                except asyncio.CancelledError:
                    continue

    fake = Stubborn()
    async with registration(fake) as one:
        await one.registered()
        await asyncio.sleep(0)
    assert "does not end when it is cancelled" in caplog.text
    assert fake.did == ["register", "close"]  # never two at a time
    ended.set()
    await asyncio.sleep(0)


@virtual_time
async def test_all_who_close_wait_for_the_one_end() -> None:
    fake = Fake()
    fake.on_deregister = lambda: asyncio.sleep(1.0)
    one = registration(fake)
    one.start()
    await one.registered()
    await asyncio.gather(one.close(), one.close())
    assert asyncio.get_running_loop().time() == 1.0
    await one.close()
    assert fake.did == ["register", "keep", "deregister", "close"]


@virtual_time
async def test_who_gives_up_closing_does_not_stop_it() -> None:
    fake = Fake()
    fake.on_deregister = lambda: asyncio.sleep(1.0)
    one = registration(fake)
    one.start()
    await one.registered()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await one.close()
    await one.close()
    assert fake.did == ["register", "keep", "deregister", "close"]


def test_a_program_that_ends_meanwhile_is_not_held_up() -> None:
    fake = Fake()
    fake.on_deregister = hang

    async def main() -> None:
        one = registration(fake)
        one.start()
        await one.registered()
        closing = asyncio.ensure_future(one.close())
        await until(lambda: "deregister" in fake.did)
        closing.cancel()

    asyncio.run(main())
    assert fake.did == ["register", "keep", "deregister"]


@virtual_time
async def test_who_waits_hears_of_the_close() -> None:
    fake = Fake()
    fake.on_register = hang
    one = registration(fake)
    one.start()
    waiting = asyncio.ensure_future(one.registered())
    await asyncio.sleep(1.0)
    await one.close()
    with pytest.raises(RegistrationError, match="was taken back"):
        await waiting
    with pytest.raises(RegistrationError, match="was taken back"):
        await one.registered(1.0)


async def test_a_forked_child_does_not_take_the_record_back() -> None:
    fake = Fake()
    async with registration(fake) as one:
        await one.registered()
        ours, childs = os.pipe()
        child = os.fork()
        if not child:  # the loop is the parent's: nothing of asyncio works here but what does not wait
            with_loop = one.close()
            try:
                with_loop.send(None)
            except StopIteration:
                os.write(childs, f"{one.state.value} {fake.did}".encode())
            finally:
                os._exit(0)
        os.close(childs)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.read(ours, 100) == b"closed ['register', 'keep']"
        os.close(ours)
        assert status == 0
        assert one.state is RegistrationState.REGISTERED
    assert fake.did == ["register", "keep", "deregister", "close"]


# What is registered


@pytest.mark.parametrize("instance", [Instance(), Instance("10.0.0.7:0"), Instance(id="a")])
def test_an_instance_without_an_address_is_refused(instance: Instance) -> None:
    with pytest.raises(RegistrationError, match="has no address to register; write host:port"):
        Registration(Fake(), instance)


@virtual_time
async def test_an_open_address_is_looked_for_until_it_is_found() -> None:
    asked: list[tuple[str, str]] = []

    async def locate(authority: str, host: str) -> str:
        asked.append((authority, host))
        if len(asked) == 1:
            raise RegistrationError("no way there yet")
        return "fd00::7"

    fake = Fake()
    async with Registration(fake, Instance("[::]:50051"), locate=locate) as one:
        await one.registered()
        fake.lost.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await one.registered()
    assert asked == [("10.0.0.1:99", "::")] * 2
    assert fake.instances == [Instance("[fd00::7]:50051")] * 2


def bound(host: str, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family)
    sock.bind((host, 0))
    return sock


def test_what_a_server_has_bound_completes_an_instance() -> None:
    with bound("127.0.0.1") as sock:
        port = sock.getsockname()[1]
        assert completed(None, sock, secure=False) == Instance(f"127.0.0.1:{port}")
        assert completed(Instance("10.0.0.7:0"), sock, secure=True) == Instance(
            f"10.0.0.7:{port}", secure=True
        )
        assert completed(Instance("10.0.0.7:80", weight=3), sock, secure=False).address == "10.0.0.7:80"
        assert completed(Instance(id="a"), sock, secure=False) == Instance(f"127.0.0.1:{port}", id="a")
    with bound("::", socket.AF_INET6) as sock:
        assert completed(None, sock, secure=False).address == f"[::]:{sock.getsockname()[1]}"


def test_a_server_without_a_tcp_port_needs_an_address_given() -> None:
    with pytest.raises(RegistrationError, match="listens on no TCP port"):
        completed(None, None, secure=False)
    with pytest.raises(RegistrationError, match="listens on no TCP port"):
        completed(Instance("10.0.0.7:0"), None, secure=False)
    assert completed(Instance("10.0.0.7:80"), None, secure=False).address == "10.0.0.7:80"


@pytest.mark.parametrize(
    ("authority", "host", "own"),
    [
        ("127.0.0.1:2379", "0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "::", "127.0.0.1"),
        ("ann:secret@127.0.0.2:2379", "0.0.0.0", "127.0.0.1"),
        ("[::1]:2379,127.0.0.1:2379", "0.0.0.0", "127.0.0.1"),  # it takes IPv4 only
        ("[::1]:2379", "::", "::1"),
        ("[::1]", "::", "::1"),
        ("", "0.0.0.0", "127.0.0.1"),
        ("localhost:2379", "0.0.0.0", "127.0.0.1"),
    ],
)
async def test_the_way_to_the_registry_decides_which_address_it_is(
    authority: str, host: str, own: str
) -> None:
    assert await own_address(authority, host) == own


@pytest.mark.parametrize("authority", ["[::1]:2379", "a..b:1"])
async def test_no_way_to_the_registry_says_what_to_write(authority: str) -> None:
    with pytest.raises(
        RegistrationError, match=r"none leads to .*instance=lbkit\.Instance\('10\.0\.0\.7:0'\)"
    ):
        await own_address(authority, "0.0.0.0")
