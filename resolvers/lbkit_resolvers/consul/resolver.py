"""consul: the backends are the instances of a service, followed by blocking queries."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import Any

from lbkit.address import Endpoint
from lbkit.backoff import BackoffPolicy
from lbkit.errors import ResolverError
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver, Sink
from lbkit.target import Target
from lbkit_resolvers.consul.agent import Agent, AgentError, Answer
from lbkit_resolvers.consul.nodes import nodes_of
from lbkit_resolvers.consul.queries import Bucket, EmptyGuard, Worth, answer_limit_s, worth_of
from lbkit_resolvers.consul.reach import Reach
from lbkit_resolvers.consul.target import OF_RESOLVERS, public, query_of, readable
from lbkit_resolvers.records import Complaints

_REFUSED = {401, 403}  # a token gets no better by asking again soon
_FILTERED = "x-consul-results-filtered-by-acls"  # Consul 1.12 and later, and only to who has a token
_REFUSED_S = 30.0
_SPREAD = 0.2  # of that, both ways: not all clients at once
_MIN_WAIT_S = 1.0  # of a query that ends with the guard
# Of the first query behind a pause. An agent that was restarted in the pause, which nobody noticed, lets a query with an
# index that it has yet to reach wait to the end.
_FIRST_WAIT_S = 2.0


class ConsulResolver(Resolver):
    """Serves ``consul://[user:password@]host[:8500]/service?tag=..&healthy=true&wait=60s``: see docs/consul.md.

    Every change arrives at once, in a query that blocks until there is one. What fails changes nothing; a service that
    Consul does not know has no backends.

    Args:
        target: as text or taken apart.
        client: your own ``consul.aio.Consul``, which must belong to the channel's event loop, or ``consul.Consul`` of
            py-consul or python-consul, which is used in a thread. It stays open. The target is then ``consul:///service``.

    Raises:
        TargetError: the target makes no sense.
        ImportError: there is neither a client nor py-consul.
    """

    parameters = None  # checked here: the errors of others would show the token

    def __init__(self, target: Target | str, *, client: Any = None) -> None:
        target = readable(target, OF_RESOLVERS, "resolver")
        super().__init__(public(target))
        self._reach = Reach(target, client)
        self._timeout_s = self._reach.address.timeout_s
        self._query = query_of(target)
        most_s = self._query.max_backoff_s
        self.backoff = BackoffPolicy(initial_s=min(0.2, most_s), maximum_s=most_s)
        self._guard = EmptyGuard(self._query.guard_s)
        self._complaints = Complaints(str(self.target))
        self._seed: bytes | None = None
        self._answered = False  # in this run or in one before

    async def run(self, sink: Sink) -> None:
        """Ask, publish, and ask for what comes after it."""
        agent = await self._reach.agent(answer_limit_s(self._query.wait_s, self._timeout_s) + 1.0)
        try:
            await _Run(self, agent, sink).follow()
        except (AgentError, ResolverError) as error:
            self._guard.lost()
            raise ResolverError(str(error)) from None
        finally:
            await agent.close()

    def _chosen(self, endpoints: tuple[Endpoint, ...], sink: Sink) -> tuple[Endpoint, ...]:
        """Keep ``limit`` of them: the nearest, or some that differ from client to client and stay the same."""
        limit = self._query.limit
        if not limit or len(endpoints) <= limit:
            return endpoints
        if self._query.near:
            return endpoints[:limit]
        seed = self._seed = self._seed or sink.random.randbytes(8)

        def rank(endpoint: Endpoint) -> bytes:
            return blake2b(str(endpoint).encode(), key=seed, digest_size=8).digest()

        kept = set(sorted(endpoints, key=rank)[:limit])
        return tuple(endpoint for endpoint in endpoints if endpoint in kept)


class _Run:
    """One run of a resolver: what it knows from one query to the next."""

    def __init__(self, resolver: ConsulResolver, agent: Agent, sink: Sink) -> None:
        self._resolver = resolver
        self._query = resolver._query
        self._agent = agent
        self._sink = sink
        self._bucket = Bucket()
        self._index = 0
        self._consistency = self._query.consistency
        self._wait_s = self._query.wait_s

    async def follow(self) -> None:
        """Ask for ever.

        Raises:
            AgentError, ResolverError: there was no answer of use. The next run begins without an index, as the agent may
                have started over, and an error's index is none.
        """
        while True:
            pause_s = self._bucket.take(self._sink.clock.time())
            await asyncio.sleep(pause_s)
            answer = await self._ask(min(self._wait_s, _FIRST_WAIT_S) if pause_s else self._wait_s)
            try:
                self._check(answer)
            except AgentError as error:
                if error.status not in _REFUSED:
                    raise
                self._sink.fail(ResolverError(str(error)))
                await self._sink.pause(_REFUSED_S * self._sink.random.uniform(1 - _SPREAD, 1 + _SPREAD))
                self._index = 0
            else:
                await self._take(answer, worth_of(answer.headers, self._index))

    async def _ask(self, most_s: float) -> Answer:
        """Ask; with an index, the agent may think about it for that long."""
        query = self._query
        parameters = [("tag", tag) for tag in query.tags]
        if query.healthy == "true":
            parameters.append(("passing", "1"))
        if query.near:
            parameters.append(("near", query.near))
        if query.dc:
            parameters.append(("dc", query.dc))
        if self._consistency:
            parameters.append((self._consistency, "1"))
        wait_s = 0.0
        if self._index:
            wait_s = min(most_s, self._agent.longest_wait_s)
            parameters += [("index", str(self._index)), ("wait", f"{wait_s * 1000:.0f}ms")]
        return await self._agent.get(
            f"/v1/health/service/{self._resolver.target.path}",
            parameters,
            timeout_s=answer_limit_s(wait_s, self._resolver._timeout_s),
        )

    def _check(self, answer: Answer) -> None:
        """See that the answer is one: a list that is empty for the token's sake says nothing about the service.

        Raises:
            AgentError: it is none.
        """
        self._agent.check(answer)
        if answer.headers.get(_FILTERED) == "true" and not answer.body.strip("[] \t\r\n"):
            raise AgentError(
                f"consul {self._agent.where} hides all instances of {self._resolver.target.path!r}: "
                "the token may not read the service, or its nodes",
                403,
            )

    async def _take(self, answer: Answer, worth: Worth) -> None:
        """Publish an answer, or say why not."""
        query = self._query
        where = f"consul {self._agent.where}"
        try:
            nodes = await nodes_of(answer.body, sort=not query.near)
        except ResolverError as error:
            raise ResolverError(f"{where}: {error}") from None
        self._resolver._complaints.take(nodes.problems)
        endpoints = tuple(each for each in nodes.endpoints if query.healthy != "warning" or _usable(each))
        old = self._consistency == "stale" and worth.age_s > query.max_age_s
        self._index, self._wait_s = worth.next_index, query.wait_s
        if old:
            # Asked once more, of the leader: better an error than what was true long ago; but better that than nothing.
            self._consistency, self._index = "", 0
            if self._resolver._answered:
                return
        else:
            self._consistency = query.consistency
        held_s = self._resolver._guard.held_s(
            self._sink.clock.time(), empty=not endpoints, doubtful=worth.reset or not worth.leader
        )
        if held_s:
            self._wait_s = min(query.wait_s, max(_MIN_WAIT_S, held_s))
            self._sink.fail(
                ResolverError(
                    f"{where} has no instance of {self._resolver.target.path!r} any more, but may have lost them: "
                    f"the last ones are kept for up to {query.guard_s:.3g} s (empty-guard)"
                )
            )
            return
        chosen = self._resolver._chosen(endpoints, self._sink)
        age = f", maybe {worth.age_s:.3g} s old" if old else ""
        # Time-outs, and writes that change nothing, return the same again: no update, but a sign that all is well.
        self._resolver._answered = True
        self._sink.update(Resolution(chosen, source=f"{where}, index {worth.next_index}{age}"))


def _usable(endpoint: Endpoint) -> bool:
    return not endpoint.draining
