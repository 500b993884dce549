"""A resolver of etcd, what it says, and a hand in the store."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from lbkit.protos import etcd
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolver import Resolver
from lbkit.resolving import ResolverHost
from lbkit.target import Target
from lbkit_resolvers.etcd import EtcdResolver
from lbkit_resolvers.etcd.client import EtcdClient
from lbkit_resolvers.etcd.target import EtcdTarget

PATIENCE_S = 30.0  # for what must happen: an election on a busy machine takes its time


def target(text: str) -> Target:
    return Target.parse(text, {"etcd"})


def naming(address: str, **metadata: Any) -> bytes:
    """A record of the codec ``etcd``."""
    return json.dumps({"Op": 0, "Addr": address, "Metadata": metadata or None}).encode()


def kratos(name: str, id: str, *endpoints: str, version: str = "", **metadata: str) -> bytes:
    """A record of Kratos."""
    content = {"id": id, "name": name, "version": version, "metadata": metadata, "endpoints": endpoints}
    return json.dumps(content).encode()


class Store:
    """Writes to etcd."""

    def __init__(self, client: EtcdClient) -> None:
        self.client = client

    async def call(self, service: str, method: str, request: Any) -> Any:
        return await self.client.call(service, method, request, timeout=PATIENCE_S)

    async def put(self, key: str, value: bytes | str, lease: int = 0) -> int:
        """Put a key; return the revision."""
        data = value.encode() if isinstance(value, str) else value
        request = etcd.PutRequest(key=key.encode(), value=data, lease=lease)
        return int((await self.call("KV", "Put", request)).header.revision)

    async def delete(self, key: str) -> int:
        request = etcd.DeleteRangeRequest(key=key.encode())
        return int((await self.call("KV", "DeleteRange", request)).header.revision)

    async def put_all(self, items: Iterable[tuple[str, bytes]]) -> int:
        """Put several keys in one transaction; return the revision."""
        puts = [
            etcd.RequestOp(request_put=etcd.PutRequest(key=key.encode(), value=value)) for key, value in items
        ]
        return int((await self.call("KV", "Txn", etcd.TxnRequest(success=puts))).header.revision)

    async def compact(self, revision: int) -> None:
        await self.call("KV", "Compact", etcd.CompactionRequest(revision=revision, physical=True))

    async def grant(self, seconds: int) -> int:
        return int((await self.call("Lease", "LeaseGrant", etcd.LeaseGrantRequest(TTL=seconds))).ID)

    async def revoke(self, lease: int) -> None:
        await self.call("Lease", "LeaseRevoke", etcd.LeaseRevokeRequest(ID=lease))


@asynccontextmanager
async def store(address: str, options: str = "") -> AsyncGenerator[Store, None]:
    """Write to the etcd that is there; ``options`` are parameters of the target."""
    client = EtcdClient(EtcdTarget.read(target(f"etcd://{address}/any{options}")))
    try:
        yield Store(client)
    finally:
        await client.close()


class Following:
    """A resolver that runs as in a channel.

    Attributes:
        updates: what the policy was given, with the time of each.
        errors: what was reported, also where there was a list already.
    """

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.updates: list[tuple[float, Resolution]] = []
        self.errors: list[str] = []
        self._loop = asyncio.get_running_loop()
        self.host = ResolverHost(
            resolver,
            clock=self._loop,
            random=random.Random(7),
            update=self._update,
            fail=lambda error: None,
        )
        fail = self.host.fail

        def reported(error: Exception) -> None:
            self.errors.append(str(error))
            fail(error)

        self.host.fail = reported  # type: ignore[method-assign]

    def _update(self, resolution: Resolution) -> Verdict:
        self.updates.append((self._loop.time(), resolution))
        return ACCEPTED

    @property
    def answers(self) -> list[list[str]]:
        """All answers, as text."""
        return [[str(endpoint) for endpoint in answer.endpoints] for _, answer in self.updates]

    @property
    def addresses(self) -> list[str] | None:
        """The last answer, as text; None if there was none."""
        return self.answers[-1] if self.updates else None

    @property
    def latest(self) -> Resolution:
        """The last answer."""
        assert self.host.latest is not None
        return self.host.latest

    async def until(self, condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
        """Wait until it is true; says how things stand if it does not become so."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():  # noqa: ASYNC110 -- the store, the server and the resolver all have a say
                    await asyncio.sleep(0.001)
        except TimeoutError:
            raise AssertionError(f"answers {self.answers[-5:]}, errors {self.errors[-5:]}") from None

    async def shows(self, *addresses: str, seconds: float = PATIENCE_S) -> None:
        """Wait until these are the answer, in whatever order."""
        await self.until(lambda: self.updates and sorted(self.answers[-1]) == sorted(addresses), seconds)


@asynccontextmanager
async def following(resolver: str | Resolver) -> AsyncGenerator[Following, None]:
    """Run a resolver, or that of a target."""
    made = EtcdResolver(target(resolver)) if isinstance(resolver, str) else resolver
    found = Following(made)
    found.host.start()
    try:
        yield found
    finally:
        await found.host.close()
