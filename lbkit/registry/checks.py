"""What is refused of a KV request before it is looked at any further: etcd's own rules (etcd server/etcdserver/api/v3rpc/key.go)."""

from __future__ import annotations

from collections.abc import Iterable

from lbkit.protos import etcd
from lbkit.registry.refusals import (
    DUPLICATE_KEY,
    EMPTY_KEY,
    INVALID_SORT_OPTION,
    KEY_NOT_FOUND,
    LEASE_PROVIDED,
    REQUEST_TOO_LARGE,
    TOO_MANY_OPS,
    VALUE_PROVIDED,
    Refusal,
)

MOST_BYTES = 3 * 2**19  # of a request that writes: etcd's --max-request-bytes, 1.5 MiB
# Of any request, for servers: etcd leaves half a MiB for what is around a value.
MOST_REQUEST_BYTES = 2 * 2**20
MOST_OPS = 128  # of a transaction: etcd's --max-txn-ops
_SORT_ORDERS = range(3)
_SORT_TARGETS = range(5)


def check_size(size: int) -> None:
    """Refuse a request that writes and is too large."""
    if size > MOST_BYTES:
        raise Refusal(*REQUEST_TOO_LARGE)


def check_range(request: etcd.RangeRequest) -> None:
    """Refuse a range without a key, or in no known order."""
    if not request.key:
        raise Refusal(*EMPTY_KEY)
    if request.sort_order not in _SORT_ORDERS or request.sort_target not in _SORT_TARGETS:
        raise Refusal(*INVALID_SORT_OPTION)


def check_put(request: etcd.PutRequest) -> None:
    """Refuse a put without a key, or with what it says is to stay."""
    if not request.key:
        raise Refusal(*EMPTY_KEY)
    if request.ignore_value and request.value:
        raise Refusal(*VALUE_PROVIDED)
    if request.ignore_lease and request.lease:
        raise Refusal(*LEASE_PROVIDED)


def check_delete(request: etcd.DeleteRangeRequest) -> None:
    """Refuse a deletion without a key."""
    if not request.key:
        raise Refusal(*EMPTY_KEY)


def check_txn(request: etcd.TxnRequest) -> None:
    """Refuse a transaction with too much in it, with a part that would be refused, or that puts a key twice.

    Raises:
        Refusal: INVALID_ARGUMENT.
    """
    _check_txn(request, MOST_OPS)
    _check_overlaps(request.success)
    _check_overlaps(request.failure)


def _check_txn(request: etcd.TxnRequest, most: int) -> None:
    count = max(len(request.compare), len(request.success), len(request.failure))
    if count > most:
        raise Refusal(*TOO_MANY_OPS)
    for compare in request.compare:
        if not compare.key:
            raise Refusal(*EMPTY_KEY)
    for branch in (request.success, request.failure):
        for op in branch:
            _check_op(op, most - count)


def _check_op(op: etcd.RequestOp, most: int) -> None:
    kind = op.WhichOneof("request")
    if kind == "request_range":
        check_range(op.request_range)
    elif kind == "request_put":
        check_put(op.request_put)
    elif kind == "request_delete_range":
        check_delete(op.request_delete_range)
    elif kind == "request_txn":
        _check_txn(op.request_txn, most)
    else:
        raise Refusal(*KEY_NOT_FOUND)


def _check_overlaps(ops: Iterable[etcd.RequestOp]) -> tuple[set[bytes], list[tuple[bytes, bytes]]]:
    """Refuse a key that is put twice, or put and deleted, on one way through a transaction.

    Returns:
        The keys that are put, and the ranges that are deleted.
    """
    ops = list(ops)
    deleted = [
        (op.request_delete_range.key, op.request_delete_range.range_end)
        for op in ops
        if op.WhichOneof("request") == "request_delete_range"
    ]
    put: set[bytes] = set()
    for op in ops:
        if op.WhichOneof("request") != "request_txn":
            continue
        put_then, deleted_then = _check_overlaps(op.request_txn.success)
        put_else, deleted_else = _check_overlaps(op.request_txn.failure)
        put_inside = put_then | put_else  # one of the two only: they may have keys in common
        if put & put_inside or any(_is_in(key, deleted) for key in put_inside):
            raise Refusal(*DUPLICATE_KEY)
        put |= put_inside
        deleted += [*deleted_then, *deleted_else]
    for op in ops:
        if op.WhichOneof("request") == "request_put":
            key = op.request_put.key
            if key in put or _is_in(key, deleted):
                raise Refusal(*DUPLICATE_KEY)
            put.add(key)
    return put, deleted


def _is_in(key: bytes, ranges: Iterable[tuple[bytes, bytes]]) -> bool:
    # etcd does not take the end "\0" for what it stands for here, so that nothing is in such a range.
    return any(key == first if not end else first <= key < end for first, end in ranges)
