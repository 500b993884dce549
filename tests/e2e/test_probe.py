"""``lbkit probe`` asks for health; whatever comes instead of an answer has a text of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import lbkit
from lbkit.address import Address
from lbkit.cli.probe import probe
from lbkit.errors import ConnectError
from lbkit.http2 import frames
from lbkit.http2.frames import frame
from lbkit.services import health
from tests.support.servers import RawPeer, raw_server, serving

GRPC = [(b":status", b"200"), (b"content-type", b"application/grpc")]
SAYS_SERVING = b"\x00\x00\x00\x00\x02\x08\x01"


async def ask(port: int, service: str = "", timeout_s: float = 5.0) -> None:
    await probe(Address.parse(f"127.0.0.1:{port}"), service, timeout_s)


async def test_backend_passes_while_it_serves() -> None:
    server = lbkit.Server()
    checks = health.add(server, "shop")
    port = server.bind("127.0.0.1:0")
    await server.start()
    await ask(port)
    await ask(port, "shop")
    checks.set("shop", health.NOT_SERVING)
    await ask(port)
    with pytest.raises(ConnectError, match="its health check says NOT_SERVING of 'shop'"):
        await ask(port, "shop")
    with pytest.raises(ConnectError, match="its health check says SERVICE_UNKNOWN of 'other'"):
        await ask(port, "other")
    await server.stop()


async def test_backend_without_health_passes_unless_a_service_was_named() -> None:
    async with serving() as backend:
        await ask(backend.port)
        with pytest.raises(ConnectError, match="there is no health service to ask about 'shop'"):
            await ask(backend.port, "shop")


def answers(
    fields: list[tuple[bytes, bytes]], *, end: bool = False, then: bytes = b"", flags: int = 0
) -> Callable[[RawPeer, int], bytes]:
    """Answer with headers and, unless they are the end, with a DATA frame."""

    def answer(peer: RawPeer, stream_id: int) -> bytes:
        data = frame(frames.DATA, flags, stream_id, then) if then or flags else b""
        return peer.headers(stream_id, fields, end=end) + data

    return answer


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (answers([(b":status", b"503"), (b"content-type", b"text/html")]), "UNAVAILABLE: HTTP status 503"),
        (answers([(b":status", b"200"), (b"content-type", b"text/html")]), "UNKNOWN: HTTP status 200"),
        (answers([*GRPC, (b"grpc-status", b"7"), (b"grpc-message", b"go away")], end=True), "PERMISSION_DENIED: go away"),
        (answers([*GRPC, (b"grpc-status", b"0")], end=True), "failed: OK"),
        (answers(GRPC, end=True), "UNKNOWN: HTTP status 200 and no gRPC answer"),
        (answers(GRPC, then=b"\x00\x00\x10\x00\x00"), "RESOURCE_EXHAUSTED: message of 1048576 bytes"),
        (answers(GRPC, then=b"\x01\x00\x00\x00\x02\x08\x01"), "INTERNAL: "),
        (answers(GRPC, then=b"\x00\x00\x00\x00\x01\x08"), "the answer to the health check cannot be parsed"),
        (answers(GRPC, flags=frames.END_STREAM), "the server ended the stream without trailers"),
        (lambda peer, stream_id: frame(frames.RST_STREAM, 0, stream_id, b"\x00\x00\x00\x0b"), "RESOURCE_EXHAUSTED"),
        (lambda peer, stream_id: None, "the peer closed the connection"),
    ],
)  # fmt: skip
async def test_what_is_no_answer_fails_with_its_reason(
    answer: Callable[[RawPeer, int], bytes | None], text: str
) -> None:
    async with raw_server(answer) as server:
        with pytest.raises(ConnectError) as caught:
            await ask(server.port)
        assert text in str(caught.value)


async def test_answer_that_does_not_come_fails_in_time() -> None:
    async with raw_server(lambda peer, stream_id: b"") as server:
        with pytest.raises(ConnectError, match=r"the health check was not answered within 0\.1 s"):
            await ask(server.port, timeout_s=0.1)


async def test_answer_in_pieces_is_put_together() -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes:
        pieces = [frame(frames.DATA, 0, stream_id, bytes((byte,))) for byte in SAYS_SERVING]
        return peer.headers(stream_id, GRPC) + b"".join(pieces)

    async with raw_server(answer) as server:
        await ask(server.port)
