"""A registry for tests: etcd v3 in this process, on a real port, with the outages that a test wants."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbkit.protos import etcd
    from lbkit.registry import Registry
    from lbkit.server import Server

_HOST = "127.0.0.1"


class EmbeddedRegistry:
    """A registry that runs until the end of the test; made by ``registry()``.

    Attributes:
        address: where it listens, ``127.0.0.1:port``; the same after ``stop`` and ``start``.
        registry: what it is made of.
    """

    def __init__(self, registry: Registry, port: int) -> None:
        self.registry = registry
        # Holds the port while nobody listens on it, so that it can be had again: connections to it are refused.
        self._place = socket.socket()
        try:
            self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._place.bind((_HOST, port))
        except BaseException:  # whatever it was: no socket is left behind
            self._place.close()
            raise
        self.address = registry.address = f"{_HOST}:{self._place.getsockname()[1]}"
        self._server: Server | None = None

    @property
    def revision(self) -> int:
        """The revision of the last change."""
        return self.registry.store.revision

    @property
    def watches(self) -> int:
        """How many watches there are."""
        return sum(watching.count for watching in self.registry.watchings)

    def target(self, name: str, scheme: str = "etcd") -> str:
        """Return the target of a name in it: ``etcd://127.0.0.1:port/name``."""
        return f"{scheme}://{self.address}/{name}"

    # What is in it, also while it is stopped

    def put(self, key: str | bytes, value: str | bytes, *, lease: int = 0) -> int:
        """Put a key; return the revision.

        Raises:
            lbkit.registry.refusals.Refusal: there is no such lease, the key is empty, or it is too large.
        """
        from lbkit.protos import etcd

        response = self.registry.keys.put(etcd.PutRequest(key=_bytes(key), value=_bytes(value), lease=lease))
        return response.header.revision

    def delete(self, key: str | bytes, *, prefix: bool = False) -> int:
        """Delete a key, or all that begin with it; return how many there were."""
        from lbkit.protos import etcd

        key = _bytes(key)
        end = _end_of(key) if prefix else b""
        return self.registry.keys.delete(etcd.DeleteRangeRequest(key=key or b"\0", range_end=end)).deleted

    def get(self, key: str | bytes) -> bytes | None:
        """Return what a key holds; None if there is no such key."""
        kv = self.registry.store.get(_bytes(key))
        return None if kv is None else kv.value

    def items(self, prefix: str | bytes = "") -> dict[bytes, bytes]:
        """Return the keys that begin with a prefix, and what they hold."""
        key = _bytes(prefix)
        kvs: list[etcd.KeyValue] = self.registry.store.range(key or b"\0", _end_of(key))
        return {kv.key: kv.value for kv in kvs}

    def add(self, name: str, address: str, metadata: Mapping[str, object] | None = None) -> None:
        """List a backend of a name, as etcd's naming package (clientv3/naming/endpoints) does, without a lease."""
        record = {"Op": 0, "Addr": address, "Metadata": dict(metadata) if metadata else None}
        self.put(f"{name}/{address}", json.dumps(record))

    def remove(self, name: str, address: str) -> None:
        """List a backend no longer."""
        self.delete(f"{name}/{address}")

    # What happens to it

    async def stop(self) -> None:
        """Go down: connections break, and new ones are refused. What is in it stays, and leases wait."""
        if (server := self._server) is not None:
            self._server = None
            self.registry.close()
            await server.stop()

    async def start(self, *, forget: bool = False) -> None:
        """Come up on the same port; leases begin their whole time anew, as after an election.

        Args:
            forget: lose everything, revisions too, as a cluster does that is made anew.

        Raises:
            RuntimeError: it is up.
        """
        if self._server is not None:
            raise RuntimeError("the registry is up; stop() it first")
        from lbkit.services import health

        if forget:
            self.registry.forget()
        server = self.registry.make_server()
        health.add(server)
        server.bind(self.address)
        await server.start()
        self.registry.open()
        self._server = server

    def cut(self) -> int:
        """Break all connections at once, and accept new ones; return how many there were."""
        connections = [] if self._server is None else self._server.connections()
        for connection in connections:
            connection.abort("cut by the test")
        return len(connections)

    def compact(self, revision: int = 0) -> None:
        """Forget the history before a revision, by default before the current one."""
        self.registry.store.compact(revision or self.revision)

    def expire(self, lease: int) -> None:
        """End a lease now, as if its time were up."""
        self.registry.keys.revoke(lease)

    @property
    def leases(self) -> list[int]:
        """The numbers of the leases."""
        return self.registry.leases.ids()

    def lose_leader(self) -> None:
        """Be a member that is cut off from the others: what needs a leader is UNAVAILABLE, until ``find_leader``."""
        self.registry.lose_leader()

    def find_leader(self) -> None:
        """Have a leader again."""
        self.registry.find_leader()

    def free(self) -> None:
        """Give the port back. Called at the end."""
        self._place.close()


@asynccontextmanager
async def registry(
    *, port: int = 0, history: int = 10_000, progress_interval: float = 600.0
) -> AsyncGenerator[EmbeddedRegistry, None]:
    """Run a registry in memory that speaks etcd v3, on a port of this machine.

    Args:
        port: 0 takes a free one.
        history: how many revisions back can be watched from; older ones are compacted away.
        progress_interval: seconds without an event after which a watch that asks for it is told how far it is.

    Raises:
        OSError: the port cannot be had.
    """
    from lbkit.registry import Registry

    embedded = EmbeddedRegistry(Registry(history=history, progress_interval=progress_interval), port)
    try:
        await embedded.start()
        yield embedded
    finally:
        await embedded.stop()
        embedded.free()


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _end_of(prefix: bytes) -> bytes:
    """Return the first key that does not begin with a prefix, as etcd clients do."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else b"\0"
