"""The rules of blocking queries: the index, the pace, and when an empty answer is doubted."""

from __future__ import annotations

import pytest

from lbkit_resolvers.consul.queries import Bucket, EmptyGuard, answer_limit_s, worth_of


def headers(index: str | None, **more: str) -> dict[str, str]:
    named = {f"x-consul-{name}": value for name, value in more.items()}
    return named if index is None else {"x-consul-index": index, **named}


def test_index_of_an_answer_is_the_next_to_ask_with() -> None:
    assert worth_of(headers("42"), 0).next_index == 42
    assert worth_of(headers("42"), 42).next_index == 42
    assert worth_of(headers("43"), 42) == (43, 0.0, True, False)


def test_index_that_went_backwards_starts_over_at_0() -> None:
    assert worth_of(headers("41"), 42) == (0, 0.0, True, True)


@pytest.mark.parametrize("index", ["0", None, "", "-3", "many", "1e9", "9" * 40, "٣"])
def test_index_is_never_less_than_1(index: str | None) -> None:
    assert worth_of(headers(index), 0).next_index == 1
    assert worth_of(headers(index), 1).next_index == 1
    assert worth_of(headers(index), 2).next_index == 0  # it went backwards


def test_headers_tell_the_leader_and_the_age() -> None:
    worth = worth_of(headers("7", knownleader="false", lastcontact="1500"), 7)
    assert (worth.leader, worth.age_s) == (False, 1.5)
    assert worth_of(headers("7", knownleader="true", lastcontact="?"), 7).age_s == 0.0


def test_answer_may_take_the_wait_a_sixteenth_more_and_the_time_out() -> None:
    assert answer_limit_s(160.0, 10.0) == 180.0
    assert answer_limit_s(0.0, 10.0) == 10.0


def test_two_queries_go_at_once_and_then_one_a_second() -> None:
    bucket = Bucket()
    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 1.0, 2.0]


def test_quiet_time_brings_the_burst_back_and_no_more() -> None:
    bucket, now, times = Bucket(), 0.0, []
    for _ in range(6):
        now += bucket.take(now)
        times.append(now)
    assert times == [0.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    now += 1000.0
    assert [bucket.take(now) for _ in range(3)] == [0.0, 0.0, 1.0]


def test_empty_answer_that_nobody_doubts_is_published() -> None:
    guard = EmptyGuard(30.0)
    assert guard.held_s(0.0, empty=False, doubtful=False) == 0.0
    assert guard.held_s(1.0, empty=True, doubtful=False) == 0.0
    assert not guard.had_some


def test_doubtful_empty_answer_is_held_back_once() -> None:
    guard = EmptyGuard(30.0)
    guard.held_s(0.0, empty=False, doubtful=False)
    assert guard.held_s(1.0, empty=True, doubtful=True) == 30.0
    assert guard.held_s(11.0, empty=True, doubtful=False) == 20.0  # it is not known why it was empty before
    assert guard.held_s(31.0, empty=True, doubtful=True) == 0.0
    assert guard.held_s(32.0, empty=True, doubtful=True) == 0.0


def test_first_answer_of_all_is_never_held_back() -> None:
    assert EmptyGuard(30.0).held_s(0.0, empty=True, doubtful=True) == 0.0


def test_empty_answer_after_an_outage_is_doubted_until_there_was_another() -> None:
    guard = EmptyGuard(30.0)
    guard.held_s(0.0, empty=False, doubtful=False)
    guard.lost()
    assert guard.held_s(1.0, empty=True, doubtful=False) == 30.0
    guard.lost()
    assert guard.held_s(2.0, empty=False, doubtful=False) == 0.0
    assert guard.held_s(3.0, empty=True, doubtful=False) == 0.0


def test_guard_of_0_s_holds_nothing() -> None:
    guard = EmptyGuard(0.0)
    guard.held_s(0.0, empty=False, doubtful=False)
    assert guard.held_s(1.0, empty=True, doubtful=True) == 0.0
