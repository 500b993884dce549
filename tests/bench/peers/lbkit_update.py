"""What ten thousand new endpoints in one update cost: the picker, the first call, the longest turn of the loop.

Every endpoint is a listener of its own on 127.1.0.0/16, spread over a few server processes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from collections.abc import Sequence

import lbkit
from lbkit.address import Endpoint
from lbkit.balancer import Subchannel
from lbkit.picking import Picker
from lbkit.resolution import Resolution
from lbkit_balancers.round_robin import RoundRobin
from lbkit_resolvers.manual import Manual
from tests.bench.load import check_echo
from tests.bench.peers.command import integers
from tests.bench.peers.lbkit_peer import Echo
from tests.support.protos import bench_pb2_grpc

ENDPOINTS = 10_000
SERVERS = 2
_HOSTS = ENDPOINTS // SERVERS
_SETTLE_S = 0.2  # until the call waits for addresses
_CONNECTED_WITHIN_S = 90.0


class GarbageClock:
    """How long Python's garbage collector has run so far, and the longest of its pauses."""

    def __init__(self) -> None:
        self.total_s = 0.0
        self.worst_s = 0.0
        self._start = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: object) -> None:
        if phase == "start":
            self._start = time.perf_counter()
        else:
            took = time.perf_counter() - self._start
            self.total_s += took
            self.worst_s = max(self.worst_s, took)


class LoopLag:
    """The longest turn of the running event loop: how late a callback that was due can have been.

    Measured as it was, and without the time that the garbage collector took of it: that comes at the collector's
    own times, and takes longer the more objects a program has.
    """

    def __init__(self, garbage: GarbageClock) -> None:
        self.worst_s = 0.0
        self.worst_net_s = 0.0
        self._garbage = garbage
        self._loop = asyncio.get_running_loop()
        self._last, self._collected = time.perf_counter(), garbage.total_s
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        now, collected = time.perf_counter(), self._garbage.total_s
        took = now - self._last
        self.worst_s = max(self.worst_s, took)
        self.worst_net_s = max(self.worst_net_s, took - (collected - self._collected))
        self._last, self._collected = now, collected
        self._loop.call_soon(self._turn)


class Milestones:
    """When the policy made its first picker, the first that knows of all endpoints, and the last."""

    first_picker: float | None = None
    covering_picker: float | None = None
    all_ready: asyncio.Event


@lbkit.balancer("bench_round_robin")
class WatchedRoundRobin(RoundRobin):
    """round_robin that notes when its pickers are made."""

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        """Make the picker of round_robin, and note the first one and the first that knows of all endpoints."""
        picker = super().make_picker(ready)
        now = time.perf_counter()
        if Milestones.first_picker is None:
            Milestones.first_picker = now
        if Milestones.covering_picker is None and len(self.subchannels) == ENDPOINTS:
            Milestones.covering_picker = now
        if len(ready) == ENDPOINTS:
            Milestones.all_ready.set()
        return picker


def hosts(part: int) -> list[str]:
    """Return the addresses that one of the server processes listens on."""
    return [f"127.1.{part * _HOSTS // 250 + place // 250}.{place % 250 + 1}" for place in range(_HOSTS)]


async def serve(part: int) -> None:
    """Run one of the server processes for ever, with one port on all its addresses."""
    server = lbkit.Server()
    bench_pb2_grpc.add_BenchServicer_to_server(Echo(), server)
    first, *others = hosts(part)
    port = server.bind(f"{first}:0")
    for host in others:
        server.bind(f"{host}:{port}")
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    await server.wait_for_termination()


async def measure(ports: Sequence[int]) -> dict[str, float | None]:
    """Update a waiting channel once and follow what happens."""
    Milestones.all_ready = asyncio.Event()
    backends = Manual("bench")
    addresses = [f"{host}:{port}" for part, port in enumerate(ports) for host in hosts(part)]
    begun = time.perf_counter()
    resolution = Resolution(tuple(Endpoint(address) for address in addresses))
    parsed = time.perf_counter()
    async with lbkit.Channel(backends.target, balancer="bench_round_robin") as channel:
        call = asyncio.ensure_future(check_echo(bench_pb2_grpc.BenchStub(channel)))
        await asyncio.sleep(_SETTLE_S)
        garbage = GarbageClock()
        lag = LoopLag(garbage)
        await asyncio.sleep(0)
        start = time.perf_counter()
        backends.update(resolution)
        updated = time.perf_counter()
        await call
        answered = time.perf_counter()
        early, early_net = lag.worst_s, lag.worst_net_s
        async with asyncio.timeout(_CONNECTED_WITHIN_S):
            await Milestones.all_ready.wait()
        connected = time.perf_counter()
        worst, worst_net, pause = lag.worst_s, lag.worst_net_s, garbage.worst_s
        lag.worst_s = 0.0
    first, covering = Milestones.first_picker, Milestones.covering_picker
    return {
        "endpoints": ENDPOINTS,
        "addresses parsed (before the update)": (parsed - begun) * 1e3,
        "update returned": (updated - start) * 1e3,
        "first picker": None if first is None else (first - start) * 1e3,
        "first picker that covers all": None if covering is None else (covering - start) * 1e3,
        "first call answered": (answered - start) * 1e3,
        "longest turn until the first answer": early * 1e3,
        "longest turn until the first answer, without the garbage collector": early_net * 1e3,
        "all connected": (connected - start) * 1e3,
        "longest turn until all are connected": worst * 1e3,
        "longest turn until all are connected, without the garbage collector": worst_net * 1e3,
        "longest garbage collection": pause * 1e3,
        "longest turn while closing": lag.worst_s * 1e3,
    }


def main() -> None:
    """Serve a part of the endpoints, or measure."""
    parser = argparse.ArgumentParser(description="Measure a large update.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve").add_argument("--part", type=int, required=True)
    commands.add_parser("measure").add_argument("--ports", type=integers, required=True)
    arguments = parser.parse_args()
    if arguments.command == "serve":
        asyncio.run(serve(arguments.part))
    else:
        print(json.dumps(asyncio.run(measure(arguments.ports))), flush=True)


if __name__ == "__main__":
    main()
