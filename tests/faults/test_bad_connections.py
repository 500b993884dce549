"""Figure F9: ten thousand bad connections cost little memory, give it back, and hurt nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import select
import socket
import statistics
import time
import weakref
from collections import Counter, deque

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import frame
from tests.faults.victim import MIB, PROC, Caller, Noise, Victim, allow_sockets, running
from tests.support.servers import raw_client, serving, until
from tests.support.wire import data_frame, settings_frame

CONNECTIONS = 10_000
SPARE_FILES = 200
WARM_UP = 600
RAMP_PER_S = 500
HANDSHAKE_S = 5.0
SLOW_BYTE_S = 0.25  # the preface has 24 bytes: it is not complete in time
SAMPLES = 300  # of the healthy client to one window of the baseline
WINDOWS = 3  # whose median counts, because of what else the machine does
MAX_GROWTH_MIB = 400.0
MAX_LEFT_MIB = 20.0
MAX_KB_EACH = 40.0
MAX_SLOWER = 3.0
STARVED_MS = 1000.0
_TIMEOUT_S = 5.0
_HELLO = frames.PREFACE + settings_frame() + settings_frame(ack=True)
_PEER_ACK = settings_frame(ack=True)

IDLE, SHAKEN, SLOW, BAD = "idle", "idle after its handshake", "slow preface", "bad frames"
KINDS = (IDLE, SLOW, BAD, SHAKEN, SLOW, BAD)

# Each ends its connection. The first four are RFC 9113 3.4 (rows S16, S17), the others rows S19 to S26.
BAD_WORDS = (
    b"\xff" * 24,
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
    frames.PREFACE + frame(frames.PING, 0, 0, b"too soon"),
    _HELLO + b"\x10\x00\x00\x00\x00\x00\x00\x00\x01",  # DATA of 1 MiB is announced: 4.2
    _HELLO + frame(frames.PING, 0, 0, b"seven b"),  # 6.7
    _HELLO + frame(frames.SETTINGS, 0, 0, b"five b"[:5]),  # 6.5
    _HELLO + frame(frames.HEADERS, frames.END_HEADERS, 2, b"\x88"),  # 5.1.1
    _HELLO + data_frame(1, b"idle"),  # 5.1
    _HELLO + frame(frames.CONTINUATION, frames.END_HEADERS, 1, b""),  # 6.10
    _HELLO + frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, b"\0\0\0\2"),  # 8.4
    _HELLO + frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x80"),  # RFC 7541 6.1: index 0
)

pytestmark = [pytest.mark.soak, pytest.mark.skipif(not PROC.exists(), reason="needs /proc")]


class Crowd:
    """Bad clients; one loop sees to all of them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._poll = select.epoll()
        self._sockets: dict[int, tuple[socket.socket, str]] = {}
        self._slow: deque[tuple[float, socket.socket, int]] = deque()  # when who sends which byte
        self.ended: Counter[str] = Counter()  # by the server
        self.most = 0

    def left(self, *kinds: str) -> int:
        """How many connections of these kinds are open."""
        return sum(kind in kinds for _, kind in self._sockets.values())

    def add(self, number: int) -> None:
        """Open the next connection."""
        kind = KINDS[number % len(KINDS)]
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT_S)
        sock.setblocking(False)
        self._sockets[sock.fileno()] = sock, kind
        self.most = max(self.most, len(self._sockets))
        self._poll.register(sock, select.EPOLLRDHUP)
        if kind == SHAKEN:
            sock.send(_HELLO)
        elif kind == BAD:
            sock.send(BAD_WORDS[number // 3 % len(BAD_WORDS)])
        elif kind == SLOW:
            self._slow.append((time.monotonic(), sock, 0))

    def run_until(self, when: float) -> None:
        """Send slow bytes that are due, and take note of connections that end."""
        while True:
            now = time.monotonic()
            while self._slow and self._slow[0][0] <= now:
                due, slow, at = self._slow.popleft()
                if slow.fileno() >= 0:
                    with contextlib.suppress(ConnectionError):  # the poll will say so
                        slow.send(frames.PREFACE[at : at + 1])
                        self._slow.append((due + SLOW_BYTE_S, slow, at + 1))
            until = min(when, self._slow[0][0]) if self._slow else when
            for fd, _ in self._poll.poll(max(0.0, until - now)):
                sock, kind = self._sockets.pop(fd)
                self.ended[kind] += 1
                sock.close()
            if time.monotonic() >= when:
                return

    def close(self) -> None:
        """Close what is open."""
        for sock, _ in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._poll.close()


def warm_up(server: Victim) -> None:
    """Have the server load and allocate what it needs only once."""
    sockets = server.sockets()
    crowd = Crowd(server.port)
    try:
        for number in range(WARM_UP):
            crowd.add(number)
            crowd.run_until(0.0)
    finally:
        crowd.close()
    server.wait_for_sockets(sockets)


def affordable(count: int) -> int:
    """How many sockets of ``count`` this system allows to a process; says so if they are fewer."""
    allowed = allow_sockets() - SPARE_FILES
    if allowed < count:
        print(f"\nF9 {allowed} connections instead of {count}: ulimit -n")
    return min(count, allowed)


def test_bad_connections_are_ended_and_hurt_nobody() -> None:
    """Rows S14, S16, S17, S19 to S26, S30; RFC 9113 10.5."""
    count = affordable(CONNECTIONS)
    most = CONNECTIONS + 10
    with (
        running(Victim(handshake_timeout_s=HANDSHAKE_S, max_connections=most)) as server,
        running(Caller(server.port)) as client,
    ):
        warm_up(server)
        noise = Noise(server.pid, client.pid)
        sockets, resident = server.sockets(), server.forget_peak()
        client.settle()
        before = [client.baseline(SAMPLES) for _ in range(WINDOWS)]
        cpu = server.cpu_s()
        crowd = Crowd(server.port)
        during = []
        try:
            started = time.monotonic()
            client.start()
            for number in range(count):
                crowd.run_until(started + number / RAMP_PER_S)
                crowd.add(number)
                if number + 1 in {count * window // WINDOWS for window in range(1, WINDOWS + 1)}:
                    during.append(client.take(1))
            ramp_s = time.monotonic() - started
            deadline = time.monotonic() + HANDSHAKE_S + _TIMEOUT_S
            while crowd.left(IDLE, SLOW, BAD) and time.monotonic() < deadline:
                crowd.run_until(time.monotonic() + 0.1)
            after = client.take(1)
            others = noise.cores()
            stayed = crowd.left(SHAKEN)
            assert server.sockets() == sockets + stayed
        finally:
            crowd.close()
        server.wait_for_sockets(sockets)
        growth, litter = server.peak() - resident, server.resident() - resident
        left = server.held() - resident
        cpu = server.cpu_s() - cpu
        exceeded = server.counters()["exceeded"]
    p99 = [sample.p99 for sample in during]
    baseline = statistics.median(sample.p99 for sample in before)
    slower = statistics.median(p99) / baseline
    calls = sum(sample.calls for sample in (*during, after))
    failures = [text for sample in (*before, *during, after) for text in sample.failures]
    print(
        f"\nF9 {count} bad connections in {ramp_s:.1f} s, at most {crowd.most} at once; the server ended "
        f"{dict(crowd.ended)}, {stayed} stayed until they left; CPU {cpu:.1f} s, RSS {growth:+.1f} MiB at its peak "
        f"(< {MAX_GROWTH_MIB:.0f}), {litter:+.1f} after, {left:+.1f} without litter (< {MAX_LEFT_MIB:.0f}); healthy p99 "
        f"{', '.join(f'{each:.2f}' for each in p99)} ms, the median {slower:.1f}x of {baseline:.2f} "
        f"(<= {MAX_SLOWER:.0f}x: {'met' if slower <= MAX_SLOWER else 'MISSED'}), {len(failures)} of {calls} calls failed (0); others kept {others:.1f} cores busy"
    )
    kinds = Counter(KINDS[number % len(KINDS)] for number in range(count))
    assert crowd.ended == {kind: kinds[kind] for kind in (IDLE, SLOW, BAD)}
    assert stayed == kinds[SHAKEN]
    assert exceeded == {"handshake_timeout_s": kinds[IDLE] + kinds[SLOW]}
    assert growth < MAX_GROWTH_MIB
    assert left < MAX_LEFT_MIB
    assert not failures
    # Not asserted: on two cores, the crowd's own process makes the healthy client wait for one. What would be wrong:
    assert max(p99) < STARVED_MS


@pytest.mark.parametrize("kind", [IDLE, SHAKEN])
def test_idle_connections_are_small(kind: str) -> None:
    """Row S30: all at once, and nothing times out."""
    count = affordable(CONNECTIONS)
    opened: list[socket.socket] = []
    with running(Victim(handshake_timeout_s=60, max_connections=CONNECTIONS + 10)) as server:
        warm_up(server)
        sockets, resident = server.sockets(), server.forget_peak()
        try:
            for _ in range(count):
                sock = socket.create_connection(("127.0.0.1", server.port), timeout=_TIMEOUT_S)
                opened.append(sock)
                if kind == SHAKEN:
                    sock.sendall(_HELLO)
                    heard = b""
                    while _PEER_ACK not in heard:
                        heard += (more := sock.recv(4096))
                        assert more, "the server closed the connection"
            server.counters()
            assert server.sockets() == sockets + count
            growth = server.resident() - resident
        finally:
            for sock in opened:
                sock.close()
        server.wait_for_sockets(sockets)
        litter = server.resident() - resident
        left = server.held() - resident
    each = growth * MIB / 1000 / count
    print(
        f"\nF9 {count} connections, {kind}, all at once: RSS {growth:+.1f} MiB (< {MAX_GROWTH_MIB:.0f}), "
        f"{each:.1f} kB each (<= {MAX_KB_EACH:.0f}), {litter:+.1f} MiB after, {left:+.1f} without litter (< {MAX_LEFT_MIB:.0f})"
    )
    assert growth < MAX_GROWTH_MIB
    assert each <= MAX_KB_EACH
    assert left < MAX_LEFT_MIB


async def test_closed_connection_waits_for_no_collector() -> None:
    """Row S30: thousands that come and go within one run of the collector would all stay in memory till then."""
    async with serving() as backend:
        async with raw_client(backend.port) as peer:
            await peer.next_frame()
            (connection,) = map(weakref.ref, backend.server._connections)
        gc.disable()
        try:
            await until(lambda: not backend.server._connections)
            await asyncio.sleep(0)  # the callback that closed it is over
            assert connection() is None
        finally:
            gc.enable()
