"""SRV records: hosts, ports, priorities and weights of a service (RFC 2782)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from itertools import groupby
from math import inf
from typing import NamedTuple

from lbkit.address import Address, Endpoint
from lbkit.errors import ResolverError
from lbkit_resolvers.dns.answers import Ask, Found, Listed, NoSuchNameError
from lbkit_resolvers.dns.families import Families, backends_of
from lbkit_resolvers.dns.hold import Hold

_MAX_RECORDS = 64  # that are used of one service: each is a host to look up

_log = logging.getLogger("lbkit.resolver")


class _Record(NamedTuple):
    """One SRV record, in the order in which it is written."""

    priority: int
    weight: int
    port: int
    host: str


class Service:
    """Looks up the SRV records of one name and the addresses of the hosts that they name.

    Args:
        name: like ``_grpc._tcp.backend.example``.
        versions: 4, 6 or both.
        grace_s: as for ``Families``.
        hold_s: seconds that a record, or an address of a host, is kept after it was first missing.
        every_priority: whether hosts of all priorities are backends, or those of the best one that has addresses.

    Attributes:
        lacking: the last look-up did not get, for a reason that may pass, the addresses of a host of which none are known.
    """

    def __init__(
        self,
        name: str,
        versions: tuple[int, ...],
        grace_s: float,
        hold_s: float = 0.0,
        *,
        every_priority: bool = False,
    ) -> None:
        self.name = name
        self._versions = versions
        self._grace_s = grace_s
        self._hold_s = hold_s
        self._every_priority = every_priority
        self._records: Hold[tuple[str, int], _Record] = Hold(hold_s)
        self._hosts: dict[str, Families] = {}
        self._known: dict[str, Found] = {}  # the last good answer about each host
        self._complaints: dict[str, str] = {}  # by host; "" for the list itself
        self._priority = inf  # of the last list
        self.lacking = False

    @property
    def due_s(self) -> float:
        """When the next record or address that is missing is to go, on the clock of ``look_up``."""
        return min(self._records.due_s, min((host.due_s for host in self._hosts.values()), default=inf))

    async def look_up(self, ask: Ask, now_s: float) -> Listed:
        """Return the endpoints of the best priority that has any, or of all, each with its priority in ``metadata``.

        A host that cannot be looked up keeps its last addresses. Where none of the best priority can, another counts
        only if it is as good as that of the list that there is; at the start any is.

        Raises:
            NoSuchNameError: there is no such service.
            ResolverError: nobody could say which hosts there are, or where any of them is.
        """
        self.lacking = False
        found = await ask(self.name, "SRV")
        records = self._usable(found, now_s)
        hosts = {record.host for record in records}
        self._hosts = {
            host: self._hosts.get(host) or Families(host, self._versions, self._grace_s, self._hold_s)
            for host in hosts
        }
        self._known = {host: known for host, known in self._known.items() if host in hosts}
        self._complaints = {host: said for host, said in self._complaints.items() if host in hosts | {""}}
        failures: list[ResolverError] = []
        groups = [list(group) for _, group in groupby(records, key=lambda record: record.priority)]
        for group in [records] if self._every_priority else groups:
            trouble = [error for error in failures if not isinstance(error, NoSuchNameError)]
            answers = await self._addresses(sorted({record.host for record in group}), ask, now_s, failures)
            endpoints = _endpoints(group, answers)
            if endpoints:
                priority = group[0].priority
                if trouble and priority > self._priority:
                    raise trouble[0]  # that nobody could say where the best are does not make others the best
                self._priority = priority
                ttl_s = min(found.ttl_s, *(answer.ttl_s for answer in answers.values()))
                return Listed(endpoints, ttl_s, found.server)
        if failures:
            raise min(failures, key=lambda error: isinstance(error, NoSuchNameError))  # the one that may pass
        self._priority = inf
        return Listed((), found.ttl_s, found.server)

    def _usable(self, found: Found, now_s: float) -> list[_Record]:
        """Return the records in order, without those that name no place to connect to, and no more than are allowed."""
        # What is named twice counts where it comes first, in whatever order the answer has it.
        named = sorted(map(_parsed, found.records), reverse=True)
        seen = {(record.host, record.port): record for record in named}
        # "." means that the service is expressly not offered; nobody can connect to port 0
        some = [each for each in self._records.keep(seen, now_s).values() if each.host != "." and each.port]
        if len(some) > _MAX_RECORDS:
            self._complain("", f"{len(some)} SRV records, of which the first {_MAX_RECORDS} are used")
        else:
            self._complaints.pop("", None)
        return sorted(some)[:_MAX_RECORDS]

    async def _addresses(
        self, hosts: list[str], ask: Ask, now_s: float, failures: list[ResolverError]
    ) -> dict[str, Found]:
        """Look up all hosts of a group at the same time."""
        async with asyncio.TaskGroup() as group:
            tasks = {host: group.create_task(self._outcome(host, ask, now_s)) for host in hosts}
        answers: dict[str, Found] = {}
        for host, task in tasks.items():
            outcome = task.result()
            if isinstance(outcome, Found):
                answers[host] = self._known[host] = outcome
                self._complaints.pop(host, None)
                continue
            failures.append(outcome)
            self._complain(host, f"one host of it: {outcome}")
            if host in self._known:
                answers[host] = self._known[host]
            elif not isinstance(outcome, NoSuchNameError):
                self.lacking = True
        return answers

    def _complain(self, host: str, said: str) -> None:
        """Log it once, as it may stay so for ever."""
        if self._complaints.get(host) != said:
            self._complaints[host] = said
            _log.warning("%s: %s", self.name, said)

    async def _outcome(self, host: str, ask: Ask, now_s: float) -> Found | ResolverError:
        try:
            return await self._hosts[host].look_up(ask, now_s)
        except ResolverError as error:
            return error


def _endpoints(records: list[_Record], answers: dict[str, Found]) -> tuple[Endpoint, ...]:
    """Make endpoints of records, in their order; what is named twice counts where it comes first."""
    endpoints: dict[Hashable, Endpoint] = {}
    for record in records:
        backends = backends_of(answers[record.host].records) if record.host in answers else ()
        for addresses in backends:
            endpoint = Endpoint(
                [Address(address, record.port) for address in addresses],
                # The share of a host is divided between its backends. A weight of 0 means "hardly any" beside others.
                weight=max(record.weight, 1) / len(backends),
                metadata={"priority": str(record.priority)},
            )
            endpoints.setdefault(endpoint.identity, endpoint)
    return tuple(endpoints.values())


def _parsed(text: str) -> _Record:
    priority, weight, port, host = text.split()  # the host with its last dot: no search domain is for it
    return _Record(int(priority), int(weight), int(port), host.lower())
