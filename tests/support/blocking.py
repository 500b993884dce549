"""Blocking servers and channels for tests, and what they must not leave behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from lbkit import sync
from lbkit.testing.leaks import _sockets
from tests.support.protos import kinds_pb2
from tests.support.servers import PATIENCE_S, QUICK

Item = kinds_pb2.Item


@contextmanager
def nothing_left() -> Generator[None, None, None]:
    """Fail if the block leaves a thread or a socket of lbkit's behind."""
    sockets = _sockets()
    yield
    wait_until(lambda: not lbkit_threads() and not _sockets() - sockets)


def lbkit_threads() -> list[str]:
    """The names of the threads that lbkit started."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lbkit")]


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for what sets no event of its own. Fails the test if it does not come."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.001)


class Blocking:
    """``Kinds`` in plain functions."""

    def UnaryUnary(self, request: Any, context: Any) -> Any:
        context.send_initial_metadata((("first", request.text),))
        context.set_trailing_metadata((("last", request.text),))
        return Item(text=request.text, number=request.number + 1)

    def UnaryStream(self, request: Any, context: Any) -> Iterator[Any]:
        for number in range(request.number):
            yield Item(number=number)

    def StreamUnary(self, requests: Any, context: Any) -> Any:
        return Item(number=sum(request.number for request in requests))

    def StreamStream(self, requests: Any, context: Any) -> Iterator[Any]:
        for request in requests:
            yield Item(number=request.number)


@contextmanager
def blocking_server(servicer: object | None = None, **options: Any) -> Generator[int, None, None]:
    """Serve ``Kinds`` with plain functions; give the port."""
    server = sync.Server(**options)
    server.add(kinds_pb2, "Kinds", servicer or Blocking())
    port = server.bind("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        assert server.stop(None).wait(PATIENCE_S)


def blocking_channel(port: int, **options: Any) -> sync.Channel:
    """A channel to a port that reconnects quickly."""
    return sync.Channel(f"static:///127.0.0.1:{port}", backoff=QUICK, **options)


@contextmanager
def blocking_stub(servicer: object | None = None, **options: Any) -> Generator[Any, None, None]:
    """Serve ``Kinds``, and give a blocking stub for it."""
    with blocking_server(servicer) as port, blocking_channel(port, **options) as channel:
        yield channel.stub(kinds_pb2, "Kinds")
