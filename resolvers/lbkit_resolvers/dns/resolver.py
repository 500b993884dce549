"""dns: every address of a name is a backend. The default scheme."""

from __future__ import annotations

import asyncio
import socket
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from lbkit.address import Address, Endpoint
from lbkit.backoff import Backoff, BackoffPolicy
from lbkit.errors import ResolverError
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver, Sink, authority_of
from lbkit.target import Target
from lbkit_resolvers.dns.answers import Ask, Listed, NoSuchNameError
from lbkit_resolvers.dns.config import TextConfig
from lbkit_resolvers.dns.families import Families, backends_of, in_order
from lbkit_resolvers.dns.hosts import HostsFile
from lbkit_resolvers.dns.options import PARAMETERS, SOONEST_S, Options
from lbkit_resolvers.dns.services import Service
from lbkit_resolvers.static import ip_version

if TYPE_CHECKING:
    from lbkit_resolvers.dns.lookup import NameServers

_TTL_FLOOR_S, _TTL_CAP_S = 5.0, 3600.0  # of refresh=ttl
_JITTER = 0.1  # so that many clients that started together do not ask together


class System(NamedTuple):
    """What the machine knows by itself, and how long its name servers get; times in seconds."""

    hosts: str = "/etc/hosts"
    resolv_conf: str = "/etc/resolv.conf"
    port: int = 53
    try_s: float = 1.0  # for one server
    again_s: float = 0.5  # after which all that failed are asked once more, if that may help
    whole_s: float = 10.0  # for all, round and round
    # For the other family, or TXT, once there are addresses: more than one server's time.
    grace_s: float = 2.0
    hostname: str = ""  # for TXT records that choose by it; empty for the machine's


class DnsResolver(Resolver):
    """Serves ``dns:[//server[:53][,server[:53]]/]host[:port]``, and targets without a scheme.

    A and AAAA records are asked for at the same time. One address of each family is one backend with two addresses;
    of more addresses each is a backend of its own. They are asked for again every 30 s, and when a connection breaks.
    Names of the hosts file come from there.

    Parameters: ``refresh=30s`` (at least ``1s``; ``off`` for only when a connection breaks; ``ttl`` for when the
    records say), ``family=any|4|6``, ``search=off|on`` (whether to try the search domains of
    ``/etc/resolv.conf``; off, as the names of backends are whole names), ``srv=_grpc._tcp`` (hosts, ports,
    priorities and weights from the SRV records of ``_grpc._tcp.host``), ``priority=best|all`` of these,
    ``txt=off|on`` (the service config from TXT records, gRFC A2), ``hold=0s`` (how long an address that is missing
    from an answer is kept).

    Args:
        target: what to resolve.
        system: the files to read, and the time-outs.

    Raises:
        TargetError: the target makes no sense.
    """

    parameters = PARAMETERS

    def __init__(self, target: Target, *, system: System | None = None) -> None:
        super().__init__(target)
        self._system = system or System()
        self._options = options = Options.of(target)
        if options.refresh_s is not None:  # who is asked so often anyhow may be asked as often when it fails
            self.backoff = BackoffPolicy(maximum_s=min(options.refresh_s, BackoffPolicy().maximum_s))
        about = options.versions, self._system.grace_s, options.hold_s
        self._hosts = HostsFile(self._system.hosts)
        self._families = Families(options.host, *about)
        self._service: Service | None = None
        if options.service:
            name = f"{options.service}.{options.host}"
            self._service = Service(name, *about, every_priority=options.every_priority)
        self._servers: NameServers | None = None
        self._config: TextConfig | None = None
        if options.txt:
            hostname = self._system.hostname or socket.gethostname()
            self._config = TextConfig(options.host, hostname, self._system.grace_s)
        self._answered = False  # there was an answer with addresses

    @property
    def authority(self) -> str:
        """The host, with the port if the target names one."""
        path = self.target.path
        return authority_of(f"[{path}]" if ip_version(path) == 6 else path)

    async def run(self, sink: Sink) -> None:
        """Look the name up again and again; a literal address needs none of that, nor TXT or SRV (gRFC A10).

        Raises:
            ResolverError: nobody could say where the name is, or the policy cannot use the answer.
        """
        if ip_version(self._options.host):
            sink.update(Resolution(self._endpoints((self._options.host,)), source="the target itself"))
            return
        backoff = Backoff(self.backoff, sink.random)
        while True:
            ttl_s = _TTL_FLOOR_S
            try:
                resolution, ttl_s = await self._look_up(sink)
            except NoSuchNameError as error:
                if not self._answered:
                    raise
                sink.fail(error)  # a name vanishes by mistake more often than all its backends do: keep them
            else:
                verdict = sink.update(resolution)
                if not verdict.accepted:
                    raise ResolverError(f"the answer for {self.target} was rejected: {verdict.reason}")
                self._answered = self._answered or bool(resolution.endpoints)
            await sink.wanted(refresh=self._pause(sink, ttl_s, backoff))

    async def _look_up(self, sink: Sink) -> tuple[Resolution, float]:
        """Return the answer and how many seconds it holds."""
        options = self._options
        if self._service is None:
            local = await self._hosts.addresses(options.host, options.versions)
            if local:
                source = f"this machine ({self._system.hosts})"
                return Resolution(self._endpoints(in_order(local)), source=source), _TTL_FLOOR_S
        if self._servers is None:
            self._servers = await asyncio.to_thread(self._name_servers)
        ask: Ask = self._servers.ask
        addresses, config = self._list(ask, sink.clock.time()), None
        if self._config is None:
            listed = await addresses
        else:
            listed, config = await self._config.beside(addresses, ask, sink.random)
        source = f"dns {listed.server}, TTL {listed.ttl_s:.0f} s"
        return Resolution(listed.endpoints, config, source=source), listed.ttl_s

    async def _list(self, ask: Ask, now_s: float) -> Listed:
        if self._service is not None:
            return await self._service.look_up(ask, now_s)
        found = await self._families.look_up(ask, now_s)
        return Listed(self._endpoints(found.records), found.ttl_s, found.server)

    def _name_servers(self) -> NameServers:
        """Import what asks name servers; in a thread, as that takes a tenth of a second."""
        from lbkit_resolvers.dns.lookup import NameServers

        options, system = self._options, self._system
        return NameServers(
            options.servers,
            port=system.port,
            resolv_conf=system.resolv_conf,
            search=options.search,
            try_s=system.try_s,
            again_s=system.again_s,
            whole_s=system.whole_s,
        )

    def _endpoints(self, addresses: tuple[str, ...]) -> tuple[Endpoint, ...]:
        port = self._options.port
        return tuple(
            Endpoint([Address(each, port) for each in backend]) for backend in backends_of(addresses)
        )

    def _pause(self, sink: Sink, ttl_s: float, backoff: Backoff) -> float | None:
        """Return the seconds until the next look-up, or None to wait until one is asked for."""
        options = self._options
        whole_s = min(max(ttl_s, _TTL_FLOOR_S), _TTL_CAP_S) if options.by_ttl else options.refresh_s
        pause = inf if whole_s is None else whole_s * sink.random.uniform(1 - _JITTER, 1 + _JITTER)
        held_s = (self._service or self._families).due_s - sink.clock.time()
        if held_s > 0:  # what is held goes then; it is past due if there was no answer to tell
            pause = min(pause, held_s)
        if self._service is None or not self._service.lacking:
            backoff.reset()
        else:  # the rest of the list is in use; what it lacks is asked for as after a failure
            pause = min(pause, backoff.next_delay())
        return None if pause == inf else max(pause, SOONEST_S)
