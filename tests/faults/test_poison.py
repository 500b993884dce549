"""Figure F22: a hundred clients at a time that send bombs and poison, beside one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
from collections import Counter
from pathlib import Path

import pytest

from lbkit.http2 import frames
from lbkit.wire.messages import frame_message
from tests.faults.fleet import Backend, Fleet
from tests.faults.load import Call, Load, milliseconds, tell
from tests.support.servers import PATIENCE_S, RawPeer, all_connected, raw_client, request_fields
from tests.support.wire import data_frame

pytestmark = [pytest.mark.soak, pytest.mark.timeout(180)]

ATTACKERS = 100
ROUNDS = 4
RATE = 100.0  # of the healthy client's calls
CALM_S = 5.0
BOMB = gzip.compress(bytes(40 * 2**20))
POISON = b"\x7b" * 10_000  # groups within groups
INTERNAL, RESOURCE_EXHAUSTED = b"13", b"8"
MEMORY_MOST = 50 * 2**20
SLOWER_MOST = 3.0
SLOW_S = 0.1  # what the 99th percentile may be in any case: the machine is busy with the attack itself
SAMPLE_S = 0.005
GAP_S = 0.005  # between the first bombs of two attackers


def resident(backend: Backend) -> int:
    """The memory of a process, in bytes."""
    pages = Path(f"/proc/{backend.process.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def p99(calls: list[Call]) -> float:
    """The 99th percentile of what calls took, in seconds."""
    return sorted(call.took for call in calls)[int(len(calls) * 0.99)]


async def ask(peer: RawPeer, stream_id: int, data: bytes, *fields: tuple[bytes, bytes]) -> bytes:
    """Make a call; return its status."""
    said = peer.headers(stream_id, request_fields(*fields))
    pieces = [data[at : at + 16_000] for at in range(0, len(data), 16_000)]
    peer.writer.write(said + b"".join(data_frame(stream_id, piece) for piece in pieces[:-1]))
    peer.writer.write(data_frame(stream_id, pieces[-1], end=True))
    while True:
        found = await peer.next_frame()
        if found.kind == frames.HEADERS and found.flags & frames.END_STREAM:
            return peer.decode(found.payload)[b"grpc-status"]


async def attack(peer: RawPeer, statuses: Counter[bytes], after_s: float) -> None:
    """Send bombs and poison in turn, the next when the last one was answered."""
    await asyncio.sleep(after_s)  # all at once, it would be this process that holds the healthy calls up
    bomb = b"\x01" + frame_message(BOMB)[1:]
    async with asyncio.timeout(10 * PATIENCE_S):
        for number in range(ROUNDS):
            stream_id = 4 * number + 1
            statuses[await ask(peer, stream_id, bomb, (b"grpc-encoding", b"gzip"))] += 1
            statuses[await ask(peer, stream_id + 2, frame_message(POISON))] += 1


async def watch(backend: Backend, found: list[int]) -> None:
    """Look at the memory of a process until cancelled."""
    while True:
        found.append(resident(backend))
        await asyncio.sleep(SAMPLE_S)


async def test_f22_bombs_and_poison_from_100_clients_at_a_time() -> None:
    async with Fleet(1) as fleet, fleet.channel() as channel:
        (backend,) = fleet.backends
        await all_connected(channel, 1)
        loop = asyncio.get_running_loop()
        load = Load(channel, work_ms=0)
        statuses: Counter[bytes] = Counter()
        memory: list[int] = []
        async with contextlib.AsyncExitStack() as stack:
            port = backend.node.ports[0]
            peers = [await stack.enter_async_context(raw_client(port)) for _ in range(ATTACKERS)]
            for peer in peers:
                statuses[await ask(peer, 1 + 4 * ROUNDS, frame_message(b""))] += 1  # all there, at rest
            async with load.at(RATE):
                await asyncio.sleep(CALM_S)
                before = resident(backend)
                watching = loop.create_task(watch(backend, memory))
                began = loop.time()
                for peer in peers:  # stream ids may not go down: the attack has connections of its own
                    await peer.close()
                attackers = [await stack.enter_async_context(raw_client(port)) for _ in range(ATTACKERS)]
                attacks = [attack(peer, statuses, n * GAP_S) for n, peer in enumerate(attackers)]
                await asyncio.gather(*attacks)
                took = loop.time() - began
                watching.cancel()
        calm = [call for call in load.calls if call.ended < began]
        stormy = [call for call in load.calls if began <= call.began < began + took]
        grew = max(memory) - before
        tell(
            "F22 bombs and poison",
            len(load.calls),
            len(load.failed()),
            f"{statuses[RESOURCE_EXHAUSTED]} bombs and {statuses[INTERNAL]} poisoned messages in {took:.1f} s",
            f"memory grew by {grew / 2**20:.1f} MB (<= 50)",
            f"calls took {milliseconds(call.took for call in calm)} before",
            f"and {milliseconds(call.took for call in stormy)} meanwhile (p99 <= 3 times as much)",
        )
        assert statuses == {
            b"0": ATTACKERS,
            RESOURCE_EXHAUSTED: ATTACKERS * ROUNDS,
            INTERNAL: ATTACKERS * ROUNDS,
        }
        assert not load.failed()
        assert grew < MEMORY_MOST
        assert p99(stormy) <= max(SLOWER_MOST * p99(calm), SLOW_S)
