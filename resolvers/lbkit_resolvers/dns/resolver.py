"""dns: every address of a name is a backend. The default scheme."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, NamedTuple

from lbkit.address import Address, Endpoint
from lbkit.errors import ResolverError, TargetError
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver, Sink, Target, authority_of
from lbkit_resolvers.dns.answers import NoSuchNameError
from lbkit_resolvers.dns.families import Families, in_order
from lbkit_resolvers.dns.hosts import HostsFile
from lbkit_resolvers.dns.services import Service
from lbkit_resolvers.dns.target import check_service, split_host, split_server
from lbkit_resolvers.parameters import choice, seconds
from lbkit_resolvers.static import ip_version

if TYPE_CHECKING:
    from lbkit_resolvers.dns.lookup import NameServers

_TTL_FLOOR_S, _TTL_CAP_S = 5.0, 3600.0  # of refresh=ttl
_SOONEST_S = 1.0  # however short a refresh is asked for
_JITTER = 0.1  # so that many clients that started together do not ask together
_VERSIONS = {"any": (4, 6), "4": (4,), "6": (6,)}


class System(NamedTuple):
    """What the machine knows by itself, and how long its name servers get; times in seconds."""

    hosts: str = "/etc/hosts"
    resolv_conf: str = "/etc/resolv.conf"
    port: int = 53
    try_s: float = 1.0  # for one server
    whole_s: float = 10.0  # for all, round and round
    grace_s: float = 2.0  # for the other family, once one has answered: more than one server's time


class DnsResolver(Resolver):
    """Serves ``dns:[//server[:53]/]host[:port]``, and targets without a scheme.

    A and AAAA records are asked for at the same time; each address is an endpoint of its own. They are asked for
    again every 30 s, and when a connection breaks. Names of the hosts file come from there.

    Parameters: ``refresh=30s`` (at least ``1s``; ``off`` for only when a connection breaks; ``ttl`` for when the
    records say), ``family=any|4|6``, ``search=on|off`` (whether to try the search domains of
    ``/etc/resolv.conf``; off, as the names of backends are whole names), ``srv=_grpc._tcp`` (hosts, ports and
    weights from the SRV records of ``_grpc._tcp.host``).

    Args:
        target: what to resolve.
        system: the files to read, and the time-outs.

    Raises:
        TargetError: the target makes no sense.
    """

    parameters = frozenset({"refresh", "family", "search", "srv"})

    def __init__(self, target: Target, *, system: System | None = None) -> None:
        super().__init__(target)
        self._system = system or System()
        self._host, self._port = split_host(target)
        given = target.parameters()
        self._refresh = given.get("refresh", "30s")
        self._refresh_s = (
            0.0
            if self._refresh in {"off", "ttl"}
            else seconds(target, "refresh", self._refresh, minimum=_SOONEST_S)
        )
        self._versions = _VERSIONS[choice(target, "family", given.get("family", "any"), tuple(_VERSIONS))]
        self._search = choice(target, "search", given.get("search", "off"), ("on", "off")) == "on"
        self._server = split_server(target) if target.authority else None
        version = ip_version(self._host)
        if version and version not in self._versions:
            raise TargetError(
                f"target {target.text!r} has an IPv{version} address, and family={given['family']}"
            )
        self._literal = version != 0
        self._hosts = HostsFile(self._system.hosts)
        self._families = Families(self._host, self._versions, self._system.grace_s)
        self._service: Service | None = None
        if "srv" in given:
            service = check_service(target, given["srv"])
            self._service = Service(f"{service}.{self._host}", self._versions, self._system.grace_s)
        self._servers: NameServers | None = None
        self._answered = False  # there was an answer with addresses

    @property
    def authority(self) -> str:
        """The host, with the port if the target names one."""
        path = self.target.path
        return authority_of(f"[{path}]" if ip_version(path) == 6 else path)

    async def run(self, sink: Sink) -> None:
        """Look the name up again and again; a literal address needs none of that.

        Raises:
            ResolverError: nobody could say where the name is, or the policy cannot use the answer.
        """
        if self._literal:
            sink.update(Resolution(self._endpoints((self._host,))))
            return
        while True:
            ttl_s = _TTL_FLOOR_S
            try:
                endpoints, ttl_s = await self._look_up()
            except NoSuchNameError as error:
                if not self._answered:
                    raise
                sink.fail(error)  # a name vanishes by mistake more often than all its backends do: keep them
            else:
                verdict = sink.update(Resolution(endpoints))
                if not verdict.accepted:
                    raise ResolverError(f"the answer for {self.target} was rejected: {verdict.reason}")
                self._answered = self._answered or bool(endpoints)
            await sink.wanted(refresh=self._pause(sink.random, ttl_s))

    async def _look_up(self) -> tuple[tuple[Endpoint, ...], float]:
        """Return the endpoints and how many seconds they hold."""
        if self._service is None and (local := await self._hosts.addresses(self._host, self._versions)):
            return self._endpoints(in_order(local)), _TTL_FLOOR_S
        if self._servers is None:
            self._servers = await asyncio.to_thread(self._name_servers)
        if self._service is not None:
            return await self._service.look_up(self._servers.ask)
        found = await self._families.look_up(self._servers.ask)
        return self._endpoints(found.records), found.ttl_s

    def _name_servers(self) -> NameServers:
        """Import what asks name servers; in a thread, as that takes a tenth of a second."""
        from lbkit_resolvers.dns.lookup import NameServers

        server, port = self._server or (None, self._system.port)
        return NameServers(
            server,
            port=port,
            resolv_conf=self._system.resolv_conf,
            search=self._search,
            try_s=self._system.try_s,
            whole_s=self._system.whole_s,
        )

    def _endpoints(self, addresses: tuple[str, ...]) -> tuple[Endpoint, ...]:
        return tuple(Endpoint(Address(address, self._port)) for address in addresses)

    def _pause(self, source: random.Random, ttl_s: float) -> float | None:
        """Return the seconds until the next look-up, or None to wait until one is asked for."""
        if self._refresh == "off":
            return None
        pause = min(max(ttl_s, _TTL_FLOOR_S), _TTL_CAP_S) if self._refresh == "ttl" else self._refresh_s
        return max(pause * source.uniform(1 - _JITTER, 1 + _JITTER), _SOONEST_S)
