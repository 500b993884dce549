"""The name server for users' tests does what its test says; that it is a name server is in test_dns_contract.py."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from lbkit.testing import FakeDns, fake_dns
from lbkit.testing.fake_dns import Question
from tests.support.servers import PATIENCE_S

NAME = "greeter.test"


async def ask(server: FakeDns, name: str = NAME, kind: str = "A") -> list[str]:
    """Ask over UDP; return the records, or the error code."""
    host = server.address.rpartition(":")[0].strip("[]")
    answer = await dns.asyncquery.udp(
        dns.message.make_query(name, kind), host, timeout=PATIENCE_S, port=server.port
    )
    if answer.rcode() != dns.rcode.NOERROR:
        return [dns.rcode.to_text(answer.rcode())]
    return sorted(record.to_text() for each in answer.answer for record in each)


async def test_records_may_change_while_it_runs() -> None:
    async with fake_dns() as server:
        assert await ask(server) == ["NXDOMAIN"]
        server.set(NAME, "A", "10.0.0.1", "10.0.0.2")
        server.set(NAME, "AAAA", "::1")
        assert await ask(server) == ["10.0.0.1", "10.0.0.2"]
        server.set(f"{NAME.upper()}.", "A", "10.0.0.3")
        assert await ask(server) == ["10.0.0.3"]
        server.remove(NAME, "A")
        assert await ask(server) == []
        server.remove(NAME)
        assert await ask(server) == ["NXDOMAIN"]
        server.remove(NAME)
        assert server.asked[0] == Question(NAME, "A", "udp")
        assert len(server.asked) == 5


async def test_case_of_a_kind_does_not_matter() -> None:
    async with fake_dns() as server:
        server.set(NAME, "a", "10.0.0.1")
        assert await ask(server) == ["10.0.0.1"]
        server.fail("REFUSED", kind="a")
        assert await ask(server) == ["REFUSED"]
        server.heal()
        server.remove(NAME, "a")
        assert await ask(server) == ["NXDOMAIN"]


async def test_name_without_records_may_exist() -> None:
    async with fake_dns() as server:
        server.set(NAME, "A")
        assert await ask(server) == []
        server.set(f"_grpc._tcp.b.{NAME}", "SRV", "1 1 1 a.")
        assert await ask(server, f"b.{NAME}") == []  # there is something below it
        assert await ask(server, "reeter.test") == ["NXDOMAIN"]


async def test_aliases_in_a_circle_come_to_an_end() -> None:
    async with fake_dns() as server:
        server.set("a.test", "CNAME", "b.test.")
        server.set("b.test", "CNAME", "a.test.")
        assert len(await ask(server, "a.test")) == 2


async def test_faults_are_for_whom_and_as_long_as_the_test_says() -> None:
    async with fake_dns() as server:
        server.set(NAME, "A", "10.0.0.1")
        server.set("other.test", "A", "10.0.0.2")
        server.fail("REFUSED", NAME)
        server.fail("SERVFAIL", NAME, "A", times=2)
        assert [await ask(server) for _ in range(3)] == [["SERVFAIL"], ["SERVFAIL"], ["REFUSED"]]
        assert await ask(server, NAME, "AAAA") == ["REFUSED"]
        assert await ask(server, "other.test") == ["10.0.0.2"]
        server.fail("NXDOMAIN", over="tcp")
        assert await ask(server, "other.test") == ["10.0.0.2"]
        server.heal()
        assert await ask(server) == ["10.0.0.1"]


async def test_several_questions_on_one_connection_are_answered() -> None:
    async with fake_dns() as server:
        server.set(NAME, "A", "10.0.0.1")
        wire = dns.message.make_query(NAME, "A").to_wire()
        both = 2 * (struct.pack("!H", len(wire)) + wire)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(both[:20])
        await writer.drain()
        writer.write(both[20:])
        for _ in range(2):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            assert dns.message.from_wire(await reader.readexactly(length)).answer
        assert [each.transport for each in server.asked] == ["tcp", "tcp"]
        writer.close()
        await writer.wait_closed()


async def test_connection_that_is_open_at_the_end_is_closed() -> None:
    async with fake_dns() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(struct.pack("!H", 5) + b"hello")  # which is no question
        server.set(NAME, "A", "10.0.0.1")
        assert await ask(server) == ["10.0.0.1"]
    with contextlib.suppress(ConnectionError):  # it may come as an end of data, too
        assert await reader.read() == b""
    writer.close()


async def test_several_servers_may_share_a_port() -> None:
    async with fake_dns() as one, fake_dns("127.0.0.2", one.port) as two:
        one.set(NAME, "A", "10.0.0.1")
        two.set(NAME, "A", "10.0.0.2")
        assert (await ask(one), await ask(two)) == (["10.0.0.1"], ["10.0.0.2"])


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_port_that_is_taken_is_an_error(kind: socket.SocketKind) -> None:
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127.0.0.1, port {port}, .* in use"):
            async with fake_dns(port=port):
                pass


async def test_what_is_no_question_gets_no_answer() -> None:
    async with fake_dns() as server:
        empty = dns.message.make_query(NAME, "A")
        empty.question.clear()
        assert server.reply(empty.to_wire(), "udp") is None
        assert server.reply(b"nonsense", "udp") is None
        assert server.asked == []


async def test_it_listens_on_ipv6() -> None:
    async with fake_dns("::1") as server:
        server.set(NAME, "A", "10.0.0.1")
        assert await ask(server) == ["10.0.0.1"]
        assert server.target("greeter:80") == f"dns://[::1]:{server.port}/greeter:80"


@pytest.mark.parametrize(
    ("name", "kind", "data", "said"),
    [
        (NAME, "A", "10.0.0", "'10.0.0' is no A record of greeter.test: "),
        (NAME, "SRV", "10 5 50051", "'10 5 50051' is no SRV record of greeter.test: "),
        (NAME, "AAA", "10.0.0.1", "'AAA' no kind of record"),
        ("a..b", "A", "10.0.0.1", "'a..b' is no name, or "),
    ],
)
async def test_record_that_is_none_is_refused(name: str, kind: str, data: str, said: str) -> None:
    async with fake_dns() as server:
        with pytest.raises(ValueError) as caught:
            server.set(name, kind, data)
    assert said in str(caught.value)


async def test_fault_that_is_none_is_refused() -> None:
    async with fake_dns() as server:
        with pytest.raises(
            ValueError, match="'BROKEN' is no fault; write an error code of DNS, like SERVFAIL"
        ):
            server.fail("BROKEN")
