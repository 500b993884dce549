"""The table of keepalive, every pair of it, and what a look at a connection finds (gRFC A8)."""

from __future__ import annotations

import pytest

from lbkit.transport import keepalive
from lbkit.transport.keepalive import (
    ASKED,
    DOUBTING,
    HEARD,
    LISTENING,
    LOST,
    SILENT,
    SILENT_LATE,
    TRANSITIONS,
    Keepalive,
    KeepalivePolicy,
)

EXPECTED = {
    (LISTENING, HEARD): LISTENING,
    (LISTENING, SILENT): ASKED,
    (LISTENING, SILENT_LATE): ASKED,
    (ASKED, HEARD): LISTENING,
    (ASKED, SILENT): LOST,
    (ASKED, SILENT_LATE): DOUBTING,
    (DOUBTING, HEARD): LISTENING,
    (DOUBTING, SILENT): LOST,
    (DOUBTING, SILENT_LATE): LOST,
    (LOST, HEARD): LOST,
    (LOST, SILENT): LOST,
    (LOST, SILENT_LATE): LOST,
}


@pytest.mark.parametrize("before", range(len(keepalive.STATE_NAMES)), ids=lambda n: keepalive.STATE_NAMES[n])
@pytest.mark.parametrize("event", range(len(keepalive.INPUT_NAMES)), ids=lambda n: keepalive.INPUT_NAMES[n])
def test_every_pair_moves_as_written(before: int, event: int) -> None:
    assert TRANSITIONS[before * len(keepalive.INPUT_NAMES) + event] == EXPECTED[before, event]
    assert len(TRANSITIONS) == len(EXPECTED)


def made(time_s: float = 10.0, timeout_s: float = 20.0) -> Keepalive:
    """Keepalive of a connection that was made at 100 s."""
    return Keepalive(KeepalivePolicy(time_s, timeout_s), 100.0)


def test_bytes_put_the_question_off() -> None:
    """Measured from the last byte read, not from the first look."""
    watch = made()
    assert watch.due == 110.0
    watch.heard_at = 107.0
    assert watch.due == 117.0


def test_silence_is_asked_about_and_any_byte_is_an_answer() -> None:
    watch = made()
    assert watch.look(110.0, owed=True) == ASKED
    assert watch.due == 130.0
    watch.heard_at = 112.0
    assert watch.due == 122.0  # the next question, though the answer to the first had until 130
    assert watch.look(122.0, owed=True) == LISTENING
    assert watch.look(122.0, owed=True) == ASKED


def test_a_server_that_owes_nothing_is_not_asked() -> None:
    watch = made()
    assert watch.look(110.0, owed=False) == LISTENING
    assert watch.due == 120.0
    assert watch.look(120.0, owed=True) == ASKED


def test_no_answer_in_time_is_the_end() -> None:
    """Also when the last call is over meanwhile: who does not answer is not there."""
    watch = made()
    watch.look(110.0, owed=True)
    assert watch.look(130.01, owed=False) == LOST


def test_a_late_look_is_no_judgement() -> None:
    """F21: the event loop was kept busy for 3 s, and the answer waits in the socket."""
    watch = made(1.0, 1.0)
    watch.look(101.0, owed=True)
    assert watch.look(105.0, owed=True) == DOUBTING
    assert 105.0 < watch.due < 105.5
    watch.heard_at = 105.01
    assert watch.look(106.0, owed=True) == LISTENING


def test_the_second_look_judges_however_late_it_is() -> None:
    watch = made(1.0, 1.0)
    watch.look(101.0, owed=True)
    watch.look(105.0, owed=True)
    assert watch.look(109.0, owed=True) == LOST


def test_a_late_question_gives_the_whole_time_to_answer() -> None:
    watch = made(1.0, 1.0)
    assert watch.look(105.0, owed=True) == ASKED
    assert watch.due == 106.0


def test_servers_that_find_it_too_often_at_the_same_time_double_it_once() -> None:
    policy = KeepalivePolicy(10.0)
    connections = [Keepalive(policy, 0.0) for _ in range(3)]
    for connection in connections:
        policy.slow_down(connection.time_s)
    assert policy.time_s == 20.0
    assert connections[0].time_s == 10.0  # of those that are there
    policy.slow_down(Keepalive(policy, 0.0).time_s)
    assert policy.time_s == 40.0


@pytest.mark.parametrize(("time_s", "timeout_s"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0)])
def test_times_must_make_sense(time_s: float, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        KeepalivePolicy(time_s, timeout_s)
