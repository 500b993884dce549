"""The watches of one stream: each has a place in the history, and is told what came since. No I/O.

A watch keeps nothing but its place, so one that is read slowly costs nothing: it catches up from the history, several
revisions in one response, and is cancelled if the history has been compacted away before it came to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lbkit.protos import etcd
from lbkit.registry.store import ALL, FIRST, Change, Store

NO_WATCH = -1  # the watch_id of what is about no watch

_BATCH_REVISIONS = 1000  # as etcd's watchBatchMaxRevs
_BATCH_BYTES = 2**20  # after which a response takes no further revision, if it must not be sent in parts

_Header = Callable[[int], etcd.ResponseHeader]


class _Watch:
    """One watch.

    Attributes:
        next: the first revision that it has not been told of.
    """

    __slots__ = ("end", "fragment", "id", "key", "next", "no_delete", "no_put", "prev_kv", "progress", "told")

    def __init__(self, number: int, request: etcd.WatchCreateRequest, begin: int) -> None:
        self.id = number
        self.key = request.key or ALL
        self.end = request.range_end
        self.next = begin
        self.prev_kv = request.prev_kv
        self.progress = request.progress_notify
        self.fragment = request.fragment
        self.no_put = etcd.WatchCreateRequest.NOPUT in request.filters
        self.no_delete = etcd.WatchCreateRequest.NODELETE in request.filters
        self.told = False  # since progress was last looked at

    def wants(self, change: Change) -> bool:
        """Whether it is to be told of a change."""
        key = change.kv.key
        if not self.end:
            if key != self.key:
                return False
        elif key < self.key or (self.end != ALL and key >= self.end):
            return False
        return not (self.no_put if change.kv.version else self.no_delete)


class WatchStream:
    """What one Watch call watches.

    Args:
        store: what is watched.
        header: makes the header of a response, for a revision.
        fragment_bytes: larger responses are sent in parts to who can take them so.
        most: how many watches there may be.
    """

    def __init__(
        self, store: Store, header: _Header, *, fragment_bytes: int = 3 * 2**19, most: int = 1000
    ) -> None:
        self._store = store
        self._header = header
        self._fragment_bytes = fragment_bytes
        self._most = most
        self._watches: dict[int, _Watch] = {}
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._watches)

    def create(self, request: etcd.WatchCreateRequest) -> etcd.WatchResponse:
        """Begin a watch; return what to answer, which may be that it was refused."""
        problem = ""
        if request.range_end and request.range_end != ALL and request.range_end <= (request.key or ALL):
            problem = "mvcc: watcher range is empty"
        elif request.watch_id in self._watches and request.watch_id:
            problem = "mvcc: duplicate watch ID provided on the WatchStream"
        elif len(self._watches) >= self._most:
            problem = f"lbkit registry: a stream may have {self._most} watches; open another one"
        revision = self._store.revision
        if problem:
            return etcd.WatchResponse(
                header=self._header(revision),
                watch_id=NO_WATCH,
                created=True,
                canceled=True,
                cancel_reason=problem,
            )
        number = request.watch_id
        if not number:
            while self._next_id in self._watches:
                self._next_id += 1
            number = self._next_id
            self._next_id += 1
        begin = request.start_revision or revision + 1
        if begin >= self._store.compacted:
            begin = max(begin, FIRST)
        self._watches[number] = _Watch(number, request, begin)
        return etcd.WatchResponse(header=self._header(revision), watch_id=number, created=True)

    def cancel(self, number: int) -> etcd.WatchResponse | None:
        """End a watch; return what to answer, None if there is no such watch."""
        if self._watches.pop(number, None) is None:
            return None
        return etcd.WatchResponse(header=self._header(self._store.revision), watch_id=number, canceled=True)

    def due(self) -> Iterator[etcd.WatchResponse]:
        """Give what watches are to be told by now. The store may change while it is being gone through."""
        for watch in list(self._watches.values()):
            while watch.next <= self._store.revision and self._watches.get(watch.id) is watch:
                if watch.next < self._store.compacted:
                    del self._watches[watch.id]
                    yield etcd.WatchResponse(
                        header=self._header(0),  # and no reason: as etcd says it
                        watch_id=watch.id,
                        canceled=True,
                        compact_revision=self._store.compacted,
                    )
                    break
                events = self._batch(watch)
                if events:
                    watch.told = True
                    yield from self._responses(watch, events)

    def all_told(self) -> bool:
        """Whether every watch knows all there is, and there is one."""
        return bool(self._watches) and all(
            watch.next > self._store.revision for watch in self._watches.values()
        )

    def progress(self) -> etcd.WatchResponse:
        """Return the answer to who asks how far the stream is."""
        return etcd.WatchResponse(header=self._header(self._store.revision), watch_id=NO_WATCH)

    def quiet(self) -> list[etcd.WatchResponse]:
        """Return how far those are that want to be told and were not told anything since the last time."""
        responses = []
        for watch in self._watches.values():
            if watch.progress and not watch.told and watch.next > self._store.revision:
                responses.append(
                    etcd.WatchResponse(header=self._header(self._store.revision), watch_id=watch.id)
                )
            watch.told = False
        return responses

    def _batch(self, watch: _Watch) -> list[Change]:
        """Take what a watch is to be told next: whole revisions, up to so many and so much."""
        events: list[Change] = []
        size = 0
        first = watch.next
        for changes in self._store.changes(first):
            watch.next += 1
            for change in changes:
                if watch.wants(change):
                    events.append(change)
                    size += len(change.kv.value)
            if (size >= _BATCH_BYTES and not watch.fragment) or (
                events and watch.next - first >= _BATCH_REVISIONS
            ):
                break
        return events

    def _responses(self, watch: _Watch, changes: list[Change]) -> Iterator[etcd.WatchResponse]:
        header = self._header(self._store.revision)
        response = etcd.WatchResponse(header=header, watch_id=watch.id)
        size = 0
        for change in changes:
            event = self._event(watch, change)
            more = event.ByteSize()
            if watch.fragment and response.events and size + more >= self._fragment_bytes:
                response.fragment = True
                yield response
                response = etcd.WatchResponse(header=header, watch_id=watch.id)
                size = 0
            response.events.append(event)
            size += more
        yield response

    def _event(self, watch: _Watch, change: Change) -> etcd.Event:
        kv, before = change
        # As in etcd, what a key was is looked up in the history, and may be gone from there.
        if not watch.prev_kv or kv.mod_revision - 1 < self._store.compacted:
            before = None
        return etcd.Event(type=etcd.Event.PUT if kv.version else etcd.Event.DELETE, kv=kv, prev_kv=before)
