"""etcd: the backends of a service are the records under its prefix, listed and then watched."""

from __future__ import annotations

import logging
import random as random_module
from collections.abc import Mapping

from lbkit import Channel
from lbkit.backoff import Backoff, BackoffPolicy
from lbkit.clock import TimerHandle
from lbkit.errors import ResolverError
from lbkit.protos import etcd
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver, Sink
from lbkit.security import Tls
from lbkit.target import Target
from lbkit_resolvers.etcd.client import EtcdClient
from lbkit_resolvers.etcd.errors import EtcdError, Kind
from lbkit_resolvers.etcd.listing import Listing
from lbkit_resolvers.etcd.target import PARAMETERS, EtcdTarget
from lbkit_resolvers.etcd.watching import read_list, watch
from lbkit_resolvers.pacing import Pace
from lbkit_resolvers.records import Complaints, shown

_log = logging.getLogger("lbkit.resolver")

HELD_S = 10.0  # a watch that lasts so long means that all is well again

# How long to wait before the list is read again. Jittered widely: thousands of clients lose one member together.
_AT_ONCE = BackoffPolicy(initial_s=0.1, multiplier=2.0, jitter=0.5, maximum_s=5.0)
_SOON = BackoffPolicy(initial_s=0.2, jitter=0.5, maximum_s=1.0)
_LATER = BackoffPolicy(initial_s=0.5, multiplier=2.0, jitter=0.5, maximum_s=10.0)
_MUCH_LATER = BackoffPolicy(initial_s=40.0, maximum_s=60.0)  # 32 s at least
_WAITS: Mapping[Kind, BackoffPolicy] = {
    Kind.GONE: _AT_ONCE,
    Kind.MOVED: _AT_ONCE,
    Kind.STALE_TOKEN: _AT_ONCE,
    Kind.UNREACHABLE: _SOON,
    Kind.LEADERLESS: _SOON,
    Kind.TOO_MUCH: _LATER,
    Kind.USELESS: _LATER,
    Kind.DENIED: _MUCH_LATER,
    Kind.WRONG_PASSWORD: _MUCH_LATER,
    Kind.NO_PASSWORD: _MUCH_LATER,
}
# What etcd does in the course of its work: reported only when it happens again and again.
_USUAL = frozenset({Kind.GONE, Kind.MOVED, Kind.STALE_TOKEN})
_OTHER_MEMBER = frozenset({Kind.MOVED, Kind.UNREACHABLE, Kind.LEADERLESS, Kind.USELESS})


class EtcdResolver(Resolver):
    """Serves ``etcd://[user:password@]host:2379,host:2379/svc/foo?codec=etcd``: the records under ``svc/foo/``.

    It reads the list, and watches the prefix from the next revision on. Whatever ends the watch (compaction, a
    restart, a lost leader, a restored backup, silence) has one cure: read the list again, from another member. Until
    that has worked the last list stays. Only etcd itself, answering that there is nothing, empties it.

    Args:
        target: which service, and where; see docs/etcd.md for its parameters.
        tls: instead of what the target says of TLS.
        user: instead of the target's, with the password.
        password: of that user.
        channel: make calls on this one; the caller closes it. The hosts of the target are of no meaning then.

    Raises:
        TargetError: the target makes no sense.
    """

    parameters = PARAMETERS
    backoff: BackoffPolicy = _SOON

    def __init__(
        self,
        target: Target,
        *,
        tls: Tls | None = None,
        user: str = "",
        password: str = "",
        channel: Channel | None = None,
    ) -> None:
        super().__init__(target)
        self._where = EtcdTarget.read(target, tls=tls, user=user, password=password)
        self._channel = channel
        # The cluster and the newest revision that anybody was told of; stays when the channel is idle for a while.
        self._known = (0, 0)

    async def run(self, sink: Sink) -> None:
        """List and watch, again and again, until cancelled."""
        client = self._client(sink.random)
        following = _Following(self._where, client, sink, self._known)
        try:
            await following.run()
        finally:
            self._known = following.known
            following.close()
            await client.close()

    def _client(self, random: random_module.Random) -> EtcdClient:
        """Return what a run makes its calls with. The adapter of etcd3 has another."""
        return EtcdClient(self._where, channel=self._channel, random=random)


