"""A name server on loopback that says what a test wants it to say, over UDP and TCP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, cast

if TYPE_CHECKING:
    from lbkit.testing.dns_messages import Query, Record

Transport: TypeAlias = Literal["udp", "tcp"]

_OWN_FAULTS = ("silence", "garbage", "forged", "truncated")
_MOST_ALIASES = 8  # that are followed in one answer
_TRIES = 50  # to find a port that is free for UDP and TCP


class Question(NamedTuple):
    """What a name server was asked: a name in lower case, the kind of record, and over what."""

    name: str
    kind: str
    transport: Transport


class _Fault:
    def __init__(self, what: str, name: str, kind: str, over: str, times: int | None) -> None:
        self.what = what
        self.times = times
        self._about = name, kind, over

    def takes(self, *question: str) -> bool:
        """Whether it is about this question, and has not had all of its turns."""
        if self.times == 0 or any(
            given not in {"", asked} for given, asked in zip(self._about, question, strict=True)
        ):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class FakeDns:
    """What a fake name server says, and what it was asked. Made by ``fake_dns``; everything may change while it runs.

    Names are those of DNS, in any case, with the last dot or without. One that has no records does not exist.

    Attributes:
        address: where it listens, ``127.0.0.1:port``.
        port: that alone.
        asked: the questions it got, in order.
    """

    def __init__(self, host: str, port: int) -> None:
        self.port = port
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.asked: list[Question] = []
        self._records: dict[str, dict[str, Record]] = {}
        self._faults: list[_Fault] = []

    def target(self, name: str) -> str:
        """Return the channel target that asks this server: ``target("greeter.test:50051?refresh=1s")``."""
        return f"dns://{self.address}/{name}"

    def set(self, name: str, kind: str, *data: str, ttl: int = 300) -> None:
        """Set all records of one kind that a name has.

        Args:
            name: like ``greeter.test``.
            kind: ``A``, ``AAAA``, ``SRV``, ``TXT``, ``CNAME`` or any other.
            *data: a record each, as zone files write them: ``10.0.0.1``, ``10 5 50051 one.greeter.test.``,
                ``"text in quotes"``. None at all for a name that exists and has no record of the kind.
            ttl: seconds that they may be kept.

        Raises:
            ValueError: one of them is no such record.
        """
        from lbkit.testing.dns_messages import Record, check

        kind = kind.upper()
        check(name, kind, ttl, data)
        self._records.setdefault(_plain(name), {})[kind] = Record(_plain(name), kind, ttl, data)

    def remove(self, name: str, kind: str = "") -> None:
        """Forget the records of one kind, or of all; a name without any does not exist."""
        kinds = self._records.get(_plain(name), {})
        for each in [kind.upper()] if kind else list(kinds):
            kinds.pop(each, None)
        if not kinds:
            self._records.pop(_plain(name), None)

    def fail(
        self,
        fault: str,
        name: str = "",
        kind: str = "",
        *,
        over: Transport | Literal[""] = "",
        times: int | None = None,
    ) -> None:
        """Answer badly from now on, whatever records there are. A later fault comes before an earlier one.

        Args:
            fault: an error code (``SERVFAIL``, ``REFUSED``, ``NXDOMAIN`` ...); ``silence``; ``garbage``, which is no DNS
                message; ``forged``, a wrong answer under another id; ``truncated``, an answer that is said not to fit
                into UDP.
            name: of questions that this is about; empty for all.
            kind: likewise.
            over: likewise.
            times: how many questions; None for all until ``heal``.

        Raises:
            ValueError: there is no such fault.
        """
        from lbkit.testing.dns_messages import check_code

        if fault not in _OWN_FAULTS:
            check_code(fault)
        self._faults.insert(0, _Fault(fault, _plain(name), kind.upper(), over, times))

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def reply(self, wire: bytes, over: Transport) -> bytes | None:
        """Answer one question; None for no answer. Called by the server for what it receives."""
        from lbkit.testing import dns_messages

        query = dns_messages.read(wire)
        if query is None:
            return None
        self.asked.append(Question(query.name, query.kind, over))
        fault = next((each.what for each in self._faults if each.takes(query.name, query.kind, over)), "")
        if fault == "silence":
            return None
        if fault == "garbage":
            return b"\xff" * 40
        if fault == "forged":
            return dns_messages.forged(query)
        records: list[Record] = []
        if fault and fault != "truncated":
            code = fault
        else:
            records = self._found(query)
            code = "NOERROR" if records or self._exists(query.name) else "NXDOMAIN"
        return dns_messages.answer(query, records, code=code, tcp=over == "tcp", cut=fault == "truncated")

    def _found(self, query: Query) -> list[Record]:
        """Return what there is of the kind, through aliases."""
        found: list[Record] = []
        name = query.name
        for _ in range(_MOST_ALIASES):
            kinds = self._records.get(name, {})
            record = kinds.get(query.kind) or kinds.get("CNAME")
            if record is None or not record.data:
                break
            found.append(record)
            if record.kind == query.kind:
                break
            name = _plain(record.data[0])
        return found

    def _exists(self, name: str) -> bool:
        """Whether there are records of the name, or below it (RFC 8020)."""
        return any(known == name or known.endswith(f".{name}") for known in self._records)


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: FakeDns) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        said = self._server.reply(data, "udp")
        if said is not None:
            self._transport.sendto(said, addr)


class _Stream(asyncio.Protocol):
    """One TCP connection: each message with its length before it (RFC 1035 4.2.2)."""

    def __init__(self, server: FakeDns, streams: set[asyncio.Transport]) -> None:
        self._server = server
        self._streams = streams
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._streams.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= (end := 2 + int.from_bytes(self._received[:2], "big")) and end > 2:
            said = self._server.reply(self._received[2:end], "tcp")
            self._received = self._received[end:]
            if said is not None:
                self._transport.write(len(said).to_bytes(2, "big") + said)


@asynccontextmanager
async def fake_dns(host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[FakeDns, None]:
    """Run a name server for a test.

    Like this::

        async with fake_dns() as dns:
            dns.set("greeter.test", "A", "127.0.0.1", "127.0.0.2")
            async with lbkit.Channel(dns.target("greeter.test:50051?refresh=1s")) as channel:
                dns.fail("SERVFAIL")

    Args:
        host: an address of this machine.
        port: where to listen, on UDP and TCP; 0 for one that is free.

    Raises:
        OSError: it cannot listen there.
    """
    import_module("lbkit.testing.dns_messages")  # now, and not while somebody waits for an answer
    loop = asyncio.get_running_loop()
    listener, sock = _one_port(host, port)
    server = FakeDns(host, sock.getsockname()[1])
    streams: set[asyncio.Transport] = set()
    datagrams, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(server), sock=sock)
    accepting = await loop.create_server(lambda: _Stream(server, streams), sock=listener)
    try:
        yield server
    finally:
        datagrams.close()
        accepting.close()
        for stream in list(streams):
            stream.abort()
        await accepting.wait_closed()


def _one_port(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Bind TCP and UDP to one port; a free one if it is 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem: Exception | None = None
    for _ in range(1 if port else _TRIES):
        listener = socket.socket(family, socket.SOCK_STREAM)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            sock.bind((host, listener.getsockname()[1]))  # which another process may have, for UDP
        except (OSError, OverflowError) as error:
            problem = error
            listener.close()
            sock.close()
        else:
            return listener, sock
    raise OSError(f"cannot listen on {host}, port {port}, over UDP and TCP: {problem}")
