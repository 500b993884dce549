"""A name server on loopback that says what the test wants it to say, over UDP and TCP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias, cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

# Makes the bytes to send back for a question, or None to be silent. The second argument: it came over TCP.
Reply: TypeAlias = Callable[[dns.message.Message, bool], bytes | None]


def records(*data: str, ttl: int = 300, alias: str = "", alias_ttl: int = 7) -> Reply:
    """Answer with records of the type that was asked for; none is NOERROR with an empty list.

    Args:
        data: the record data as text.
        ttl: of the records, in seconds.
        alias: if given, the name is a CNAME for this one, and the records are its.
        alias_ttl: of the CNAME.
    """

    def reply(query: dns.message.Message, tcp: bool) -> bytes:
        response = dns.message.make_response(query)
        (question,) = query.question
        name = question.name
        if alias:
            target = dns.name.from_text(alias)
            response.answer.append(dns.rrset.from_text(name, alias_ttl, "IN", "CNAME", target.to_text()))
            name = target
        if data:
            response.answer.append(dns.rrset.from_text(name, ttl, "IN", question.rdtype, *data))
        return response.to_wire()

    return reply


def rcode(code: dns.rcode.Rcode) -> Reply:
    """Answer with an error."""

    def reply(query: dns.message.Message, tcp: bool) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(code)
        return response.to_wire()

    return reply


NO_SUCH_NAME = rcode(dns.rcode.NXDOMAIN)
SERVFAIL = rcode(dns.rcode.SERVFAIL)
REFUSED = rcode(dns.rcode.REFUSED)
EMPTY = records()


def silence(query: dns.message.Message, tcp: bool) -> None:
    """Say nothing."""


def garbage(query: dns.message.Message, tcp: bool) -> bytes:
    """Answer with what is no DNS message."""
    return b"\xff" * 40


def wrong_id(query: dns.message.Message, tcp: bool) -> bytes:
    """Answer as somebody who did not see the question: a forged address under another id."""
    forged = dns.message.from_wire(
        records("192.0.2.66" if _type_of(query) == "A" else "2001:db8::66")(query, tcp) or b""
    )
    forged.id = query.id ^ 1
    return forged.to_wire()


def truncated(whole: Reply) -> Reply:
    """Say over UDP that the answer is too long for it; give it over TCP."""

    def reply(query: dns.message.Message, tcp: bool) -> bytes | None:
        if tcp:
            return whole(query, tcp)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.TC
        return response.to_wire()

    return reply


class NameServer:
    """What it says, and what it was asked.

    Attributes:
        asked: name, record type and transport of each question, in order.
    """

    def __init__(self) -> None:
        self.address = ""
        self.port = 0
        self.asked: list[tuple[str, str, str]] = []
        self._said: dict[str, dict[str, list[Reply]]] = defaultdict(dict)

    def say(self, name: str, kind: str, *replies: Reply) -> None:
        """Set the replies to one question, one after the other; the last one stays.

        Other kinds of the same name are answered with NOERROR and nothing, other names with NXDOMAIN.
        """
        self._said[name][kind] = list(replies)

    def kinds(self, transport: str = "udp") -> list[str]:
        """The record types that it was asked for over this transport."""
        return [kind for _, kind, how in self.asked if how == transport]

    def reply(self, wire: bytes, tcp: bool) -> bytes | None:
        """Answer one question."""
        query = dns.message.from_wire(wire)
        name, kind = query.question[0].name.to_text(omit_final_dot=True), _type_of(query)
        self.asked.append((name, kind, "tcp" if tcp else "udp"))
        if name not in self._said:
            return NO_SUCH_NAME(query, tcp)
        replies = self._said[name].get(kind, [EMPTY])
        return (replies.pop(0) if len(replies) > 1 else replies[0])(query, tcp)

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the questions of one connection."""
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                said = self.reply(await reader.readexactly(length), tcp=True)
                if said is not None:
                    writer.write(struct.pack("!H", len(said)) + said)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        said = self._server.reply(data, tcp=False)
        if said is not None:
            self._transport.sendto(said, addr)


@asynccontextmanager
async def name_server(address: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[NameServer, None]:
    """Run a name server; several can share a port on different addresses of loopback."""
    server = NameServer()
    listener, sock = _one_port(address, port)
    server.address, server.port = address, sock.getsockname()[1]
    datagrams, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Datagrams(server), sock=sock
    )
    streams = await asyncio.start_server(server.serve_tcp, sock=listener)
    try:
        yield server
    finally:
        datagrams.close()
        streams.close()
        await streams.wait_closed()


def _one_port(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Bind TCP and UDP to one port; a free one if it is 0."""
    for _ in range(50):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):  # another process has that one for UDP
            sock.bind((address, listener.getsockname()[1]))
            return listener, sock
        listener.close()
        sock.close()
    raise OSError("no port is free for both UDP and TCP")


def _type_of(query: dns.message.Message) -> str:
    return dns.rdatatype.to_text(query.question[0].rdtype)
