"""What an idle connection costs: on the server with a bare HTTP/2 client, on the client with its own server."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from typing import Any

from tests.bench.load import payload
from tests.bench.matrix import PEERS
from tests.bench.processes import BrokenError, Cores, resident_bytes, run, serving

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_CALL = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/lbkit.bench.Bench/Echo"),
    (":authority", "127.0.0.1"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)
_SETTLE_S = 0.5
_TIMEOUT_S = 5.0


def measure(cores: Cores, count: int) -> dict[str, dict[str, Any]]:
    """Return, per implementation that serves, the bytes that one idle connection keeps on either side."""
    found: dict[str, dict[str, Any]] = {}
    for peer in PEERS:
        if peer.serves and peer.installed:
            entry: dict[str, Any] = {"server_bytes": None, "client_bytes": None, "failure": None}
            found[peer.name] = entry
            try:
                with serving(peer.path, cores.server) as [(pid, port)]:
                    entry["server_bytes"] = _server_bytes(pid, port, count)
                with serving(peer.path, cores.server) as [(pid, port)]:
                    arguments = ["idle", "--ports", str(port), "--count", str(count)]
                    entry["client_bytes"] = run(peer.path, arguments, cores.client, timeout=60.0)["bytes"]
            except (BrokenError, OSError) as error:
                entry["failure"] = str(error)
    return found


def _server_bytes(pid: int, port: int, count: int) -> float | None:
    opened: list[socket.socket] = []
    try:
        before = _open_more(opened, max(20, count // 20), pid, port)
        after = _open_more(opened, count, pid, port)
    finally:
        for connection in opened:
            connection.close()
    return None if before is None or after is None else (after - before) / count


def _open_more(opened: list[socket.socket], count: int, pid: int, port: int) -> int | None:
    for _ in range(count):
        connection = _after_one_call(port)
        opened.append(connection)  # at once: what is open is closed even when a later one fails
    time.sleep(_SETTLE_S)
    return resident_bytes(pid)


def _after_one_call(port: int) -> socket.socket:
    """Open a connection, do the handshake and one call on it, and leave it open.

    Raises:
        BrokenError: The server closed the connection instead.
    """
    body = payload().SerializeToString()
    connection = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(
        _PREFACE
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_SETTINGS, _ACK, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, 1, _literals(_CALL))
        + _frame(_DATA, _END_STREAM, 1, struct.pack(">BI", 0, len(body)) + body)
    )
    received = b""
    while not _call_ended(received):
        chunk = connection.recv(65536)
        if not chunk:
            raise BrokenError("the server closed a connection that kept to the rules")
        received += chunk
    return connection


def _literals(headers: Iterable[tuple[str, str]]) -> bytes:
    """Encode short headers as literals without indexing (RFC 7541 section 6.2.2)."""
    return b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in header) for header in headers
    )


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def _call_ended(received: bytes) -> bool:
    position = 0
    while position + 9 <= len(received):
        length = int.from_bytes(received[position : position + 3], "big")
        kind, flags, stream = struct.unpack_from(">BBI", received, position + 3)
        position += 9 + length
        if kind == _HEADERS and stream == 1 and flags & _END_STREAM and position <= len(received):
            return True
    return False
