"""What etcd refuses, in its own codes and words: clients compare the texts (etcd api/v3/rpctypes/error.go)."""

from __future__ import annotations

from lbkit.errors import Error
from lbkit.status import StatusCode


class Refusal(Error):
    """A request that is answered with a status other than OK. Raised below the services, which send it.

    Attributes:
        code: of the status.
    """

    def __init__(self, code: StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


EMPTY_KEY = (StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided")
KEY_NOT_FOUND = (StatusCode.INVALID_ARGUMENT, "etcdserver: key not found")
VALUE_PROVIDED = (StatusCode.INVALID_ARGUMENT, "etcdserver: value is provided")
LEASE_PROVIDED = (StatusCode.INVALID_ARGUMENT, "etcdserver: lease is provided")
TOO_MANY_OPS = (StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
DUPLICATE_KEY = (StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
INVALID_SORT_OPTION = (StatusCode.INVALID_ARGUMENT, "etcdserver: invalid sort option")
REQUEST_TOO_LARGE = (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large")
COMPACTED = (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
FUTURE_REVISION = (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
NO_SPACE = (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
LEASE_NOT_FOUND = (StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
LEASE_EXISTS = (StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists")
LEASE_TTL_TOO_LARGE = (StatusCode.OUT_OF_RANGE, "etcdserver: too large lease TTL")
TOO_MANY_REQUESTS = (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
NO_LEADER = (StatusCode.UNAVAILABLE, "etcdserver: no leader")
AUTH_NOT_ENABLED = (StatusCode.FAILED_PRECONDITION, "etcdserver: authentication is not enabled")
