"""A compressor that waits in its thread until the test says, so that things can happen meanwhile."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Generator
from contextlib import contextmanager

from lbkit.encoding.compressors import registry
from lbkit.errors import OversizedDataError
from lbkit.plugins import Origin
from tests.support.servers import PATIENCE_S

NAME = "held"


class Held:
    """zlib that can be held up.

    Attributes:
        holds: what waits: ``"compress"``, ``"decompress"``, or nothing.
        began: a thread waits.
        go_on: lets it go on.
        on_loop: messages that were seen to on the event loop.
    """

    def __init__(self, holds: str = "") -> None:
        self.holds = holds
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.on_loop = 0
        self._loop_thread = threading.current_thread()

    def compress(self, data: bytes) -> bytes:
        """Compress, perhaps later."""
        self._wait("compress")
        return zlib.compress(data)

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Decompress, perhaps later."""
        plain = zlib.decompress(data)
        if len(plain) > limit:
            raise OversizedDataError("too large")
        self._wait("decompress")
        return plain

    def _wait(self, what: str) -> None:
        if threading.current_thread() is self._loop_thread:
            self.on_loop += 1
        elif self.holds == what:
            self.began.set()
            assert self.go_on.wait(PATIENCE_S)


@contextmanager
def held(holds: str = "") -> Generator[Held, None, None]:
    """Register the compressor ``held``, and forget it; what waits goes on at the end."""
    made = Held(holds)
    registry.register(NAME, made, origin=Origin(__name__, "Held"))
    try:
        yield made
    finally:
        made.go_on.set()
        del registry._registered[NAME]
