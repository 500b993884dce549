"""The table of connection states, every pair of it."""

from __future__ import annotations

import pytest

from lbkit.transport import state
from lbkit.transport.state import CLOSED, DRAIN, DRAINING, END, HANDSHAKE, OPEN, SETTINGS, TRANSITIONS

EXPECTED = {
    (HANDSHAKE, SETTINGS): OPEN,
    (HANDSHAKE, DRAIN): DRAINING,
    (HANDSHAKE, END): CLOSED,
    (OPEN, SETTINGS): OPEN,
    (OPEN, DRAIN): DRAINING,
    (OPEN, END): CLOSED,
    (DRAINING, SETTINGS): DRAINING,
    (DRAINING, DRAIN): DRAINING,
    (DRAINING, END): CLOSED,
    (CLOSED, SETTINGS): CLOSED,
    (CLOSED, DRAIN): CLOSED,
    (CLOSED, END): CLOSED,
}


@pytest.mark.parametrize("before", range(len(state.STATE_NAMES)), ids=lambda n: state.STATE_NAMES[n])
@pytest.mark.parametrize("event", range(len(state.INPUT_NAMES)), ids=lambda n: state.INPUT_NAMES[n])
def test_every_pair_moves_as_written(before: int, event: int) -> None:
    assert TRANSITIONS[before * len(state.INPUT_NAMES) + event] == EXPECTED[before, event]


def test_no_state_goes_back() -> None:
    assert all(after >= before for (before, _), after in EXPECTED.items())
    assert len(TRANSITIONS) == len(EXPECTED)
