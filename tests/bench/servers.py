"""The modes of a server: a task for each call, shared workers, several processes on one port or on their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from statistics import median
from typing import Any

from tests.bench.processes import BrokenError, Child, Cores

_MODULE = "tests.bench.peers.lbkit_modes"
_IN_FLIGHT = 32
_CHANNELS = 16  # of a mode with several processes: calls over one connection are all with one of them

# By name: what it is started with, how often, and over how many channels it is called.
MODES: dict[str, tuple[tuple[str, str], int, int]] = {
    "a task for each call": (("workers", "0"), 1, 1),
    "1 shared worker": (("workers", "1"), 1, 1),
    "32 shared workers": (("workers", "32"), 1, 1),
    "1 process, supervised": (("processes", "1"), 1, _CHANNELS),
    "1 process, independent": (("workers", "0"), 1, _CHANNELS),
    "4 processes, supervised": (("processes", "4"), 1, _CHANNELS),
    "4 processes, independent": (("workers", "0"), 4, _CHANNELS),
}
_QUICK = ("a task for each call", "32 shared workers", "1 process, supervised", "1 process, independent")


def measure(cores: Cores, rounds: int, seconds: float, quick: bool) -> dict[str, dict[str, Any]]:
    """Return, by mode, calls a second and the servers' CPU time for each call: medians, and the samples behind them.

    The modes are measured in turn; ``quick`` keeps what the verdict needs and a little more.
    """
    chosen = {name: MODES[name] for name in (_QUICK if quick else MODES)}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for _ in range(rounds):
        for name, (arguments, count, channels) in chosen.items():
            with _serving(cores.server, arguments, count) as servers:
                found[name].append(_load(cores.client, servers, channels, seconds))
    return {
        name: {
            **{key: median(sample[key] for sample in samples) for key in ("rate", "server_us", "client_us")},
            "samples": samples,
        }
        for name, samples in found.items()
    }


@contextlib.contextmanager
def _serving(core: int, arguments: tuple[str, str], count: int) -> Iterator[list[dict[str, Any]]]:
    with contextlib.ExitStack() as stack:
        servers = []
        for _ in range(count):
            server = Child(_MODULE, ["serve", *arguments], core)
            stack.callback(server.stop)
            servers.append(server)
        yield [server.read(60.0) for server in servers]


def _load(core: int, servers: list[dict[str, Any]], channels: int, seconds: float) -> dict[str, Any]:
    # A port that is named several times is an address only once: the load makes channels of its own for each.
    ports = [server["port"] for server in servers]
    pids = [str(pid) for server in servers for pid in server["pids"]]
    arguments = ["load", "--ports", ",".join(str(port) for port in ports), "--pids", ",".join(pids)]
    arguments += ["--in-flight", str(_IN_FLIGHT), "--seconds", str(seconds), "--kind", str(channels)]
    child = Child("tests.bench.peers.lbkit_channels", arguments, core)
    try:
        answer = child.read(30.0 + seconds)
    finally:
        child.stop()
    if not answer["calls"]:
        raise BrokenError("no call was answered")
    return answer
