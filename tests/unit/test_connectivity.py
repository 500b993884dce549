from __future__ import annotations

from itertools import combinations_with_replacement

import grpc
import pytest

from lbkit.connectivity import ConnectivityState, StateCounts

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY
TRANSIENT_FAILURE = ConnectivityState.TRANSIENT_FAILURE


def counts(*states: ConnectivityState) -> StateCounts:
    made = StateCounts()
    for state in states:
        made.add(state)
    return made


@pytest.mark.parametrize("ours", ConnectivityState, ids=lambda state: state.name)
def test_equals_the_state_of_grpc_in_both_directions(ours: ConnectivityState) -> None:
    theirs = getattr(grpc.ChannelConnectivity, ours.name)
    assert ours == theirs
    assert theirs == ours
    assert {ours: 1}[theirs] == 1
    assert {theirs: 1}[ours] == 1


def test_index_numbers_the_states() -> None:
    assert [state.index for state in ConnectivityState] == [0, 1, 2, 3, 4]


def test_without_children_it_is_a_failure() -> None:
    assert counts().aggregate() is TRANSIENT_FAILURE


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_aggregate_is_the_best_of_all(size: int) -> None:
    for states in combinations_with_replacement([IDLE, CONNECTING, READY, TRANSIENT_FAILURE], size):
        expected = TRANSIENT_FAILURE
        if READY in states:
            expected = READY
        elif CONNECTING in states or IDLE in states:
            expected = CONNECTING
        assert counts(*states).aggregate() is expected


def test_removed_children_do_not_count() -> None:
    made = counts(READY, TRANSIENT_FAILURE)
    made.remove(READY)
    assert made.aggregate() is TRANSIENT_FAILURE
