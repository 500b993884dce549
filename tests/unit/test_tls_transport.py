"""The layer of TLS between a byte stream and a connection, in memory: what asyncio's transports promise."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lbkit.transport.memory import MemoryTransport, join
from lbkit.transport.tls import TlsTransport
from lbkit.transport.tls_context import Contexts
from lbkit.transport.tls_errors import TlsError
from tests.support.secured import client_tls, server_tls
from tests.support.servers import until

KIB = 1024


class Notes(asyncio.BufferedProtocol):
    """Notes what it is told."""

    def __init__(self, room: int = 64 * KIB) -> None:
        self.buffer = memoryview(bytearray(room))
        self.received = bytearray()
        self.reads: list[int] = []
        self.told: list[str] = []
        self.error: Exception | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport: TlsTransport = transport
        self.told.append("made")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.reads.append(nbytes)
        self.received += self.buffer[:nbytes]

    def eof_received(self) -> None:
        self.told.append("eof")

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.error = exc


class Pair:
    """Two ends of a stream with TLS."""

    def __init__(self, *, room: int = 64 * KIB, name: str = "localhost", early: bytes = b"") -> None:
        loop = asyncio.get_running_loop()
        self.client, self.server = Notes(), Notes(room)
        contexts = Contexts(client_tls(), server=False), Contexts(server_tls(), server=True)
        near = TlsTransport(loop, lambda: self.client, contexts[0].current(), server=False, name=name)
        far = TlsTransport(loop, lambda: self.server, contexts[1].current(), server=True)
        self.stream: MemoryTransport = join(
            loop, lambda: near, lambda: far, client_name=("c", 1), server_name=("s", 2)
        )
        if early:
            near.write(early)

    async def up(self) -> Pair:
        """Wait for the end of the handshake."""
        await until(
            lambda: (
                self.client.transport.get_extra_info("tls_established")
                and self.server.transport.get_extra_info("tls_established")
            )
        )
        return self

    async def close(self) -> None:
        """End both."""
        self.client.transport.abort()
        self.server.transport.abort()
        await until(lambda: self.client.told[-1] == self.server.told[-1] == "lost")


async def test_the_connection_is_there_from_the_first_byte_on_and_may_write() -> None:
    pair = Pair(early=b"early")
    assert pair.client.told == pair.server.told == ["made"]
    assert not pair.client.transport.get_extra_info("tls_established")
    await until(lambda: pair.server.received == b"early")
    await pair.close()


@pytest.mark.parametrize("room", [1, 100, 16 * KIB, 64 * KIB, 1024 * KIB])
async def test_bytes_arrive_in_whatever_room_there_is(room: int) -> None:
    pair = await Pair(room=room).up()
    data = bytes(range(256)) * (20 if room == 1 else 800)
    pair.client.transport.write(data)
    await until(lambda: len(pair.server.received) == len(data))
    assert pair.server.received == data
    assert max(pair.server.reads) <= room
    await pair.close()


async def test_records_that_came_together_are_read_together() -> None:
    pair = await Pair().up()
    for _ in range(10):
        pair.client.transport.write(b"x" * 100)
    await until(lambda: len(pair.server.received) == 1000)
    assert pair.server.reads == [1000]
    await pair.close()


async def test_reading_pauses_and_goes_on() -> None:
    pair = await Pair(room=100).up()
    server = pair.server.transport
    original = pair.server.buffer_updated

    def stop(nbytes: int) -> None:
        original(nbytes)
        server.pause_reading()

    pair.server.buffer_updated = stop  # type: ignore[method-assign]
    pair.client.transport.write(b"x" * 1000)
    await until(lambda: pair.server.reads == [100])
    assert not server.is_reading()
    for _ in range(5):
        await asyncio.sleep(0)
    assert pair.server.reads == [100]
    pair.server.buffer_updated = original  # type: ignore[method-assign]
    server.resume_reading()
    assert server.is_reading()
    server.resume_reading()  # nothing more
    await until(lambda: len(pair.server.received) == 1000)
    await pair.close()


async def test_writing_pauses_and_goes_on_as_the_peer_reads() -> None:
    pair = await Pair().up()
    transport = pair.client.transport
    assert transport.get_write_buffer_limits() == pair.stream.get_write_buffer_limits()
    pair.server.transport.pause_reading()
    while "pause" not in pair.client.told:
        transport.write(bytes(64 * KIB))
        await asyncio.sleep(0)
    assert transport.get_write_buffer_size() == pair.stream.get_write_buffer_size() > 0
    pair.server.transport.resume_reading()
    await until(lambda: "resume" in pair.client.told)
    await pair.close()


async def test_close_sends_what_was_written_and_says_goodbye() -> None:
    pair = await Pair().up()
    pair.client.transport.write(b"x" * 100 * KIB)
    pair.client.transport.close()
    pair.client.transport.close()
    assert pair.client.transport.is_closing()
    assert not pair.client.transport.can_write_eof()
    pair.client.transport.write(b"dropped")
    await until(lambda: pair.client.told[-1] == pair.server.told[-1] == "lost")
    assert len(pair.server.received) == 100 * KIB
    assert pair.server.told == ["made", "eof", "lost"]
    assert pair.client.error is None


async def test_an_end_without_goodbye_is_an_end() -> None:
    pair = await Pair().up()
    pair.stream.close()
    await until(lambda: pair.server.told[-1] == "lost")
    assert pair.server.told == ["made", "eof", "lost"]
    await pair.close()


async def test_a_cut_stream_is_reported_as_it_is() -> None:
    pair = await Pair().up()
    pair.stream.cut()
    await until(lambda: pair.client.told[-1] == pair.server.told[-1] == "lost")
    assert isinstance(pair.server.error, ConnectionResetError)


async def test_a_stream_cut_in_the_handshake_says_so() -> None:
    pair = Pair()
    pair.stream.cut()
    await until(lambda: pair.client.told[-1] == "lost")
    assert "during the handshake" in str(pair.client.error)


async def test_close_in_the_handshake_ends_it() -> None:
    pair = Pair(early=b"dropped")
    pair.client.transport.close()
    await until(lambda: pair.client.told[-1] == pair.server.told[-1] == "lost")
    assert pair.server.received == b""


async def test_a_refused_certificate_is_the_error_of_both_ends() -> None:
    pair = Pair(name="wrong.example")
    await until(lambda: pair.client.told[-1] == pair.server.told[-1] == "lost")
    assert isinstance(pair.client.error, TlsError)
    assert "not for 'wrong.example': it is for 'localhost'" in str(pair.client.error)
    assert "the client refuses our certificate" in str(pair.server.error)


async def test_a_name_that_openssl_does_not_take() -> None:
    context = Contexts(client_tls(), server=False).current()
    for name in ("", ".example", "a" * 70 + ".example"):
        with pytest.raises(TlsError, match="use server_name="):
            TlsTransport(asyncio.get_running_loop(), Notes, context, server=False, name=name)


async def test_extra_information() -> None:
    pair = await Pair().up()
    transport = pair.server.transport
    assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert transport.get_extra_info("sslcontext").get_ciphers()
    assert transport.get_extra_info("peername") == ("c", 1)
    assert transport.get_extra_info("nothing", 7) == 7
    await pair.close()
