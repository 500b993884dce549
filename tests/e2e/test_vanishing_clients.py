"""A client that vanishes while many answers are due does not fill the server's log."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import hpack
import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import frame
from tests.support.protos import kinds_pb2
from tests.support.servers import request_fields, serving
from tests.support.wire import data_frame, settings_frame

CALLS = 60


async def test_no_writes_to_a_connection_that_broke(caplog: pytest.LogCaptureFixture) -> None:
    """One failed write is enough to know: asyncio warns about each one after the fifth."""
    go = asyncio.Event()
    arrived = asyncio.Event()
    inside = 0

    async def wait(request: Any, context: Any) -> Any:
        nonlocal inside
        inside += 1
        if inside == CALLS:
            arrived.set()
        await go.wait()
        return kinds_pb2.Item(text="x" * 5000)  # each answer is written at once, for it is above _EARLY_BYTES

    async with serving(wait) as backend:
        with socket.create_connection(("127.0.0.1", backend.port)) as client:
            encoder = hpack.Encoder()
            opening = frames.PREFACE + settings_frame()
            for number in range(CALLS):
                block = encoder.encode(request_fields())
                opening += frame(frames.HEADERS, frames.END_HEADERS, 2 * number + 1, block)
                opening += data_frame(2 * number + 1, bytes(5), end=True)
            client.sendall(opening)
            await arrived.wait()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with RST
        go.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await backend.server.stop(None)
    warnings = [record.message for record in caplog.records if "socket.send()" in record.message]
    assert not warnings, f"{len(warnings)} warnings"
