"""Reading a prefix of etcd: the list, and the watch that keeps it up to date. Each raises EtcdError when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from lbkit.eof import EOF
from lbkit.errors import RpcError
from lbkit.protos import etcd
from lbkit_resolvers.etcd.client import TIMEOUT_S, EtcdClient
from lbkit_resolvers.etcd.errors import EtcdError, Kind, kind_of
from lbkit_resolvers.etcd.listing import MAX_KEYS, Listing
from lbkit_resolvers.records import shown

PAGE = 500  # keys to a Range: with values of 64 KiB, half of what the client receives at most
HEARTBEAT_S = 60.0  # after which a watch is asked whether it still is one
ANSWER_S = 10.0  # that it may take to say so
_STALE_TIMEOUT_S = 1.0  # no member has to ask another one for what it has itself

Take = Callable[[list[etcd.Event], int], None]


async def read_list(client: EtcdClient, prefix: bytes, listing: Listing, *, stale: bool = False) -> None:
    """Read all keys under the prefix, as of one revision, in place of what was known.

    Args:
        client: whom to ask.
        prefix: what the keys begin with.
        listing: takes the list, once all of it is there.
        stale: ask for what this member has, which may be old (a serializable Range): for a cluster without a leader.

    Raises:
        EtcdError: there is no list to be had; what was known stays.
    """
    start, end = prefix, end_of(prefix)
    cluster = revision = 0
    limit = PAGE
    records = listing.read(())
    while True:
        request = etcd.RangeRequest(
            key=start, range_end=end, limit=limit, revision=revision, serializable=stale
        )
        timeout = _STALE_TIMEOUT_S if stale else TIMEOUT_S
        try:
            answer = await client.call("KV", "Range", request, timeout=timeout, leader=not stale)
        except EtcdError as error:
            if error.kind is Kind.TOO_MUCH and limit > 1:  # a page of values larger than ours
                limit = max(1, limit // 8)
                continue
            raise
        if not revision:
            cluster, revision = answer.header.cluster_id, answer.header.revision
        found = list(answer.kvs)
        problem = ""
        if revision < 1:
            problem = "an answer without a revision"
        elif answer.count > MAX_KEYS:
            problem = (
                f"{answer.count} keys under {shown(prefix)}, more than the {MAX_KEYS} that a service may have"
            )
        elif any(not prefix <= value.key < end for value in found):
            problem = f"an answer with keys that are not under {shown(prefix)}"
        elif answer.more and not (found and found[-1].key >= start):
            problem = "an answer that says there is more, and does not go on"
        if problem:
            raise EtcdError(problem, client.member, Kind.USELESS)
        records |= listing.read(found)
        if not answer.more:
            break
        start = found[-1].key + b"\0"
    listing.replace(cluster, revision, records)


async def watch(client: EtcdClient, prefix: bytes, revision: int, take: Take) -> NoReturn:
    """Follow what happens to the keys under the prefix until it cannot be followed any more.

    Args:
        client: whom to ask.
        prefix: what the keys begin with.
        revision: what is known is as of this one.
        take: gets the events of one or more whole transactions, and the revision up to which nothing is missing.

    Raises:
        EtcdError: always, in the end. ``Kind.GONE``: some events cannot be had any more; ``Kind.MOVED``: the member is
            about to stop, and the watch better is on another one by then.
    """
    call = await client.stream("Watch", "Watch")
    beat = _Beat(call)
    reading = asyncio.create_task(_read(client, call, prefix, revision, take, beat))
    moving = asyncio.create_task(client.moved())
    beating = asyncio.create_task(beat.run())
    tasks = (reading, moving, beating)
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if reading in done:
            await reading  # raises
        if moving in done:
            raise EtcdError("the member says that it is about to stop", client.member, Kind.MOVED)
        raise EtcdError("the watch has fallen silent", client.member, Kind.UNREACHABLE)
    finally:
        for task in tasks:
            task.cancel()
        call.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Beat:
    """Asks a watch that says nothing whether it is alive: one of a member that lost its leader is silent for ever.

    Attributes:
        heard: counts what came.
    """

    def __init__(self, call: Any) -> None:
        self.heard = 0
        self._call = call

    async def run(self) -> None:
        """Return when there is no answer."""
        request = etcd.WatchRequest(progress_request=etcd.WatchProgressRequest())
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            before = self.heard
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._call.write(request)
            except (RpcError, TimeoutError):
                return
            await asyncio.sleep(ANSWER_S)
            if self.heard == before:
                return


async def _read(
    client: EtcdClient, call: Any, prefix: bytes, revision: int, take: Take, beat: _Beat
) -> NoReturn:
    create = etcd.WatchCreateRequest(
        key=prefix,
        range_end=end_of(prefix),
        start_revision=revision + 1,
        fragment=True,
    )
    events: list[etcd.Event] = []
    try:
        await call.write(etcd.WatchRequest(create_request=create))
        while True:
            response = await call.read()
            if response is EOF:
                raise EtcdError("it ended the watch", client.member, Kind.UNREACHABLE)
            beat.heard += 1
            if response.canceled:  # before `created`: a watch that is refused comes with both
                raise _canceled(client, response)
            events += response.events
            if len(events) > MAX_KEYS:
                raise EtcdError(f"one change of more than {MAX_KEYS} keys", client.member, Kind.USELESS)
            if response.fragment:  # of a transaction, the rest of which is to come
                continue
            if any(not prefix <= event.kv.key < create.range_end for event in events):
                text = f"events of keys that are not under {shown(prefix)}"
                raise EtcdError(text, client.member, Kind.USELESS)
            if events:
                take(events, response.header.revision)
                events = []
    except RpcError as error:
        raise client.trouble(error) from None


def _canceled(client: EtcdClient, response: etcd.WatchResponse) -> EtcdError:
    if response.compact_revision:
        text = f"what happened before revision {response.compact_revision} was compacted"
        return EtcdError(text, client.member, Kind.GONE)
    reason = shown(response.cancel_reason or "it cancelled the watch", 500)
    return EtcdError(reason, client.member, kind_of(reason))


def end_of(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with the prefix, which ends in ``/``."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
