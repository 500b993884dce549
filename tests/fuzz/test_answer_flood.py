"""Answers that nobody reads: HEADERS need no window, so nothing but a limit keeps them from piling up (CVE-2019-9514)."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from lbkit.http2.frames import END_HEADERS, END_STREAM, HEADERS, PREFACE, frame
from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.limits import Limits
from lbkit.status import Status, StatusCode
from lbkit.transport.server import ServerConnection
from lbkit.transport.setup import ConnectionSetup
from lbkit.wire.status import status_fields
from tests.support.wire import settings_frame

REQUESTS = 30_000
SEND_BUFFER = 64 * 1024
ANSWER: list[Field] = [(b":status", b"200"), *status_fields(Status(StatusCode.UNIMPLEMENTED, "x" * 60))]


class Refusing:
    """A server that answers each request with a status only, as every server does for a method it does not know."""

    def __init__(self) -> None:
        self.connection: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()
        self.answered = 0

    def request(
        self, connection: ServerConnection, stream: Stream, fields: tuple[Field, ...], end: bool
    ) -> None:
        self.answered += 1
        connection.engine.send_headers(stream, None, ANSWER, True)
        connection.kick()

    def oversized(self, connection: ServerConnection, stream: Stream, reason: str) -> None:
        raise AssertionError(reason)

    def connection_opened(self, connection: ServerConnection) -> None:
        self.connection.set_result(connection)

    def connection_closed(self, connection: ServerConnection) -> None:
        """Nothing to do."""


async def test_answers_that_a_client_does_not_read_stay_near_send_buffer() -> None:
    """RFC 9113 10.5; S4 says the same of acknowledgements: stop reading from who does not read."""
    loop, owner = asyncio.get_running_loop(), Refusing()
    setup = ConnectionSetup(Limits(send_buffer=SEND_BUFFER))
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)  # what is accepted inherits it
    server = await loop.create_server(lambda: ServerConnection(loop, owner, setup), sock=listening)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    client.setblocking(False)
    await loop.sock_connect(client, listening.getsockname())
    requests = b"".join(
        frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * number, b"\x83\x86\x04\x02/x")
        for number in range(REQUESTS)
    )
    opening = PREFACE + settings_frame() + settings_frame(ack=True)
    sending = loop.create_task(loop.sock_sendall(client, opening + requests))
    connection = await owner.connection
    try:
        most = 0
        while owner.answered < REQUESTS and connection._reading and not connection.closed.done():
            await asyncio.sleep(0)  # a turn of the loop
            most = max(most, connection.engine.queued_bytes)
        # A read of 64 KiB is 4,400 requests, whose answers are 400,000 bytes; the kernel says "full" a read late.
        assert most < 2 * SEND_BUFFER + 1_200_000, f"{most} bytes are kept after {owner.answered} requests"
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        client.close()
        server.close()
        await connection.abort_and_wait("the end")
        await server.wait_closed()
