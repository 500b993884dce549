"""What can go wrong with etcd, in kinds that need different things done, each with its cure."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from lbkit.errors import Error, RpcError
from lbkit.status import StatusCode
from lbkit_resolvers.records import shown


class Kind(enum.Enum):
    """What to do about an error. The value is its cure, for people."""

    UNREACHABLE = "is etcd running there, and is that the right address?"
    LEADERLESS = (
        "the cluster has no leader; it recovers when a majority of its members can talk to each other"
    )
    STALE_TOKEN = "a new token is asked for"  # noqa: S105 -- what happens then
    DENIED = "grant the user that: etcdctl role grant-permission --prefix=true ROLE read|readwrite PREFIX"
    WRONG_PASSWORD = "check user and password of the target: etcd://user:password@host/name"  # noqa: S105
    NO_PASSWORD = "the cluster wants to know who asks: write etcd://user:password@host/name"  # noqa: S105
    GONE = "the list is read again"  # the revision was compacted, or is not there yet
    MOVED = "another member is asked"  # this one is about to stop
    TOO_MUCH = "it is asked again, later"  # for it, or for us to receive
    USELESS = "is that an etcd of version 3.4 or later?"  # an answer that makes no sense


# Only somebody else than we can help: no use in asking often.
NEEDS_PEOPLE = frozenset({Kind.DENIED, Kind.WRONG_PASSWORD, Kind.NO_PASSWORD})

# What etcd says (rpctypes/error.go, and auth/store.go where an error is passed on as it is). A cancelled watch has
# nothing but the text, and that as it pleases the release: with "rpc error: code = ..." before it, or without.
_TEXTS: Mapping[str, Kind] = {
    "invalid auth token": Kind.STALE_TOKEN,
    "revision of auth store is old": Kind.STALE_TOKEN,
    "revision in header is old": Kind.STALE_TOKEN,
    "permission denied": Kind.DENIED,
    "authentication failed": Kind.WRONG_PASSWORD,
    "user name not found": Kind.WRONG_PASSWORD,
    "user name is empty": Kind.NO_PASSWORD,
    "no leader": Kind.LEADERLESS,
    "leader changed": Kind.LEADERLESS,
    "request timed out": Kind.LEADERLESS,
    "required revision": Kind.GONE,  # "has been compacted", "is a future revision"
}
_CODES: Mapping[StatusCode, Kind] = {
    StatusCode.UNAVAILABLE: Kind.UNREACHABLE,
    StatusCode.DEADLINE_EXCEEDED: Kind.UNREACHABLE,
    StatusCode.CANCELLED: Kind.UNREACHABLE,
    StatusCode.PERMISSION_DENIED: Kind.DENIED,
    StatusCode.UNAUTHENTICATED: Kind.STALE_TOKEN,
    StatusCode.OUT_OF_RANGE: Kind.GONE,
    StatusCode.RESOURCE_EXHAUSTED: Kind.TOO_MUCH,
}


class EtcdError(Error):
    """Something that etcd was asked for did not work; the text says what, where, and what to do.

    Attributes:
        kind: what to do about it.
        code: the status that the call ended with; UNKNOWN if it was no call.
        what: etcd's own words, or ours where it said nothing.
        reached: whether some member saw the call.
    """

    def __init__(
        self,
        what: str,
        where: str,
        kind: Kind,
        code: StatusCode = StatusCode.UNKNOWN,
        *,
        reached: bool = True,
    ) -> None:
        super().__init__(f"etcd {where}: {what}; {kind.value}")
        self.kind = kind
        self.code = code
        self.what = what
        self.reached = reached

    @classmethod
    def of(cls, error: RpcError, where: str) -> EtcdError:
        """Say what a failed call means."""
        code = error.code()
        what = shown(f"{code.name}: {_in_one_line(error.details())}", 500)
        reached = error.backend is not None
        return cls(what, where, kind_of(error.details(), code), code, reached=reached)

    @property
    def needs_people(self) -> bool:
        """Whether it lasts until somebody does something about it."""
        return self.kind in NEEDS_PEOPLE


def kind_of(text: str, code: StatusCode = StatusCode.UNKNOWN) -> Kind:
    """Return the kind of an error: by what etcd says, or else by the status code."""
    for words, kind in _TEXTS.items():
        if words in text:
            return kind
    return _CODES.get(code, Kind.USELESS)


def _in_one_line(details: str) -> str:
    """Return why the one backend of a channel is down, without what a member of a cluster has no use for."""
    _, *backends = details.splitlines() or [""]
    if not backends:
        return details
    why = backends[0].strip().partition("  ")[2]
    return why.rpartition(", next try in")[0] or why or details
