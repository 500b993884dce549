"""What is missing from an answer is kept for a while, and no longer."""

from __future__ import annotations

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from lbkit_resolvers.dns.hold import Hold


def test_without_a_time_what_is_missing_goes_at_once() -> None:
    hold: Hold[str, int] = Hold(0.0)
    assert hold.keep({"a": 1, "b": 2}, 0.0) == {"a": 1, "b": 2}
    assert hold.keep({"b": 3}, 0.0) == {"b": 3}
    assert hold.due_s == inf


def test_time_begins_with_the_first_answer_without_it() -> None:
    hold: Hold[str, int] = Hold(60.0)
    hold.keep({"a": 1, "b": 1}, 0.0)
    assert hold.keep({"b": 2}, 100.0) == {"a": 1, "b": 2}
    assert hold.due_s == 160.0
    assert hold.keep({"b": 2}, 159.9) == {"a": 1, "b": 2}
    assert hold.keep({"b": 2}, 160.0) == {"b": 2}
    assert hold.due_s == inf


def test_what_comes_back_is_as_if_it_had_never_been_missing() -> None:
    hold: Hold[str, int] = Hold(60.0)
    hold.keep({"a": 1}, 0.0)
    hold.keep({}, 10.0)
    assert hold.keep({"a": 2}, 50.0) == {"a": 2}
    assert hold.keep({}, 60.0) == {"a": 2}
    assert hold.due_s == 120.0


def test_next_to_go_is_due_first() -> None:
    hold: Hold[str, int] = Hold(60.0)
    hold.keep({"a": 1, "b": 1}, 0.0)
    hold.keep({"b": 1}, 10.0)
    hold.keep({}, 20.0)
    assert hold.due_s == 70.0
    assert hold.keep({}, 75.0) == {"b": 1}
    assert hold.due_s == 80.0


@settings(deadline=None)
@given(st.lists(st.sets(st.integers(0, 5))), st.floats(0, 5))
def test_everything_that_was_seen_lately_and_nothing_else_is_kept(
    answers: list[set[int]], hold_s: float
) -> None:
    hold: Hold[int, None] = Hold(hold_s)
    missing_since: dict[int, int] = {}
    for now, answer in enumerate(answers):
        kept = hold.keep(dict.fromkeys(answer), float(now))
        for known in set().union(*answers[:now]) - answer:
            missing_since.setdefault(known, now)
        for known in answer:
            missing_since.pop(known, None)
        assert kept.keys() == answer | {key for key, since in missing_since.items() if now < since + hold_s}
