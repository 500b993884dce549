"""Questions to name servers, through dnspython. Imported on first use: it takes a tenth of a second."""

from __future__ import annotations

import asyncio
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.resolver

from lbkit.errors import ResolverError
from lbkit_resolvers.dns.answers import Found, NoSuchNameError
from lbkit_resolvers.watched import Stamp, stamp_of


class NameServers:
    """The name servers to ask, and which of them answered last.

    Args:
        server: the one to ask, an IP literal; None for those of ``resolv_conf``, read again when it changes.
        port: where they listen.
        resolv_conf: the path of the system's list of name servers.
        search: whether to try names with the search domains of ``resolv_conf``.
        try_s: seconds that each server gets before the next is asked.
        whole_s: seconds for a look-up altogether; the servers are asked round and round until then.
    """

    def __init__(
        self, server: str | None, *, port: int, resolv_conf: str, search: bool, try_s: float, whole_s: float
    ) -> None:
        self._server = server
        self._port = port
        self._resolv_conf = resolv_conf
        self._search = search
        self._try_s = try_s
        self._whole_s = whole_s
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._stamp: Stamp | None = None

    async def ask(self, name: str, kind: str) -> Found:
        """Look up the records of one kind (``A``, ``AAAA``, ``SRV``).

        Raises:
            NoSuchNameError: there is no such name.
            ResolverError: nobody could say.
        """
        resolver = await self._current(name)
        try:
            answer = await resolver.resolve(name, kind, raise_on_no_answer=False, search=self._search)
        except dns.resolver.NXDOMAIN:
            hint = "" if self._search else "; search domains are tried only with ?search=on"
            raise NoSuchNameError(
                f"there is no name {name!r} in DNS (asked {self._asked(resolver)}); check its spelling{hint}"
            ) from None
        except dns.exception.DNSException as error:
            raise ResolverError(
                f"look-up of {kind} {name!r} failed: {_describe(error)} (asked {self._asked(resolver)}); check that "
                f"the name server works, or choose another: dns://10.0.0.53/{name}"
            ) from None
        _prefer(resolver, answer.nameserver)
        records = tuple(record.to_text() for record in answer.rrset or ())
        return Found(records, float(answer.chaining_result.minimum_ttl))

    async def _current(self, name: str) -> dns.asyncresolver.Resolver:
        """Return what asks the servers, of the present list of them.

        Raises:
            ResolverError: there is none.
        """
        if self._server is not None:
            if self._resolver is None:
                self._resolver = self._configured(dns.asyncresolver.Resolver(configure=False))
                self._resolver.nameservers = [self._server]
            return self._resolver
        try:
            stamp = stamp_of(self._resolv_conf)
            if self._resolver is None or stamp != self._stamp:
                self._resolver = self._configured(
                    await asyncio.to_thread(dns.asyncresolver.Resolver, self._resolv_conf)
                )
                self._stamp = stamp
        except (dns.exception.DNSException, OSError, ValueError) as error:
            if self._resolver is None:  # else it is being written just now, or was removed by mistake
                raise ResolverError(
                    f"no name server to ask about {name!r}: {self._resolv_conf}: {error}; choose one: dns://10.0.0.53/{name}"
                ) from None
        return self._resolver

    def _configured(self, resolver: dns.asyncresolver.Resolver) -> dns.asyncresolver.Resolver:
        resolver.port = self._port
        resolver.timeout = self._try_s
        resolver.lifetime = self._whole_s
        resolver.rotate = False  # it would shuffle away who answers: see _prefer
        return resolver

    def _asked(self, resolver: dns.asyncresolver.Resolver) -> str:
        servers = map(str, resolver.nameservers)
        return ", ".join(
            f"[{each}]:{self._port}" if ":" in each else f"{each}:{self._port}" for each in servers
        )


def _prefer(resolver: dns.asyncresolver.Resolver, server: str | None) -> None:
    """Ask the server that answered first next time, so that a dead one costs its time-out once."""
    servers = list(resolver.nameservers)
    if server in servers[1:]:
        servers.remove(server)
        resolver.nameservers = [server, *servers]


def _describe(error: dns.exception.DNSException) -> str:
    """Say what each server did, in order and once."""
    told: dict[str, None] = {}
    errors: list[tuple[Any, ...]] = error.kwargs.get("errors", [])
    for server, _, _, what, _ in errors:
        if isinstance(what, dns.exception.Timeout):
            did = " did not answer in time"
        elif isinstance(what, Exception):
            did = f": {str(what) or type(what).__name__}"
        else:  # the name of an error code
            did = f" said {what}"
        told[str(server).removeprefix("Do53:").replace("@", ":") + did] = None
    return ", ".join(told) or str(error)
