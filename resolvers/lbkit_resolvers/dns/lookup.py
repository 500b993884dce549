"""Questions to name servers, through dnspython. Imported on first use: it takes a tenth of a second."""

from __future__ import annotations

import asyncio
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdata
import dns.rdtypes.txtbase
import dns.resolver

from lbkit.errors import ResolverError
from lbkit_resolvers.dns.answers import Found, NoSuchNameError
from lbkit_resolvers.watched import Stamp, stamp_of


class NameServers:
    """The name servers to ask, and which of them answered last.

    Args:
        servers: those to ask, as IP literal and port; empty for those of ``resolv_conf``, read again when it changes.
        port: where those of ``resolv_conf`` listen.
        resolv_conf: the path of the system's list of name servers.
        search: whether to try names with the search domains of ``resolv_conf``.
        try_s: seconds that each server gets before the next is asked.
        again_s: seconds after which they are asked once more, when all gave up and one at least for now (SERVFAIL).
        whole_s: seconds for a look-up altogether; the servers are asked round and round until then.
    """

    def __init__(
        self,
        servers: tuple[tuple[str, int], ...] = (),
        *,
        port: int,
        resolv_conf: str,
        search: bool,
        try_s: float,
        again_s: float,
        whole_s: float,
    ) -> None:
        self._servers = servers
        self._port = port
        self._resolv_conf = resolv_conf
        self._search = search
        self._try_s = try_s
        self._again_s = again_s
        self._whole_s = whole_s
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._stamp: Stamp | None = None

    async def ask(self, name: str, kind: str) -> Found:
        """Look up the records of one kind (``A``, ``AAAA``, ``SRV``, ``TXT``).

        Raises:
            NoSuchNameError: there is no such name.
            ResolverError: nobody could say.
        """
        resolver = await self._current(name)
        try:
            answer = await self._resolve(resolver, name, kind)
        except dns.resolver.NXDOMAIN:
            hint = "" if self._search else "; search domains are tried only with ?search=on"
            raise NoSuchNameError(
                f"there is no name {name!r} in DNS (asked {_asked(resolver)}); check its spelling{hint}"
            ) from None
        except dns.exception.DNSException as error:
            raise ResolverError(
                f"look-up of {kind} {name!r} failed: {_describe(error)} (asked {_asked(resolver)}); check that "
                f"the name server works, or choose another: dns://10.0.0.53/{name}"
            ) from None
        _prefer(resolver, answer.nameserver, answer.port)
        records = tuple(_text(record) for record in answer.rrset or ())
        server = _written(answer.nameserver or "", answer.port or 0)
        return Found(records, float(answer.chaining_result.minimum_ttl), server)

    async def _resolve(
        self, resolver: dns.asyncresolver.Resolver, name: str, kind: str
    ) -> dns.resolver.Answer:
        """Ask the servers; once more if what went wrong may be over in a moment.

        Raises:
            DNSException: no answer.
        """
        clock = asyncio.get_running_loop()
        until = clock.time() + self._whole_s
        try:
            return await resolver.resolve(name, kind, raise_on_no_answer=False, search=self._search)
        except dns.resolver.NoNameservers as error:
            if not any(what == "SERVFAIL" for _, _, _, what, _ in error.kwargs["errors"]):
                raise
        await asyncio.sleep(self._again_s)
        left_s = max(until - clock.time(), self._try_s)
        return await resolver.resolve(
            name, kind, raise_on_no_answer=False, search=self._search, lifetime=left_s
        )

    async def _current(self, name: str) -> dns.asyncresolver.Resolver:
        """Return what asks the servers, of the present list of them.

        Raises:
            ResolverError: there is none.
        """
        if self._servers:
            if self._resolver is None:
                self._resolver = self._configured(dns.asyncresolver.Resolver(configure=False))
                self._resolver.nameservers = [dns.nameserver.Do53Nameserver(*each) for each in self._servers]
            return self._resolver
        try:
            stamp = stamp_of(self._resolv_conf)
            if self._resolver is None or stamp != self._stamp:
                read = self._configured(
                    await asyncio.to_thread(dns.asyncresolver.Resolver, self._resolv_conf)
                )
                read.nameservers = [
                    dns.nameserver.Do53Nameserver(str(each), self._port) for each in read.nameservers
                ]
                self._resolver, self._stamp = read, stamp
        except (dns.exception.DNSException, OSError, ValueError) as error:
            if self._resolver is None:  # else it is being written just now, or was removed by mistake
                raise ResolverError(
                    f"no name server to ask about {name!r}: {self._resolv_conf}: {error}; choose one: dns://10.0.0.53/{name}"
                ) from None
        return self._resolver

    def _configured(self, resolver: dns.asyncresolver.Resolver) -> dns.asyncresolver.Resolver:
        resolver.timeout = self._try_s
        resolver.lifetime = self._whole_s
        resolver.rotate = False  # it would shuffle away who answers: see _prefer
        return resolver


def _prefer(resolver: dns.asyncresolver.Resolver, address: str | None, port: int | None) -> None:
    """Ask the server that answered first next time, so that a dead one costs its time-out once."""
    # Sorting is stable: the others keep their order.
    resolver.nameservers = sorted(resolver.nameservers, key=lambda each: _place(each) != (address, port))


def _place(server: object) -> tuple[str, int]:
    assert isinstance(server, dns.nameserver.Do53Nameserver), "_current makes no others"
    return server.address, server.port


def _written(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _asked(resolver: dns.asyncresolver.Resolver) -> str:
    return ", ".join(_written(*_place(each)) for each in resolver.nameservers)


def _text(record: dns.rdata.Rdata) -> str:
    """Return the data of a record; of TXT its strings put together, for they are cut where the format wants it."""
    if isinstance(record, dns.rdtypes.txtbase.TXTBase):
        return b"".join(record.strings).decode("utf-8", "backslashreplace")
    return record.to_text()


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
