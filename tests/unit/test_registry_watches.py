"""The registry's watches: how much they hold, and what slow ones are told."""

from __future__ import annotations

from typing import Any

from lbkit.protos import etcd
from lbkit.registry.store import ALL, Store
from lbkit.registry.watches import WatchStream


def header(revision: int) -> etcd.ResponseHeader:
    return etcd.ResponseHeader(revision=revision)


def put(store: Store, key: bytes, value: bytes = b"") -> None:
    writing = store.write()
    writing.put(key, value, 0)
    writing.end()


def everything(**options: Any) -> etcd.WatchCreateRequest:
    return etcd.WatchCreateRequest(key=ALL, range_end=ALL, **options)


def test_one_that_is_slow_catches_up_from_the_history_a_thousand_revisions_at_a_time() -> None:
    store = Store()
    stream = WatchStream(store, header)
    stream.create(everything())
    for _ in range(2500):
        put(store, b"a")
    responses = list(stream.due())
    assert [len(response.events) for response in responses] == [1000, 1000, 500]
    assert {response.header.revision for response in responses} == {store.revision}
    assert list(stream.due()) == []


def test_a_response_takes_no_further_revision_after_a_mebibyte() -> None:
    store = Store()
    stream = WatchStream(store, header)
    stream.create(everything())
    for _ in range(5):
        put(store, b"a", bytes(600_000))
    assert [len(response.events) for response in stream.due()] == [2, 2, 1]


def test_what_changes_while_responses_are_sent_is_told_too() -> None:
    store = Store()
    stream = WatchStream(store, header)
    stream.create(everything())
    put(store, b"a")
    due = stream.due()
    assert next(due).events[0].kv.key == b"a"
    put(store, b"b")
    assert next(due).events[0].kv.key == b"b"
    assert list(due) == []


def test_a_watch_cancelled_while_responses_are_sent_is_told_no_more() -> None:
    store = Store()
    stream = WatchStream(store, header)
    stream.create(everything())
    for _ in range(1500):
        put(store, b"a")
    due = stream.due()
    next(due)
    stream.cancel(0)
    assert list(due) == []


def test_one_that_is_slower_than_the_history_is_cancelled_with_what_is_left() -> None:
    store = Store(keep_revisions=10)
    stream = WatchStream(store, header)
    stream.create(everything())
    for _ in range(100):
        put(store, b"a")
    (response,) = stream.due()
    assert (response.canceled, response.compact_revision) == (True, store.compacted)
    assert len(stream) == 0


def test_a_stream_has_so_many_watches_and_no_more() -> None:
    stream = WatchStream(Store(), header, most=2)
    answers = [stream.create(everything()) for _ in range(3)]
    assert [answer.canceled for answer in answers] == [False, False, True]
    assert answers[2].cancel_reason == "lbkit registry: a stream may have 2 watches; open another one"
    stream.cancel(0)
    assert stream.create(everything()).watch_id == 2


def test_numbers_that_clients_chose_are_not_given_to_others() -> None:
    stream = WatchStream(Store(), header)
    answers = [stream.create(everything(watch_id=number)) for number in (1, 2, 0, 0, 0)]
    assert [answer.watch_id for answer in answers] == [1, 2, 0, 3, 4]


def test_progress_is_for_who_was_told_nothing() -> None:
    store = Store()
    stream = WatchStream(store, header)
    stream.create(everything(progress_notify=True))
    stream.create(etcd.WatchCreateRequest(key=b"b", progress_notify=True))
    stream.create(etcd.WatchCreateRequest(key=b"b"))
    put(store, b"a")
    assert [len(response.events) for response in stream.due()] == [1]
    assert [(answer.watch_id, answer.header.revision) for answer in stream.quiet()] == [(1, 2)]
    assert [answer.watch_id for answer in stream.quiet()] == [0, 1]


def test_a_stream_without_watches_has_no_progress_to_tell() -> None:
    store = Store()
    stream = WatchStream(store, header)
    assert not stream.all_told()
    stream.create(everything())
    assert stream.all_told()
    put(store, b"a")
    assert not stream.all_told()


def test_a_past_before_the_first_revision_is_the_first() -> None:
    store = Store()
    stream = WatchStream(store, header)
    for revision in (-1, 1, 2):
        stream.create(everything(start_revision=revision))
    assert list(stream.due()) == []
    put(store, b"a")
    assert [len(response.events) for response in stream.due()] == [1, 1, 1]
