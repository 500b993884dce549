"""The registry's store: what is kept, for how long, and what it takes. What requests are answered is in the contract suites."""

from __future__ import annotations

import pytest

from lbkit.protos import etcd
from lbkit.registry.refusals import Refusal
from lbkit.registry.store import ALL, FIRST, Store
from lbkit.status import StatusCode


def put(store: Store, key: bytes, value: bytes = b"") -> None:
    writing = store.write()
    writing.put(key, value, 0)
    writing.end()


def delete(store: Store, key: bytes, end: bytes = b"") -> None:
    writing = store.write()
    writing.delete(store.range(key, end))
    writing.end()


def told(store: Store, since: int) -> list[list[bytes]]:
    """The keys that changed, by revision."""
    return [[change.kv.key for change in changes] for changes in store.changes(since)]


def read(store: Store, revision: int) -> dict[bytes, bytes]:
    return {kv.key: kv.value for kv in store.range(ALL, ALL, revision)}


def test_a_store_begins_at_revision_1_without_changes() -> None:
    store = Store()
    assert (store.revision, told(store, FIRST)) == (1, [])
    put(store, b"a")
    assert (store.revision, told(store, FIRST)) == (2, [[b"a"]])


def test_history_is_kept_up_to_a_number_of_revisions() -> None:
    store = Store(keep_revisions=100)
    for number in range(1000):
        put(store, b"a%d" % (number % 10), b"%d" % number)
        assert store.revision - max(store.compacted, 1) <= 100 + 100 // 8 + 1
    assert store.compacted > 800
    assert read(store, 0) == {b"a%d" % (number % 10): b"%d" % number for number in range(990, 1000)}
    assert len(told(store, store.compacted)) == store.revision - store.compacted + 1


def test_a_history_of_one_revision_is_enough_to_run() -> None:
    store = Store(keep_revisions=1)
    for number in range(50):
        put(store, b"a", b"%d" % number)
        delete(store, b"a")
    assert read(store, 0) == {}
    assert told(store, store.revision) == [[b"a"]]


def test_history_is_kept_up_to_a_number_of_bytes() -> None:
    store = Store(keep_bytes=2**20)
    for number in range(200):
        put(store, b"a", bytes(10_000) + b"%d" % number)
        assert store.history_size <= 2**20
    assert store.compacted > 50
    assert store.size < 11_000


def test_the_newest_revision_stays_however_large_it_is() -> None:
    store = Store(keep_bytes=1000)
    put(store, b"a", bytes(100_000))
    assert told(store, store.revision) == [[b"a"]]
    put(store, b"b", bytes(100_000))
    assert told(store, store.revision) == [[b"b"]]
    assert store.compacted == store.revision


def test_what_is_deleted_and_compacted_takes_nothing() -> None:
    store = Store(keep_revisions=10)
    for number in range(1000):
        put(store, b"a%d" % number, b"1")
        delete(store, b"a%d" % number)
    assert store.size == 0
    assert len(store._keys) < 20
    assert len(store._versions) < 20


def test_reads_and_changes_after_a_compaction_are_those_of_before() -> None:
    whole, cut = Store(), Store()
    for store in (whole, cut):
        for number in range(40):
            put(store, b"a%d" % (number % 7), b"%d" % number)
            if number % 3 == 0:
                delete(store, b"a%d" % (number % 5))
            if number % 11 == 0:
                delete(store, ALL, ALL)
    for since in range(FIRST, whole.revision + 1):
        cut.compact(since)
        assert told(cut, since) == told(whole, since)
        for revision in range(since, whole.revision + 1):
            assert read(cut, revision) == read(whole, revision)


def test_a_key_deleted_and_put_in_one_revision_is_there() -> None:
    store = Store()
    put(store, b"a", b"1")
    writing = store.write()
    writing.delete(store.range(b"a", b""))
    writing.put(b"a", b"2", 0)
    writing.end()
    assert read(store, 0) == read(store, store.revision) == {b"a": b"2"}
    store.compact(store.revision)
    assert read(store, store.revision) == {b"a": b"2"}


def test_keys_have_room_up_to_the_quota() -> None:
    store = Store(quota_bytes=10_000)
    put(store, b"a", bytes(9000))
    with pytest.raises(Refusal, match="etcdserver: mvcc: database space exceeded") as caught:
        store.check_room(2000)
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
    delete(store, b"a")
    store.check_room(2000)


def test_who_listens_is_told_of_each_revision() -> None:
    seen: list[int] = []
    store = Store(on_change=lambda: seen.append(store.revision))
    put(store, b"a")
    delete(store, b"a")
    delete(store, b"a")  # nothing
    assert seen == [2, 3]


def test_kept_messages_are_not_those_of_answers() -> None:
    store = Store()
    put(store, b"a", b"1")
    answer = etcd.RangeResponse(kvs=store.range(b"a", b""))
    answer.kvs[0].value = b"changed"
    assert read(store, 0) == {b"a": b"1"}
