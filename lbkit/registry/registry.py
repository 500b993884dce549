"""The one member that an embedded registry has: its keys, leases and watches, and what happens to them by itself."""

from __future__ import annotations

import asyncio
import random as random_module
from math import inf
from typing import TYPE_CHECKING, Any

from lbkit.clock import Clock, TimerHandle
from lbkit.protos import etcd
from lbkit.registry.checks import MOST_REQUEST_BYTES
from lbkit.registry.keys import Keys
from lbkit.registry.leases import Lease, Leases
from lbkit.registry.services import SERVICES, VERSION
from lbkit.registry.store import Store
from lbkit.server import Server

if TYPE_CHECKING:
    from lbkit.registry.services import Watching

_CLUSTER = 0x6C626B6974  # "lbkit"
_PING_INTERVAL_S = 5.0  # etcd's --grpc-keepalive-min-time; etcdctl sends one every 10 s
_EXPIRY_S = 0.1  # leases end at most so late; etcd looks at them every 0.5 s


class Registry:
    """Keys, watches and leases, to be served by any number of lbkit servers, one after the other or at once.

    Args:
        name: what it calls its one member.
        history: how many revisions back can be read and watched from.
        progress_interval: seconds without an event after which a watch that asks for it is told how far it is.
        clock: the time; by default the running event loop's.
        random: where lease numbers come from.

    Attributes:
        store: the keys and their history.
        leases: who has how long.
        keys: answers KV requests.
        leaderless: there is no leader, so that writes and watches that ask for one are refused.
        address: where clients reach it, for its list of members.
        watchings: the Watch calls under way.
    """

    def __init__(
        self,
        *,
        name: str = "lbkit",
        history: int = 10_000,
        progress_interval: float = 600.0,
        clock: Clock | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        self.name = name
        self.progress_interval = progress_interval
        self.address = ""
        self.leaderless = False
        self.watchings: set[Watching] = set()
        self._history = history
        self._given_clock = clock
        self._clock: Clock | None = None
        self._random = random or random_module.Random()
        self._member = self._random.getrandbits(63) | 1
        self._term = 1
        self._running = False
        self._timer: TimerHandle | None = None
        self._due = inf  # when it fires
        self.forget()

    def forget(self) -> None:
        """Forget everything, revisions too, as a cluster that is made anew. Only while no server is running."""
        self.store = Store(keep_revisions=self._history, on_change=self._wake)
        self.leases = Leases(lambda: self._random.getrandbits(62) | 1)
        self.keys = Keys(self.store, self.leases, self.header)

    def make_server(self, **options: Any) -> Server:
        """Make a server that serves it, with etcd's limits: requests up to 2 MiB, a PING every five seconds.

        Args:
            options: of ``lbkit.Server``.
        """
        limits: dict[str, Any] = {
            "max_request_bytes": MOST_REQUEST_BYTES,
            "keepalive_min_interval": _PING_INTERVAL_S,
        }
        server = Server(**{**limits, **options})
        self.add_to(server)
        return server

    def add_to(self, server: Server) -> None:
        """Serve it on a server that has not been started, as one of several services."""
        for service in SERVICES:
            server.add(etcd, service.__name__, service(self))

    def open(self) -> None:
        """Begin to let leases expire, each after its whole time: nobody could keep them alive before.

        To be called on the event loop whose time it is to go by, when the server starts.
        """
        self._clock = self._given_clock or asyncio.get_running_loop()
        self._running = True
        self._term += 1
        self.leases.keep_all(self._clock.time())
        self._set_timer(self.leases.next_end())

    def close(self) -> None:
        """Let no lease expire from now on, until it is opened again."""
        self._running = False
        self._set_timer(inf)

    def lose_leader(self) -> None:
        """Refuse what needs a leader, and end watches that ask for one, as a member does that is cut off."""
        self.leaderless = True
        self._wake()

    def find_leader(self) -> None:
        """Have a leader again."""
        self.leaderless = False
        self._term += 1
        self.leases.keep_all(self.time())

    def time(self) -> float:
        """Return its time, in seconds from anywhere.

        Raises:
            RuntimeError: it has not been opened.
        """
        if self._clock is None:
            raise RuntimeError("the registry has no time yet: call its open() when the server starts")
        return self._clock.time()

    def header(self, revision: int | None = None) -> etcd.ResponseHeader:
        """Make the header of an answer; by default with the current revision."""
        return etcd.ResponseHeader(
            cluster_id=_CLUSTER,
            member_id=self._member,
            revision=self.store.revision if revision is None else revision,
            raft_term=self._term,
        )

    # Answers of the services. Those of leases raise Refusal.

    def grant(self, request: etcd.LeaseGrantRequest) -> Lease:
        """Make a lease."""
        lease = self.leases.grant(request.ID, request.TTL, self.time())
        if lease.until < self._due:
            self._set_timer(lease.until)
        return lease

    def keep(self, lease: int) -> int:
        """Keep a lease alive; return its time in seconds."""
        return self.leases.keep(lease, self.time()).ttl_s

    def time_to_live(self, request: etcd.LeaseTimeToLiveRequest) -> etcd.LeaseTimeToLiveResponse:
        """Say how long a lease has."""
        lease = self.leases.find(request.ID)
        if lease is None:
            return etcd.LeaseTimeToLiveResponse(header=self.header(), ID=request.ID, TTL=-1)
        return etcd.LeaseTimeToLiveResponse(
            header=self.header(),
            ID=lease.id,
            TTL=max(0, int(lease.until - self.time())),
            grantedTTL=lease.ttl_s,
            keys=sorted(lease.keys) if request.keys else (),
        )

    def all_leases(self, request: etcd.LeaseLeasesRequest) -> etcd.LeaseLeasesResponse:
        """Say which leases there are."""
        leases = [etcd.LeaseStatus(ID=number) for number in self.leases.ids()]
        return etcd.LeaseLeasesResponse(header=self.header(), leases=leases)

    def members(self, request: etcd.MemberListRequest) -> etcd.MemberListResponse:
        """Name its one member."""
        member = etcd.Member(ID=self._member, name=self.name)
        if self.address:
            member.clientURLs.append(f"http://{self.address}")
        return etcd.MemberListResponse(header=self.header(), members=[member])

    def status(self) -> etcd.StatusResponse:
        """Say how it is."""
        size, index = self.store.size + self.store.history_size, self.store.revision
        return etcd.StatusResponse(
            header=self.header(),
            version=VERSION,
            dbSize=size,
            dbSizeInUse=size,
            leader=0 if self.leaderless else self._member,
            raftIndex=index,
            raftAppliedIndex=index,
            raftTerm=self._term,
            errors=["etcdserver: no leader"] if self.leaderless else (),
        )

    # What happens by itself

    def _wake(self) -> None:
        for watching in self.watchings:
            watching.wake()

    def _set_timer(self, when: float) -> None:
        """Look at the leases then, and not before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = when
        if self._running and when < inf:
            assert self._clock is not None, "it runs"
            self._due = max(when, self._clock.time() + _EXPIRY_S)
            self._timer = self._clock.call_at(self._due, self._expire)

    def _expire(self) -> None:
        if not self.leaderless:  # without a leader, nobody ends leases
            for number in self.leases.expired(self.time()):
                self.keys.revoke(number)
        self._set_timer(self.leases.next_end())
