"""The IPv4 and IPv6 addresses of a name: asked for at the same time, and put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping
from ipaddress import ip_address
from itertools import chain, zip_longest

from lbkit.errors import ResolverError
from lbkit_resolvers.dns.answers import Ask, Found, NoSuchNameError
from lbkit_resolvers.dns.hold import Hold
from lbkit_resolvers.static import ip_version

KINDS = {4: "A", 6: "AAAA"}

_log = logging.getLogger("lbkit.resolver")


class Families:
    """Looks up the addresses of one name, and remembers the last good answer of each IP version.

    Args:
        name: what to look up.
        versions: 4, 6 or both.
        grace_s: seconds that the other version gets when one has addresses: a name server or firewall that
            swallows one kind of question must not hold up the other.
        hold_s: seconds that an address is kept after it was first missing.
    """

    def __init__(self, name: str, versions: tuple[int, ...], grace_s: float, hold_s: float = 0.0) -> None:
        self.name = name
        self._versions = versions
        self._grace_s = grace_s
        self._known: dict[int, Found] = {}
        self._hold: Hold[str, None] = Hold(hold_s)
        self._complaint = ""

    @property
    def due_s(self) -> float:
        """When the next address that is missing is to go, on the clock of ``look_up``; infinity if none is."""
        return self._hold.due_s

    async def look_up(self, ask: Ask, now_s: float) -> Found:
        """Return all addresses, in an order that depends on nothing but them; none if all say that there are none.

        A version that could not be had, while the other could, keeps its last good addresses.

        Raises:
            NoSuchNameError: there is no such name.
            ResolverError: no addresses, and at least one of the questions was not answered.
        """
        outcomes = await self._ask_all(ask)
        found = {version: each for version, each in outcomes.items() if isinstance(each, Found)}
        failures = [each for each in outcomes.values() if isinstance(each, ResolverError)]
        if failures and not any(each.records for each in found.values()):
            raise min(failures, key=lambda error: isinstance(error, NoSuchNameError))  # the one that may pass
        self._complain(failures)
        for version, outcome in outcomes.items():
            if isinstance(outcome, Found):
                self._known[version] = outcome
            elif isinstance(outcome, NoSuchNameError):  # and yet the other version has it: there are none
                self._known.pop(version, None)
        ttl_s = min(each.ttl_s for each in found.values())
        server = next(iter(found.values())).server
        seen = {record: None for each in self._known.values() for record in each.records}
        return Found(in_order(self._hold.keep(seen, now_s)), ttl_s, server)

    async def _ask_all(self, ask: Ask) -> Mapping[int, Found | ResolverError]:
        tasks = {
            version: asyncio.ensure_future(_outcome(ask(self.name, KINDS[version])))
            for version in self._versions
        }
        try:
            done, waiting = await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            if waiting:
                enough = any(isinstance(each := task.result(), Found) and each.records for task in done)
                await asyncio.wait(waiting, timeout=self._grace_s if enough else None)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return {
            version: ResolverError(
                f"no answer to {KINDS[version]} {self.name!r}, {self._grace_s:g} s after the other"
            )
            if task.cancelled()
            else task.result()
            for version, task in tasks.items()
        }

    def _complain(self, failures: list[ResolverError]) -> None:
        """Log what did not keep the name from having addresses: once, as it may stay so for ever."""
        complaint = "; ".join(map(str, failures))
        if complaint and complaint != self._complaint:
            _log.warning("going on without it: %s", complaint)
        self._complaint = complaint


async def _outcome(answer: Awaitable[Found]) -> Found | ResolverError:
    try:
        return await answer
    except ResolverError as error:
        return error


def in_order(addresses: Iterable[str]) -> tuple[str, ...]:
    """Sort, so that an equal set is an equal answer, and take IPv4 and IPv6 in turn (gRFC A61).

    IPv4 first: hosts without a route for IPv6 are more common than hosts without one for IPv4.
    """
    known = sorted({(ip.version, int(ip), str(ip)) for ip in map(ip_address, addresses)})
    families = ([text for version, _, text in known if version == wanted] for wanted in (4, 6))
    return tuple(each for each in chain.from_iterable(zip_longest(*families)) if each is not None)


def backends_of(addresses: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Tell which addresses of one name belong together: one of each family is one backend with two (gRFC A61).

    Of more addresses nobody can say which of them are the same backend: each is one.
    """
    if len(addresses) == 2 and ip_version(addresses[0]) != ip_version(addresses[1]):
        return (addresses,)
    return tuple((address,) for address in addresses)
