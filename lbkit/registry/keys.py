"""KV requests, carried out on a store: Range, Put, DeleteRange, Txn, Compact. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter, eq, gt, lt, ne
from typing import Any

from lbkit.protos import etcd
from lbkit.registry.checks import check_delete, check_put, check_range, check_size, check_txn
from lbkit.registry.leases import Leases
from lbkit.registry.refusals import KEY_NOT_FOUND, Refusal
from lbkit.registry.store import Store, Writing

_Header = Callable[[int], etcd.ResponseHeader]

# By RangeRequest.SortTarget.
_SORT_BY: tuple[Callable[[Any], Any], ...] = tuple(
    attrgetter(name) for name in ("key", "version", "create_revision", "mod_revision", "value")
)
_TARGETS = ("version", "create_revision", "mod_revision", "value", "lease")  # by Compare.CompareTarget
_RESULTS: tuple[Callable[[Any, Any], bool], ...] = (eq, gt, lt, ne)  # by Compare.CompareResult
_NOTHING = etcd.KeyValue()


class Keys:
    """Answers KV requests.

    Args:
        store: with the keys.
        leases: with the leases that puts may name.
        header: makes the header of an answer, for a revision.
    """

    def __init__(self, store: Store, leases: Leases, header: _Header) -> None:
        self._store = store
        self._leases = leases
        self._header = header

    # Each raises Refusal.

    def range(self, request: etcd.RangeRequest) -> etcd.RangeResponse:
        """Answer Range."""
        check_range(request)
        response = self._range(request)
        response.header.CopyFrom(self._header(self._store.revision))
        return response

    def put(self, request: etcd.PutRequest) -> etcd.PutResponse:
        """Answer Put."""
        check_put(request)
        check_size(request.ByteSize())
        if request.lease:
            self._leases.get(request.lease)
        self._check_put(request)
        self._store.check_room(len(request.key) + len(request.value))
        writing = self._store.write()
        response = self._put(request, writing)
        writing.end()
        response.header.CopyFrom(self._header(self._store.revision))
        return response

    def delete(self, request: etcd.DeleteRangeRequest) -> etcd.DeleteRangeResponse:
        """Answer DeleteRange."""
        check_delete(request)
        check_size(request.ByteSize())
        writing = self._store.write()
        response = self._delete(request, writing)
        writing.end()
        response.header.CopyFrom(self._header(self._store.revision))
        return response

    def txn(self, request: etcd.TxnRequest) -> etcd.TxnResponse:
        """Answer Txn: all of it or nothing."""
        check_txn(request)
        check_size(request.ByteSize())
        ways = self._ways(request)
        self._check_way(request, ways)
        writing = self._store.write()
        response = self._txn(request, iter(ways), writing)
        writing.end()
        response.header.CopyFrom(self._header(self._store.revision))
        return response

    def compact(self, request: etcd.CompactionRequest) -> etcd.CompactionResponse:
        """Answer Compact."""
        self._store.compact(request.revision)
        return etcd.CompactionResponse(header=self._header(self._store.revision))

    def revoke(self, lease: int) -> None:
        """Forget a lease and delete its keys, in one revision and in their order."""
        keys = self._leases.drop(lease).keys
        writing = self._store.write()
        writing.delete([kv for key in sorted(keys) if (kv := self._store.get(key)) is not None])
        writing.end()

    # One operation, in a transaction or by itself; checked before

    def _range(self, request: etcd.RangeRequest) -> etcd.RangeResponse:
        kvs = self._store.range(request.key, request.range_end, request.revision)
        response = etcd.RangeResponse(count=len(kvs))
        if request.count_only:
            return response
        bounds = (
            ("mod_revision", request.min_mod_revision, request.max_mod_revision),
            ("create_revision", request.min_create_revision, request.max_create_revision),
        )
        if any(low or high for _, low, high in bounds):
            kvs = [kv for kv in kvs if _is_within(kv, bounds)]
        elif request.limit > 0 and request.sort_order == etcd.RangeRequest.NONE:
            del kvs[request.limit + 1 :]  # etcd sorts what it took, when no order is named
        if request.sort_target != etcd.RangeRequest.KEY or request.sort_order == etcd.RangeRequest.DESCEND:
            kvs.sort(
                key=_SORT_BY[request.sort_target],
                reverse=request.sort_order == etcd.RangeRequest.DESCEND,
            )
        if 0 < request.limit < len(kvs):
            response.more = True
            kvs = kvs[: request.limit]
        response.kvs.extend(map(_without_value, kvs) if request.keys_only else kvs)
        return response

    def _put(self, request: etcd.PutRequest, writing: Writing) -> etcd.PutResponse:
        value, lease = request.value, request.lease
        if request.ignore_value or request.ignore_lease:
            old = self._store.get(request.key) or _NOTHING
            value = old.value if request.ignore_value else value
            lease = old.lease if request.ignore_lease else lease
        before = writing.put(request.key, value, lease)
        self._leases.attach(request.key, 0 if before is None else before.lease, lease)
        return etcd.PutResponse(prev_kv=before if request.prev_kv else None)

    def _delete(self, request: etcd.DeleteRangeRequest, writing: Writing) -> etcd.DeleteRangeResponse:
        kvs = self._store.range(request.key, request.range_end)
        writing.delete(kvs)
        for kv in kvs:
            self._leases.attach(kv.key, kv.lease, 0)
        return etcd.DeleteRangeResponse(deleted=len(kvs), prev_kvs=kvs if request.prev_kv else ())

    # Transactions: first which way it goes, then whether it can, then it does

    def _ways(self, request: etcd.TxnRequest) -> list[bool]:
        """Return whether the comparisons hold: of the transaction, then of those in it, in the order they are met."""
        holds = all(self._holds(compare) for compare in request.compare)
        ways = [holds]
        for op in request.success if holds else request.failure:
            if op.WhichOneof("request") == "request_txn":
                ways += self._ways(op.request_txn)
        return ways

    def _holds(self, compare: etcd.Compare) -> bool:
        kvs = self._store.range(compare.key, compare.range_end)
        if not kvs:
            if compare.target == etcd.Compare.VALUE:  # no value can stand for that there is none
                return False
            kvs = [_NOTHING]
        if compare.result not in range(len(_RESULTS)):  # numbers of a later version: as etcd takes them
            return True
        if compare.target not in range(len(_TARGETS)):
            return compare.result == etcd.Compare.EQUAL
        name = _TARGETS[compare.target]
        against = getattr(compare, name)
        result = _RESULTS[compare.result]
        return all(result(getattr(kv, name), against) for kv in kvs)

    def _check_way(self, request: etcd.TxnRequest, ways: list[bool]) -> None:
        """Refuse what cannot be done on the way that is taken; puts first, as etcd does."""
        ops = list(_taken(request, iter(ways)))
        size = 0
        for op in ops:
            if op.WhichOneof("request") == "request_put":
                self._check_put(op.request_put)
                size += len(op.request_put.key) + len(op.request_put.value)
        for op in ops:
            if op.WhichOneof("request") == "request_range" and (revision := op.request_range.revision):
                self._store.check(revision)
        if size:
            self._store.check_room(size)

    def _check_put(self, request: etcd.PutRequest) -> None:
        if (request.ignore_value or request.ignore_lease) and self._store.get(request.key) is None:
            raise Refusal(*KEY_NOT_FOUND)
        if request.lease:
            self._leases.get(request.lease)

    def _txn(self, request: etcd.TxnRequest, ways: Iterator[bool], writing: Writing) -> etcd.TxnResponse:
        succeeded = next(ways)
        response = etcd.TxnResponse(succeeded=succeeded)
        for op in request.success if succeeded else request.failure:
            kind = op.WhichOneof("request")
            answer: Any
            if kind == "request_put":
                answer = self._put(op.request_put, writing)
                answer.header.revision = writing.revision
                response.responses.add().response_put.CopyFrom(answer)
            elif kind == "request_range":
                answer = self._range(op.request_range)
                answer.header.revision = writing.revision
                response.responses.add().response_range.CopyFrom(answer)
            elif kind == "request_delete_range":
                answer = self._delete(op.request_delete_range, writing)
                answer.header.revision = writing.revision
                response.responses.add().response_delete_range.CopyFrom(answer)
            else:
                answer = self._txn(op.request_txn, ways, writing)
                answer.header.SetInParent()  # etcd sends it, empty
                response.responses.add().response_txn.CopyFrom(answer)
        return response


def _taken(request: etcd.TxnRequest, ways: Iterator[bool]) -> Iterator[etcd.RequestOp]:
    """Give the operations on the way that is taken, those of transactions in it too."""
    for op in request.success if next(ways) else request.failure:
        yield op
        if op.WhichOneof("request") == "request_txn":
            yield from _taken(op.request_txn, ways)


def _is_within(kv: etcd.KeyValue, bounds: Iterable[tuple[str, int, int]]) -> bool:
    """Whether a key's revisions are within bounds; an upper one of 0 is none."""
    return all(
        low <= (number := getattr(kv, name)) and (not high or number <= high) for name, low, high in bounds
    )


def _without_value(kv: etcd.KeyValue) -> etcd.KeyValue:
    return etcd.KeyValue(
        key=kv.key,
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
        lease=kv.lease,
    )
