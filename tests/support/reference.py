"""Ends with the reference engine, alone, joined with the native one, or against a peer that the test plays."""

from __future__ import annotations

from typing import cast

import pytest

from lbkit.http2 import frames
from lbkit.http2.engine import NativeEngine
from lbkit.http2.interface import EngineParts
from lbkit.http2.reference.engine import H2Engine
from lbkit.limits import Limits
from tests.support.wire import SCRATCH_BYTES, End, Pair, Scripted, settings_frame

BOTH = ["native", "h2"]
SIDES = pytest.mark.parametrize(
    ("client", "server"),
    [("h2", "h2"), ("h2", "native"), ("native", "h2")],
    ids=["h2 with h2", "h2 calls native", "native calls h2"],
)


def use_h2(end: End) -> H2Engine:
    """Give an end that has not said anything yet the reference engine."""
    engine = H2Engine(
        EngineParts(
            client=end.engine.client,
            sink=end,
            limits=end.engine.limits,
            counters=end.counters,
            scratch=memoryview(bytearray(SCRATCH_BYTES)),
            now=lambda: end.time,
        )
    )
    end.engine = cast(NativeEngine, engine)
    engine.start()
    return engine


def joined(client: str, server: str, limits: Limits | None = None, *, greedy: bool = True) -> Pair:
    """A client and a server end with the engines that were asked for."""
    pair = Pair(limits, limits, greedy=greedy, shake=False)
    for end, name in ((pair.client, client), (pair.server, server)):
        if name == "h2":
            use_h2(end)
    pair.pump()
    return pair


class Played(Scripted):
    """An end with either engine, and a peer that the test plays."""

    def __init__(self, engine: str, *, client: bool, limits: Limits | None = None) -> None:
        super().__init__(client=client, limits=limits)
        if engine == "h2":
            use_h2(self)
            self.receive(settings_frame() if client else frames.PREFACE + settings_frame())
            self.engine.take()
            self.events.clear()
        self.counters.seen.clear()


def ours(end: End) -> H2Engine:
    """The engine, as what it is."""
    assert isinstance(end.engine, H2Engine)
    return end.engine


def codes(end: End) -> list[int]:
    """Why streams were reset, in the frames that the end has queued."""
    return [int.from_bytes(each.payload, "big") for each in end.sent_kinds(frames.RST_STREAM)]
