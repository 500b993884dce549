"""Who cancels calls whose handlers run is bounded by the number of streams; the reset budget is for the others."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode
from lbkit.limits import Limits
from tests.support.reference import BOTH, Played
from tests.support.wire import REQUEST, Recorder, reset_frame, window_update

pytestmark = pytest.mark.parametrize("engine", BOTH)

CANCELS = 1000
BURST = 5


class Handler(Recorder):
    """A sink whose handler runs: it is held until the test says that it has ended."""

    def reset(self, code: int, reason: str) -> None:
        super().reset(code, reason)
        self.end.engine.held += 1


class Serving(Played):
    """A server with a small budget that is never filled up."""

    def __init__(self, engine: str, **limits: Any) -> None:
        super().__init__(engine, client=False, limits=Limits(resets_burst=BURST, resets_rate=0.0, **limits))

    def call(self, stream_id: int) -> bytes:
        """A call, as its client sends it."""
        return self.headers(stream_id, REQUEST, end=True)

    def begin(self, stream_id: int) -> None:
        """Have the handler of a call begin."""
        self.opened[stream_id].sink = self.sinks[stream_id] = Handler(self, stream_id)


def cancel(stream_id: int) -> bytes:
    return reset_frame(stream_id, ErrorCode.CANCEL)


def test_cancelling_calls_that_run_costs_nothing(engine: str) -> None:
    end = Serving(engine, max_concurrent_streams=1)
    for n in range(1, 2 * CANCELS, 2):
        end.receive(end.call(n))
        end.begin(n)
        end.receive(cancel(n))
        end.engine.held -= 1  # its handler has ended
    assert not end.faults
    assert len(end.of("request")) == CANCELS
    assert end.counters.seen["resets"] == CANCELS


def test_all_calls_that_run_may_be_cancelled_at_once(engine: str) -> None:
    end = Serving(engine)
    ids = range(1, 200, 2)
    for n in ids:
        end.receive(end.call(n))
        end.begin(n)
    for n in ids:
        end.receive(cancel(n))
    assert not end.faults
    assert end.engine.held == len(ids)


def test_handlers_that_do_not_end_leave_no_room_for_more(engine: str) -> None:
    """S1: the stream limit is what bounds them."""
    end = Serving(engine, max_concurrent_streams=3)
    for n in (1, 3, 5):
        end.receive(end.call(n))
        end.begin(n)
        end.receive(cancel(n))
    end.receive(end.call(7))
    assert [event[1] for event in end.of("request")] == [1, 3, 5]


def test_a_cancelled_call_that_ran_allows_for_one_that_did_not(engine: str) -> None:
    """A busy server reads some requests together with their RST_STREAM, whenever callers cancel at random."""
    end = Serving(engine)
    ids = count(1, 2)
    for _ in range(CANCELS):
        running, never = next(ids), next(ids)
        end.receive(end.call(running))
        end.begin(running)
        end.receive(cancel(running))
        end.engine.held -= 1
        end.receive(end.call(never) + cancel(never))
    assert not end.faults


def test_cancelled_calls_that_ran_do_not_hide_a_flood(engine: str) -> None:
    """CVE-2023-44487: it is one for one, and nothing is saved up beyond the burst."""
    end = Serving(engine)
    ids = count(1, 2)
    for _ in range(CANCELS):
        running = next(ids)
        end.receive(end.call(running))
        end.begin(running)
        end.receive(cancel(running))
        end.engine.held -= 1
    for _ in range(BURST + 1):
        assert not end.faults
        never = next(ids)
        end.receive(end.call(never) + cancel(never))
    assert end.counters.exceeded == {"resets": 1}


@pytest.mark.parametrize("increment", [0, frames.MAX_WINDOW])
def test_running_calls_that_the_peer_has_us_reset_are_paid_for(engine: str, increment: int) -> None:
    """CVE-2025-8671: a fault is none of the ways to cancel a call."""
    end = Serving(engine)
    for n in range(1, 2 * BURST + 3, 2):
        assert not end.faults
        end.receive(end.call(n))
        end.begin(n)
        end.receive(window_update(n, increment))
        end.engine.held -= 1
    assert end.counters.exceeded == {"resets": 1}


def test_a_reset_that_crosses_ours_costs_nothing(engine: str) -> None:
    """A deadline passes at both ends at about the same time."""
    end = Serving(engine)
    for n in range(1, 2 * CANCELS, 2):
        end.receive(end.call(n))
        end.begin(n)
        end.engine.reset(end.opened[n], ErrorCode.CANCEL)
        end.receive(cancel(n))
    assert not end.faults
    assert end.counters.seen["resets"] == 0