class _Following:
    """One run of the resolver."""

    def __init__(self, where: EtcdTarget, client: EtcdClient, sink: Sink, known: tuple[int, int]) -> None:
        self.known = known
        self._client = client
        self._prefix = where.prefix
        self._sink = sink
        self._listing = Listing(where.name, where.codec)
        self._pace = Pace(sink.clock, self._publish)
        self._complaints = Complaints(f"etcd keys {shown(where.prefix)}")
        self._stale = False
        self._listed = False  # something was published, stale or not
        self._unusable = ""  # what was said of a list without one good record
        # What is wrong since all was well, and whether it came out when watching, not when listing.
        self._trouble: tuple[Kind, bool] | None = None
        self._reported = False
        self._waits: dict[BackoffPolicy, Backoff] = {}
        self._well: TimerHandle | None = None

    async def run(self) -> None:
        """Follow the records; never returns."""
        while True:
            watching = False
            try:
                await self._list()
                watching = True
                self._well = self._sink.clock.call_at(self._sink.clock.time() + HELD_S, self._held)
                await watch(self._client, self._prefix, self._listing.revision, self._take)
            except EtcdError as error:
                self._stop_timer()
                self._pace.flush()  # what came before the error is not to look like the end of it
                self._report(error, watching=watching)
                if error.kind in _OTHER_MEMBER:
                    self._client.next_member()
                elif error.kind is Kind.STALE_TOKEN:
                    self._client.renew_token()
                if await self._sink.pause(self._wait(error.kind)):
                    self._waits.clear()
                    self._client.reset_backoff()

    def close(self) -> None:
        """Publish nothing more."""
        self._stop_timer()
        self._pace.close()

    async def _list(self) -> None:
        """Read the list from whoever has one: members that have no leader are passed over."""
        error: EtcdError | None = None
        for _ in range(self._client.members):
            try:
                await read_list(self._client, self._prefix, self._listing)
            except EtcdError as failed:
                if not failed.reached or failed.kind not in (Kind.LEADERLESS, Kind.UNREACHABLE):
                    raise
                error = failed
                self._client.next_member()
            else:
                self._compare()
                if self._trouble is not None and not self._trouble[1]:
                    self._trouble = None
                self._stale = False
                self._pace.changed()
                return
        assert error is not None, "there is no member"
        if not self._listed:
            await self._list_stale()
        raise error

    async def _list_stale(self) -> None:
        """Begin with what some member has, though it may be old: better than nothing."""
        listing = Listing(self._listing.name, self._listing.codec)
        for _ in range(self._client.members):
            try:
                await read_list(self._client, self._prefix, listing, stale=True)
            except EtcdError:
                self._client.next_member()
                continue
            found, known = (listing.cluster, listing.revision), self.known
            if known == (0, 0) or (found[0] == known[0] and found[1] >= known[1]):
                self._listing, self.known = listing, found
                self._stale = True
                self._pace.changed()
            return

    def _compare(self) -> None:
        """Take note of the revision. One from before what is known means that the store is another one."""
        cluster, revision = self._listing.cluster, self._listing.revision
        known_cluster, known_revision = self.known
        if known_cluster and cluster != known_cluster:
            _log.warning(
                "etcd %s: this is another cluster (id %x, before %x)",
                self._client.member,
                cluster,
                known_cluster,
            )
        elif revision < known_revision:
            _log.warning(
                "etcd %s: its revision went back from %d to %d: it was restored from a backup",
                self._client.member,
                known_revision,
                revision,
            )
        self.known = (cluster, revision)

    def _take(self, events: list[etcd.Event], revision: int) -> None:
        changed = self._listing.apply(events, revision)
        self.known = (self._listing.cluster, self._listing.revision)
        if changed:
            self._pace.changed()

    def _publish(self) -> None:
        view = self._listing.view()
        self._complaints.take(view.problems)
        where = f"etcd {self._client.member}"
        if view.problems and not view.endpoints:  # a wrong codec, most likely: no reason to call nobody
            key, reason = next(iter(view.problems.items()))
            text = f"{where}: none of {len(self._listing)} records can be used; {key}: {reason}"
            if text != self._unusable:
                self._sink.fail(ResolverError(text))
            self._unusable = text
            return
        self._unusable = ""
        self._listed = True
        source = f"{where}, revision {self._listing.revision}" + ", may be stale" * self._stale
        # If rejected: asking again changes nothing.
        self._sink.update(Resolution(view.endpoints, source=source))

    def _report(self, error: EtcdError, *, watching: bool) -> None:
        """Say what is wrong: once for each kind, until the list can be read, or the watch has held for a while."""
        trouble = (error.kind, watching)
        if error.kind in _USUAL and self._trouble is None:
            _log.info("%s", error)
            self._reported = False
        elif trouble != self._trouble or not self._reported:
            self._sink.fail(error)
            self._reported = True
        self._trouble = trouble

    def _held(self) -> None:
        """All is well."""
        self._well = None
        self._trouble = None
        self._waits.clear()

    def _wait(self, kind: Kind) -> float:
        policy = _WAITS[kind]
        backoff = self._waits.get(policy)
        if backoff is None:
            backoff = self._waits[policy] = Backoff(policy, self._sink.random)
        return backoff.next_delay()

    def _stop_timer(self) -> None:
        if self._well is not None:
            self._well.cancel()
            self._well = None
