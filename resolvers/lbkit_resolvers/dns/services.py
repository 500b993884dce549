"""SRV records: hosts, ports, priorities and weights of a service (RFC 2782)."""

from __future__ import annotations

import asyncio
import logging
from itertools import groupby
from typing import NamedTuple

from lbkit.address import Address, Endpoint
from lbkit.errors import ResolverError
from lbkit_resolvers.dns.answers import Found
from lbkit_resolvers.dns.families import Ask, Families

_MAX_HOSTS = 64  # looked up for one service

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
    """

    def __init__(self, name: str, versions: tuple[int, ...], grace_s: float) -> None:
        self.name = name
        self._versions = versions
        self._grace_s = grace_s
        self._hosts: dict[str, Families] = {}
        self._known: dict[str, Found] = {}  # the last good answer about each host
        self._complaints: dict[str, str] = {}

    async def look_up(self, ask: Ask) -> tuple[tuple[Endpoint, ...], float]:
        """Return the endpoints of the best priority that has any, and the seconds that they hold.

        A host that cannot be looked up keeps its last addresses.

        Raises:
            NoSuchNameError: there is no such service.
            ResolverError: nobody could say which hosts there are, or where any of them is.
        """
        found = await ask(self.name, "SRV")
        # "." means that the service is expressly not offered
        records = sorted(record for record in map(_parsed, found.records) if record.host != ".")[:_MAX_HOSTS]
        hosts = {record.host for record in records}
        self._hosts = {
            host: self._hosts.get(host) or Families(host, self._versions, self._grace_s) for host in hosts
        }
        self._known = {host: known for host, known in self._known.items() if host in hosts}
        self._complaints = {host: said for host, said in self._complaints.items() if host in hosts}
        failures: list[ResolverError] = []
        for _, group in groupby(records, key=lambda record: record.priority):
            best = list(group)
            answers = await self._addresses(sorted({record.host for record in best}), ask, failures)
            endpoints = [
                # The share of a host is divided between its addresses. A weight of 0 means "hardly any" beside others.
                Endpoint(
                    Address(address, record.port),
                    weight=max(record.weight, 1) / len(answers[record.host].records),
                )
                for record in best
                if record.host in answers
                for address in answers[record.host].records
            ]
            if endpoints:
                return tuple(endpoints), min(found.ttl_s, *(answer.ttl_s for answer in answers.values()))
        if failures:
            raise failures[0]
        return (), found.ttl_s

    async def _addresses(self, hosts: list[str], ask: Ask, failures: list[ResolverError]) -> dict[str, Found]:
        """Look up all hosts of one priority at the same time."""
        async with asyncio.TaskGroup() as group:
            tasks = {host: group.create_task(self._outcome(host, ask)) for host in hosts}
        answers: dict[str, Found] = {}
        for host, task in tasks.items():
            outcome = task.result()
            if isinstance(outcome, Found):
                answers[host] = self._known[host] = outcome
                self._complaints.pop(host, None)
                continue
            failures.append(outcome)
            if self._complaints.get(host) != str(outcome):  # once, as it may stay so for ever
                self._complaints[host] = str(outcome)
                _log.warning("one host of %s: %s", self.name, outcome)
            if host in self._known:
                answers[host] = self._known[host]
        return answers

    async def _outcome(self, host: str, ask: Ask) -> Found | ResolverError:
        try:
            return await self._hosts[host].look_up(ask)
        except ResolverError as error:
            return error


def _parsed(text: str) -> _Record:
    priority, weight, port, host = text.split()
    return _Record(int(priority), int(weight), int(port), host if host == "." else host.removesuffix("."))
