"""The registry's leases, at times of the test's choice."""

from __future__ import annotations

from itertools import count
from math import inf

import pytest

from lbkit.registry.leases import Leases
from lbkit.registry.refusals import Refusal
from lbkit.status import StatusCode


def leases(**options: int) -> Leases:
    numbers = count(1)
    return Leases(lambda: next(numbers), **options)


def test_a_lease_lasts_from_when_it_was_last_kept() -> None:
    table = leases()
    lease = table.grant(0, 10, now=100.0)
    assert (lease.id, table.next_end(), table.expired(109.9)) == (1, 110.0, [])
    table.keep(lease.id, now=105.0)
    assert table.expired(114.9) == []
    assert table.expired(115.0) == [lease.id]


def test_numbers_that_are_taken_are_not_given_again() -> None:
    table = leases()
    table.grant(1, 10, now=0.0)
    assert table.grant(0, 10, now=0.0).id == 2


def test_short_times_are_lengthened() -> None:
    assert leases(shortest_s=2).grant(0, 1, now=0.0).ttl_s == 2


def test_there_are_not_more_than_so_many() -> None:
    table = leases(most=2)
    for _ in range(2):
        table.grant(0, 10, now=0.0)
    with pytest.raises(Refusal, match="too many requests") as caught:
        table.grant(0, 10, now=0.0)
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
    table.drop(1)
    assert table.grant(0, 10, now=0.0).id == 3


def test_keys_belong_to_the_lease_of_the_last_put() -> None:
    table = leases()
    first, second = table.grant(0, 10, now=0.0), table.grant(0, 10, now=0.0)
    table.attach(b"a", 0, first.id)
    table.attach(b"a", first.id, first.id)
    assert first.keys == {b"a"}
    table.attach(b"a", first.id, second.id)
    assert (first.keys, second.keys) == (set(), {b"a"})
    table.drop(second.id)
    table.attach(b"a", second.id, 0)  # its keys are deleted after it is forgotten


def test_those_that_end_first_are_listed_first() -> None:
    table = leases()
    for ttl_s in (30, 10, 20):
        table.grant(0, ttl_s, now=0.0)
    assert table.ids() == [2, 3, 1]
    assert table.next_end() == 10.0


def test_a_new_leader_gives_all_their_whole_time() -> None:
    table = leases()
    table.grant(0, 10, now=0.0)
    table.keep_all(now=9.0)
    assert table.next_end() == 19.0


def test_without_leases_none_ends() -> None:
    assert leases().next_end() == inf
