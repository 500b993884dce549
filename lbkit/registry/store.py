"""Keys, values and all that they were before: etcd's multi-version store (MVCC), in memory and without I/O.

Every transaction that changes something is one revision. Reads may ask for an old revision and watches begin at one,
as far back as the last compaction.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from lbkit.protos import etcd
from lbkit.registry.refusals import COMPACTED, FUTURE_REVISION, NO_SPACE, Refusal

ALL = b"\0"  # as the end of a range: every key from its first one on
FIRST = 2  # the revision of the first change; 1 is that of an empty store

_KEY_BYTES = 256  # what a key and a version of it cost beside their bytes, about

_mod_revision = attrgetter("mod_revision")


class Change(NamedTuple):
    """One key, put or deleted."""

    kv: etcd.KeyValue  # version 0: deleted; then it has the key and the revision only
    before: etcd.KeyValue | None


class Store:
    """The keys of a registry.

    Args:
        keep_revisions: how many revisions back can be read and watched from; older ones are compacted away, some at a
            time.
        keep_bytes: the same, by how much they take.
        quota_bytes: what the keys there are may take; more are refused.

    Attributes:
        revision: of the last change; 1 before the first, as in etcd.
        compacted: the oldest revision that can be read; -1 before the first compaction.
        on_change: called after each revision.
    """

    def __init__(
        self,
        *,
        keep_revisions: int = 10_000,
        keep_bytes: int = 64 * 2**20,
        quota_bytes: int = 256 * 2**20,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        self.revision = 1
        self.compacted = -1
        self.on_change = on_change
        self._keep_revisions = keep_revisions
        self._keep_bytes = keep_bytes
        self._quota_bytes = quota_bytes
        self._current: dict[bytes, etcd.KeyValue] = {}
        self._versions: dict[bytes, list[etcd.KeyValue]] = {}  # of each key, oldest first
        self._keys: list[bytes] = []  # of _versions, sorted
        self._log: deque[Sequence[Change]] = deque()  # the last one is that of ``revision``
        self._log_bytes = 0
        self._bytes = 0  # of _current

    @property
    def size(self) -> int:
        """Bytes that the keys there are take, about."""
        return self._bytes

    @property
    def history_size(self) -> int:
        """Bytes that the changes kept take, about."""
        return self._log_bytes

    # Reading

    def get(self, key: bytes) -> etcd.KeyValue | None:
        """Return a key as it is now."""
        return self._current.get(key)

    def range(self, key: bytes, end: bytes, revision: int = 0) -> list[etcd.KeyValue]:
        """Return what there is from a key on, in the keys' order.

        Args:
            key: the first one.
            end: the first that is no more part of it; empty for the one key, ``ALL`` for all that follow.
            revision: what to look at; 0 or less for the current one.

        Raises:
            Refusal: OUT_OF_RANGE, the revision is gone, or still to come.
        """
        if revision <= 0:
            return [kv for each in self._span(key, end) if (kv := self._current.get(each)) is not None]
        self.check(revision)
        return [kv for each in self._span(key, end) if (kv := self._at(each, revision)) is not None]

    def check(self, revision: int) -> None:
        """Raise unless a revision can be read.

        Raises:
            Refusal: OUT_OF_RANGE.
        """
        if revision > self.revision:
            raise Refusal(*FUTURE_REVISION)
        if revision < self.compacted:
            raise Refusal(*COMPACTED)

    def changes(self, since: int) -> Iterator[Sequence[Change]]:
        """Give the changes of each revision from one on, which has not been compacted. Do not change the store meanwhile."""
        log = self._log
        return (log[index] for index in range(len(log) - (self.revision - since + 1), len(log)))

    def _span(self, key: bytes, end: bytes) -> Sequence[bytes]:
        if not end:
            return (key,)
        first = bisect_left(self._keys, key)
        return self._keys[first:] if end == ALL else self._keys[first : bisect_left(self._keys, end)]

    def _at(self, key: bytes, revision: int) -> etcd.KeyValue | None:
        versions = self._versions.get(key, ())
        place = bisect_right(versions, revision, key=_mod_revision)
        return versions[place - 1] if place and versions[place - 1].version else None

    # Writing

    def write(self) -> Writing:
        """Begin the next revision."""
        return Writing(self)

    def check_room(self, more: int) -> None:
        """Raise if so many bytes more than now are too many.

        Raises:
            Refusal: RESOURCE_EXHAUSTED.
        """
        if self._bytes + more > self._quota_bytes:
            raise Refusal(*NO_SPACE)

    def apply(self, change: Change) -> None:
        """Have a change be seen by reads. Called by ``Writing``."""
        kv, before = change
        key = kv.key
        if before is not None:
            self._bytes -= _size(before)
        if kv.version:
            self._current[key] = kv
            self._bytes += _size(kv)
        else:
            del self._current[key]
        if (versions := self._versions.get(key)) is not None:
            versions.append(kv)
        else:
            self._versions[key] = [kv]
            insort(self._keys, key)

    def commit(self, changes: Sequence[Change]) -> None:
        """End a revision. Called by ``Writing``."""
        self.revision += 1
        self._log.append(changes)
        self._log_bytes += sum(_size(change.kv) for change in changes)
        if len(self._log) > self._keep_revisions + self._keep_revisions // 8 + 1:
            self._forget_before(self.revision - self._keep_revisions + 1)
        elif self._log_bytes > self._keep_bytes:
            self._shrink()
        self.on_change()

    # Compaction

    def compact(self, revision: int) -> None:
        """Forget what was before a revision.

        Raises:
            Refusal: OUT_OF_RANGE, it has been forgotten, or is still to come.
        """
        if revision > self.revision:
            raise Refusal(*FUTURE_REVISION)
        if revision <= self.compacted:
            raise Refusal(*COMPACTED)
        self._forget_before(revision)

    def _shrink(self) -> None:
        """Forget the older part of what takes too much, but never the newest revision."""
        size, revision = self._log_bytes, self.revision - len(self._log) + 1
        for changes in self._log:
            if size <= self._keep_bytes // 2 or revision == self.revision:
                break
            size -= sum(_size(change.kv) for change in changes)
            revision += 1
        self._forget_before(revision)

    def _forget_before(self, revision: int) -> None:
        """Drop changes before a revision, and versions that nobody can read any more."""
        self.compacted = revision
        touched: set[bytes] = set()
        while self._log and self.revision - len(self._log) + 1 < revision:
            changes = self._log.popleft()
            touched.update(change.kv.key for change in changes)
            self._log_bytes -= sum(_size(change.kv) for change in changes)
        if self._log and self.revision - len(self._log) + 1 == revision:
            touched.update(change.kv.key for change in self._log[0])
        gone = False
        for key in touched:
            versions = self._versions.get(key)
            if versions is None:  # its deletion is told by the oldest revision that is kept
                continue
            first = bisect_right(versions, revision, key=_mod_revision)
            if first and versions[first - 1].version:
                first -= 1  # what reads at that revision see; a deletion is seen by its absence
            del versions[:first]
            if not versions:
                del self._versions[key]
                gone = True
        if gone:
            self._keys = [key for key in self._keys if key in self._versions]


class Writing:
    """One revision in the making: what it changes is seen by its own reads at once, and by watches when it ends.

    Nothing is undone: check first what may be refused.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes: list[Change] = []

    @property
    def revision(self) -> int:
        """The revision that reads see by now: the next one once something has changed."""
        return self._store.revision + (1 if self._changes else 0)

    def put(self, key: bytes, value: bytes, lease: int) -> etcd.KeyValue | None:
        """Put a key; return what it was."""
        before = self._store.get(key)
        revision = self._store.revision + 1
        kv = etcd.KeyValue(
            key=key,
            value=value,
            lease=lease,
            create_revision=revision if before is None else before.create_revision,
            mod_revision=revision,
            version=1 if before is None else before.version + 1,
        )
        self._change(Change(kv, before))
        return before

    def delete(self, kvs: Sequence[etcd.KeyValue]) -> None:
        """Delete keys that there are."""
        revision = self._store.revision + 1
        for before in kvs:
            self._change(Change(etcd.KeyValue(key=before.key, mod_revision=revision), before))

    def end(self) -> None:
        """Make it a revision, if anything has changed."""
        if self._changes:
            self._store.commit(self._changes)

    def _change(self, change: Change) -> None:
        self._changes.append(change)
        self._store.apply(change)


def _size(kv: etcd.KeyValue) -> int:
    return len(kv.key) + len(kv.value) + _KEY_BYTES
