"""Any sequence of requests has the same answers from the embedded registry as from a real etcd."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import lbkit
from lbkit.testing import registry
from tests.support.etcd_contract import (
    ALL,
    Client,
    compact,
    compare,
    create,
    delete,
    get,
    grant,
    op,
    put,
    revoke,
    shown,
    ttl,
    txn,
)
from tests.support.etcd_server import Etcd, etcd

pytestmark = pytest.mark.interop

REQUESTS = 300
KEYS = [b"a", b"aa", b"b", b"c", b"ca", b"d"]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Generator[Etcd, None, None]:
    with etcd(Path(tmp_path_factory.mktemp("etcd"))) as node:
        yield node


class Requests:
    """Makes requests at random; those that name revisions are relative to the first."""

    def __init__(self, seed: int, base: int) -> None:
        self.random = Random(seed)
        self.base = base
        self.changes = 0  # about

    def key(self) -> bytes:
        return self.random.choice(KEYS)

    def end(self) -> bytes:
        return self.random.choice([b"", b"", ALL, *KEYS])

    def lease(self) -> int:
        return self.random.choice([0, 0, 0, 5, 6, 7])

    def revision(self) -> int:
        return self.base + self.random.randrange(self.changes + 3)

    def range(self) -> Any:
        pick = self.random.choice
        return get(
            key=self.key(),
            range_end=self.end(),
            limit=pick([0, 0, 1, 2, 3]),
            revision=pick([0, 0, self.revision()]),
            sort_order=pick([0, 1, 2]),
            sort_target=pick([0, 2, 3]),  # no two keys are alike in these, unless they were put together
            keys_only=pick([True, False]),
            count_only=pick([True, False, False]),
            serializable=pick([True, False]),
            min_mod_revision=pick([0, 0, self.revision()]),
            max_create_revision=pick([0, 0, self.revision()]),
        )

    def put(self) -> Any:
        pick = self.random.choice
        ignore_value = pick([True, False, False])
        return put(
            key=self.key(),
            value=b"" if ignore_value else b"%d" % self.random.randrange(4),
            lease=self.lease(),
            prev_kv=pick([True, False]),
            ignore_value=ignore_value,
            ignore_lease=pick([True, False, False]),
        )

    def delete(self) -> Any:
        return delete(key=self.key(), range_end=self.end(), prev_kv=self.random.choice([True, False]))

    def compare(self) -> Any:
        field = self.random.choice(["version", "create_revision", "mod_revision", "value", "lease"])
        number = self.random.randrange(4)
        values: dict[str, Any] = {
            "create_revision": self.revision(),
            "mod_revision": self.revision(),
            "value": b"%d" % number,
        }
        condition: dict[str, Any] = {field: values.get(field, number)}
        return compare(
            key=self.key(),
            range_end=self.end(),
            result=self.random.randrange(4),
            target=["version", "create_revision", "mod_revision", "value", "lease"].index(field),
            **condition,
        )

    def txn(self, depth: int = 0) -> Any:
        def ops() -> list[Any]:
            # One that deletes all to the end and then puts with ignore_value ends etcd 3.5.16 with a panic.
            makes = [self.range, self.put, self.put, lambda: delete(key=self.key(), range_end=self.key())]
            if depth < 2:
                makes.append(lambda: self.txn(depth + 1))
            return [op(self.random.choice(makes)()) for _ in range(self.random.randrange(4))]

        compares = [self.compare() for _ in range(self.random.randrange(3))]
        return txn(compare=compares, success=ops(), failure=ops())

    def next(self) -> Any:
        kinds = (
            ["put"] * 6 + ["txn"] * 6 + ["range"] * 4 + ["delete"] * 2 + ["grant", "revoke", "ttl", "compact"]
        )
        kind = self.random.choice(kinds)
        self.changes += kind in {"put", "txn", "delete"}
        if kind == "compact":
            return compact(revision=self.base + self.random.randrange(max(1, self.changes // 2)))
        if kind == "grant":
            return grant(ID=self.random.choice([5, 6, 7]), TTL=self.random.choice([100, 2000]))
        if kind == "revoke":
            return revoke(ID=self.random.choice([5, 6, 7, 8]))
        if kind == "ttl":
            return ttl(ID=self.random.choice([5, 6, 7]), keys=True)
        return getattr(self, kind)()


def rebased(message: Any, base: int) -> None:
    """Make revisions relative, and leave out who says it."""
    for field, value in message.ListFields():
        if field.name in {"cluster_id", "member_id", "raft_term"}:
            message.ClearField(field.name)
        elif field.name.endswith("revision"):
            setattr(message, field.name, value - base)
        elif field.name == "TTL":
            message.TTL = min(value, 0)
        elif field.name == "keys" and field.is_repeated:
            message.keys[:] = sorted(value)
        elif field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                rebased(each, base)


async def said(client: Client, request: Any, base: int) -> str:
    try:
        answer = await client.do(request)
    except lbkit.RpcError as error:
        return f"{error.code().name} {error.details()}"
    rebased(answer, base)
    return str(answer)


async def conversation(client: Client, seed: int) -> list[str]:
    """Send requests, and watch all the time; return what was asked and said."""
    base = await client.clear()
    requests = Requests(seed, base)
    lines: list[str] = []
    async with client.watch(create(ALL, ALL)) as watching:
        await watching.created()
        for number in range(REQUESTS):
            request = requests.next()
            asked = type(request)()
            asked.CopyFrom(request)
            rebased(asked, base)
            answer = await said(client, request, base)
            lines.append(f"{number} {type(request).__name__} {asked} -> {answer}")
        end = (await client.do(put(key=b"end"))).header.revision
        events: list[str] = []
        while not events or not events[-1].startswith("PUT end"):
            for event in (await watching.next()).events:
                event.kv.mod_revision -= base
                events.append(shown(event))
        assert events[-1].endswith(f"@{end - base}")
    return lines + events


@pytest.mark.parametrize("seed", range(5))
async def test_random_requests(real: Etcd, seed: int) -> None:
    async with registry() as embedded, Client(embedded.address) as ours, Client(real.address) as theirs:
        # Revision 0 or less of a compaction means something else: both begin somewhat later.
        for client in (ours, theirs):
            await client.set(**{f"k{n}": "1" for n in range(5)})
        one = await conversation(ours, seed)
        assert one == await conversation(theirs, seed)
