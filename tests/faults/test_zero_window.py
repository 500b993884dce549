"""Figure F11 (row S10): who opens no window, or reads nothing, costs the handlers' own messages and no more."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import sys
import termios
from collections import Counter
from typing import BinaryIO

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import frame
from lbkit.http2.hpack_encoder import Encoder
from lbkit.wire.messages import frame_message
from tests.faults.victim import MIB, PROC, STREAMED, Victim, running
from tests.support.servers import Item, request_fields
from tests.support.wire import data_frame, settings_frame, window_update

STREAMS = 20
REPLY = 3_900_000
MAX_GROWTH_MIB = 20.0
MESSAGES_MIB = STREAMS * REPLY / MIB
_TIMEOUT_S = 30.0
_OPENED = frames.MAX_WINDOW - frames.DEFAULT_WINDOW

pytestmark = [pytest.mark.soak, pytest.mark.skipif(not PROC.exists(), reason="needs /proc")]


class Reader:
    """A client that makes calls with all windows of its streams shut, over a raw socket."""

    def __init__(self, port: int, window: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self._file: BinaryIO = self.socket.makefile("rb")
        self._encoder = Encoder()
        self.received: Counter[int] = Counter()  # bytes of DATA for each stream
        self.socket.sendall(
            frames.PREFACE
            + settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, window))
            + settings_frame(ack=True)
            + window_update(0, _OPENED)
        )

    def call(self, stream_id: int, size: int) -> None:
        """Ask for a reply of a size."""
        block = self._encoder.encode(None, request_fields())
        body = frame_message(Item(number=size).SerializeToString())
        self.socket.sendall(
            frame(frames.HEADERS, frames.END_HEADERS, stream_id, block)
            + data_frame(stream_id, body, end=True)
        )

    def next_frame(self) -> tuple[int, int, int]:
        """Read a frame; return its type, flags and stream. PINGs are answered, and DATA is counted."""
        high, low, kind, flags, stream_id = struct.unpack(">HBBBL", self._file.read(9))
        payload = self._file.read(high << 8 | low)
        if kind == frames.PING and not flags & frames.ACK:
            self.socket.sendall(frame(frames.PING, frames.ACK, 0, payload))
        if kind == frames.DATA:
            self.received[stream_id] += len(payload)
        return kind, flags, stream_id

    def wait_for_headers(self) -> None:
        """Read until every call has its response headers: by then every handler has begun to send."""
        begun: set[int] = set()
        while len(begun) < STREAMS:
            kind, _, stream_id = self.next_frame()
            if kind == frames.HEADERS:
                begun.add(stream_id)

    def read_all(self) -> None:
        """Read until every call is over."""
        over: set[int] = set()
        while len(over) < STREAMS:
            kind, flags, stream_id = self.next_frame()
            if kind == frames.HEADERS and flags & frames.END_STREAM:
                over.add(stream_id)

    def wait_until_full(self, server: Victim) -> None:
        """Read nothing until nothing more comes in the time that the server takes to answer something else."""
        assert select.select([self.socket], [], [], _TIMEOUT_S)[0], "nothing came"
        waiting = -1
        while waiting != (waiting := self._unread()):
            server.counters()

    def _unread(self) -> int:
        answer = fcntl.ioctl(self.socket, termios.FIONREAD, bytes(4))
        return int.from_bytes(answer, sys.byteorder)

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def test_shut_windows_keep_the_replies_of_unary_handlers_and_no_copies() -> None:
    """RFC 9113 10.5. A unary handler has made its whole message: it waits, once."""
    with running(Victim()) as server:
        sockets = server.sockets()
        reader = Reader(server.port, 0)
        try:
            before = server.forget_peak()
            for number in range(STREAMS):
                reader.call(number * 2 + 1, REPLY)
            reader.wait_for_headers()
            growth, peak = server.resident() - before, server.peak() - before
            assert not reader.received
        finally:
            reader.close()
        server.wait_for_sockets(sockets)
        left = server.held() - before
    print(
        f"\nF11 {STREAMS} shut streams, unary replies of {REPLY / MIB:.1f} MiB, {MESSAGES_MIB:.0f} together: "
        f"RSS {growth:+.1f} MiB (< {MESSAGES_MIB + MAX_GROWTH_MIB:.0f}), {growth / MESSAGES_MIB:.1f}x the messages, "
        f"peak {peak:+.1f}; {left:+.1f} when the reader is gone"
    )
    assert growth < MESSAGES_MIB + MAX_GROWTH_MIB


def test_handlers_that_stream_wait_for_shut_windows_and_full_sockets() -> None:
    """RFC 9113 10.5, CVE-2019-9511, CVE-2019-9517: windows shut first, then open to one who does not read."""
    with running(Victim(streams=True)) as server:
        reader = Reader(server.port, 0)
        try:
            before = server.forget_peak()
            for number in range(STREAMS):
                reader.call(number * 2 + 1, 0)
            reader.wait_for_headers()
            shut = server.peak() - before
            assert not reader.received
            for number in range(STREAMS):
                reader.socket.sendall(window_update(number * 2 + 1, _OPENED))
            reader.wait_until_full(server)
            full = server.peak() - before
            reader.read_all()
            whole = server.peak() - before
        finally:
            reader.close()
    print(
        f"\nF11 {STREAMS} streams of {STREAMED / MIB:.0f} MiB in 64 KiB chunks: shut windows RSS {shut:+.1f} MiB, "
        f"full socket {full:+.1f}, all read then {whole:+.1f} (each < {MAX_GROWTH_MIB:.0f}, at its peak)"
    )
    assert reader.received == {number * 2 + 1: STREAMED for number in range(STREAMS)}
    assert max(shut, full) < MAX_GROWTH_MIB
    assert whole < MAX_GROWTH_MIB
