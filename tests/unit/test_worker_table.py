"""The table of a worker process's life: every state with every input, and what must hold over all of it."""

from __future__ import annotations

import itertools

import pytest

from lbkit.processes import state as life
from lbkit.processes.state import (
    ABORT,
    COUNT,
    DRAIN,
    DRAINING,
    ENDING,
    EXITED,
    FORGET,
    GONE,
    KILL,
    LOSE,
    NOTHING,
    NOW,
    OVERDUE,
    READY,
    RETIRE,
    SERVES,
    STARTING,
    step,
)

TABLE = {
    STARTING: {
        SERVES: (READY, COUNT),
        EXITED: (GONE, LOSE),
        RETIRE: (DRAINING, DRAIN),
        OVERDUE: (ENDING, KILL),
        NOW: (ENDING, KILL),
    },
    READY: {
        SERVES: (READY, NOTHING),
        EXITED: (GONE, LOSE),
        RETIRE: (DRAINING, DRAIN),
        OVERDUE: (READY, NOTHING),
        NOW: (ENDING, ABORT),
    },
    DRAINING: {
        SERVES: (DRAINING, NOTHING),
        EXITED: (GONE, FORGET),
        RETIRE: (DRAINING, NOTHING),
        OVERDUE: (ENDING, KILL),
        NOW: (ENDING, ABORT),
    },
    ENDING: {
        SERVES: (ENDING, NOTHING),
        EXITED: (GONE, FORGET),
        RETIRE: (ENDING, NOTHING),
        OVERDUE: (ENDING, KILL),
        NOW: (ENDING, KILL),
    },
    GONE: dict.fromkeys(range(len(life.INPUTS)), (GONE, NOTHING)),
}
PAIRS = list(itertools.product(range(len(life.STATES)), range(len(life.INPUTS))))


@pytest.mark.parametrize(
    ("state", "given"), PAIRS, ids=[f"{life.STATES[state]}-{life.INPUTS[given]}" for state, given in PAIRS]
)
def test_each_state_with_each_input(state: int, given: int) -> None:
    assert step(state, given) == TABLE[state][given]


def test_a_process_that_ended_is_gone_whatever_it_was_doing() -> None:
    assert {step(state, EXITED).state for state in range(len(life.STATES))} == {GONE}


def test_no_state_is_left_for_an_earlier_one() -> None:
    assert all(step(state, given).state >= state for state, given in PAIRS)


def test_who_is_told_to_end_at_once_ends_or_is_killed_the_second_time() -> None:
    for state in (STARTING, READY, DRAINING):
        ending = step(state, NOW).state
        assert ending == ENDING
        assert step(ending, NOW).action == KILL
