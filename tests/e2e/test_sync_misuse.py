"""The blocking API where it must not be used, or not like that: its own loop thread, other loops, forked children."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
from typing import Any

import pytest

import lbkit
from lbkit.sync import loop_thread
from tests.e2e.test_sync import (
    Held,
    tidy,  # noqa: F401 # pyright: ignore[reportUnusedImport] -- a fixture of every test
)
from tests.support.blocking import (
    Blocking,
    Item,
    blocking_channel,
    blocking_server,
    blocking_stub,
)
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S


def test_blocking_call_on_the_loops_own_thread_is_refused_at_once() -> None:
    servicer = Held()
    with blocking_server(servicer) as port, blocking_channel(port) as channel:
        stub = channel.stub(kinds_pb2, "Kinds")
        raised: list[str] = []
        told = threading.Event()

        def callback(_: Any) -> None:
            for misuse in (lambda: stub.UnaryUnary(Item()), channel.close, lambda: channel.ready(1.0)):
                try:
                    misuse()
                except lbkit.UsageError as error:
                    raised.append(str(error))
            told.set()

        future = stub.UnaryUnary.future(Item())
        assert servicer.entered.wait(PATIENCE_S)
        future.add_done_callback(callback)  # the call is not over: it comes on the loop's thread
        servicer.go.set()
        future.result(timeout=PATIENCE_S)
        assert told.wait(PATIENCE_S)
    assert len(raised) == 3
    assert all("would wait for itself" in each for each in raised)


def test_coroutine_of_a_servicer_is_told_not_to_block_its_loop() -> None:
    class Confused(Blocking):
        async def UnaryUnary(self, request: Any, context: Any) -> Any:
            try:
                return stub.UnaryUnary(request)
            except lbkit.UsageError as error:
                return Item(text=str(error))

    with blocking_stub(Confused()) as stub:
        assert "on the event loop thread of lbkit.sync would wait for itself" in stub.UnaryUnary(Item()).text


def test_inside_another_running_loop_it_warns_once_and_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_thread, "_warned", False)
    with blocking_server() as port:

        async def cell_of_a_notebook() -> list[int]:
            with blocking_channel(port) as channel:
                stub = channel.stub(kinds_pb2, "Kinds")
                return [stub.UnaryUnary(Item(number=number)).number for number in range(3)]

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert asyncio.run(cell_of_a_notebook()) == [1, 2, 3]
    assert [each.category for each in caught] == [RuntimeWarning]
    assert "stops the event loop that runs in this thread" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_callback_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    servicer = Held()
    told = threading.Event()
    with blocking_stub(servicer) as stub:
        future = stub.UnaryUnary.future(Item())
        assert servicer.entered.wait(PATIENCE_S)
        future.add_done_callback(lambda _: 1 / 0)
        future.add_callback(told.set)
        servicer.go.set()
        future.result(timeout=PATIENCE_S)
        assert told.wait(PATIENCE_S)
    assert "a done-callback of a call of /lbkit.tests.Kinds/UnaryUnary raised" in caplog.text


# Forks


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
def test_forked_child_is_told_and_makes_channels_of_its_own() -> None:
    with blocking_server() as port, blocking_channel(port) as channel, blocking_channel(port) as unused:
        stub = channel.stub(kinds_pb2, "Kinds")
        stub.UnaryUnary(Item())
        running = stub.UnaryUnary.future(Item())
        running.result(timeout=PATIENCE_S)
        ours, childs = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 and later: a process with threads forks
            child = os.fork()
        if not child:
            os.write(childs, repr(in_child(port, channel, unused)).encode())
            os._exit(0)
        os.close(childs)
        with os.fdopen(ours, "rb") as pipe:
            found = pipe.read().decode()
        os.waitpid(child, 0)
        assert found == repr(["ForkedError", "ForkedError", "ForkedError", 8])
        assert stub.UnaryUnary(Item(number=1), timeout=PATIENCE_S).number == 2


def in_child(port: int, *parents: Any) -> list[object]:
    """What a child finds; whatever happens, it comes back."""
    found: list[object] = []
    try:
        for channel in parents:
            try:
                channel.stub(kinds_pb2, "Kinds").UnaryUnary(Item(), timeout=1.0)
            except lbkit.ForkedError as error:
                found.append(type(error).__name__)
        try:
            parents[0].ready(1.0)
        except lbkit.ForkedError as error:
            found.append(type(error).__name__)
        parents[0].close()
        with blocking_channel(port) as channel:
            found.append(channel.stub(kinds_pb2, "Kinds").UnaryUnary(Item(number=7), timeout=5.0).number)
    except BaseException as error:
        found.append(repr(error))
    return found
