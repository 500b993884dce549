"""What passes between lbkit and other implementations, in both directions, and what neither lets pass."""

from __future__ import annotations

from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from tests.support.peers import GRPCIO, PeerProcess
from tests.support.peers.protocol import pack
from tests.support.protos import bench_pb2, bench_pb2_grpc
from tests.support.servers import PATIENCE_S, Item, channel_to, failure, serving, unary

pytestmark = pytest.mark.interop

grpcio_only = pytest.mark.parametrize("foreign", GRPCIO, indirect=True)
# Each length modulo 3 pads base64 in its own way; nobody sends the padding.
BINARY = [("x-many-bin", bytes(range(200, 200 + length))) for length in (0, 1, 2, 3, 4, 5)]
OVER_LIMIT = (4 << 20) + 1
BULK = 400_000


async def echo_metadata(request: Any, context: lbkit.ServicerContext) -> Any:
    """Send the test's own metadata back in the trailers."""
    mine = [pair for pair in context.invocation_metadata() if pair[0].startswith("x-")]
    context.set_trailing_metadata(mine)
    return request


# Our client, their server


async def test_empty_message_passes_through_their_server(foreign_port: int) -> None:
    async with channel_to(foreign_port) as channel:
        raw: Any = channel.unary_unary("/lbkit.tests.Kinds/UnaryUnary")
        assert await raw(b"", timeout=PATIENCE_S) == b""


async def test_binary_metadata_of_every_padding_comes_back_from_their_server(foreign_port: int) -> None:
    async with channel_to(foreign_port) as channel:
        call = unary(channel)(Item(text="echo"), metadata=BINARY, timeout=PATIENCE_S)
        await call
        expected = [value for _, value in BINARY]
        assert (await call.initial_metadata()).get_all("x-many-bin") == expected
        assert (await call.trailing_metadata()).get_all("x-many-bin") == expected


async def test_many_large_messages_share_a_connection_to_their_server(foreign_port: int) -> None:
    async with channel_to(foreign_port) as channel:
        items = [Item(number=number, body=bytes((number,)) * BULK) for number in range(20)]
        calls = [unary(channel)(item, timeout=PATIENCE_S) for item in items]
        assert [await call for call in calls] == items
        assert len(channel._dialler._connections) == 1


async def test_generated_stubs_call_their_generated_servicer(foreign_port: int) -> None:
    async with channel_to(foreign_port) as channel:
        stub = bench_pb2_grpc.BenchStub(channel)
        payload = bench_pb2.Payload(body=b"\x00\xff", note="naïve")
        assert await stub.Echo(payload, timeout=PATIENCE_S) == payload


@grpcio_only
async def test_request_above_their_limit_ends_the_call_only(foreign: PeerProcess) -> None:
    port = (await foreign.ask("serve", limited=True))["port"]
    async with channel_to(port) as channel:
        error = await failure(unary(channel)(Item(body=bytes(OVER_LIMIT)), timeout=PATIENCE_S))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        item = Item(text="next")
        assert await unary(channel)(item, timeout=PATIENCE_S) == item
        assert len(channel._dialler._connections) == 1


@grpcio_only
@pytest.mark.parametrize("size", [10, 10_000, BULK])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
async def test_their_server_and_our_client_compress(
    foreign: PeerProcess, compression: str | None, size: int
) -> None:
    port = (await foreign.ask("serve", compress=True))["port"]
    async with channel_to(port, compression=compression) as channel:
        item = Item(text="a few words", body=bytes(size))
        assert await unary(channel)(item, timeout=PATIENCE_S) == item
        assert len(channel._dialler._connections) == 1


@grpcio_only
async def test_request_in_an_encoding_that_they_do_not_know_ends_the_call_only(foreign: PeerProcess) -> None:
    port = (await foreign.ask("serve"))["port"]
    async with channel_to(port) as channel:
        item = Item(body=bytes(1000))
        error = await failure(unary(channel)(item, timeout=PATIENCE_S, compression="zstd"))
        assert error.code() is StatusCode.INTERNAL  # the specification has UNIMPLEMENTED
        assert await unary(channel)(item, timeout=PATIENCE_S) == item


# Their client, our server


async def test_empty_message_of_their_client_is_a_message(foreign: PeerProcess) -> None:
    requests: list[Any] = []

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        requests.append(request)
        return request

    async with serving(behaviour) as backend:
        answer = await foreign.ask("endings", port=backend.port, requests=[{}])
    assert answer["endings"] == [["OK", "", 0]]
    assert requests == [Item()]


async def test_binary_metadata_of_every_padding_comes_back_to_their_client(foreign: PeerProcess) -> None:
    async with serving(echo_metadata) as backend:
        answer = await foreign.ask("call", port=backend.port, metadata=pack(BINARY))
    assert answer["code"] == "OK"
    assert answer["trailing"] == pack(BINARY)


async def test_many_large_messages_share_a_connection_of_their_client(foreign: PeerProcess) -> None:
    async with serving() as backend:
        answer = await foreign.ask("bulk", port=backend.port, count=20, size=BULK)
        assert answer["sizes"] == [BULK] * 20
        assert backend.calls == 20


async def test_their_generated_stub_calls_our_servicer(foreign: PeerProcess) -> None:
    class Bench(bench_pb2_grpc.BenchServicer):
        async def Echo(self, request: Any, context: Any) -> Any:
            return bench_pb2.Payload(note=f"{request.note} there")

    server = lbkit.Server()
    bench_pb2_grpc.add_BenchServicer_to_server(Bench(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        assert await foreign.ask("generated", port=port, note="naïve") == {"note": "naïve there"}
    finally:
        await server.stop(None)


@grpcio_only
async def test_response_above_their_limit_ends_the_call_only(foreign: PeerProcess) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        return Item(body=bytes(request.number))

    async with serving(behaviour) as backend:
        requests = [{"number": OVER_LIMIT}, {"number": 5}]
        answer = await foreign.ask("endings", port=backend.port, requests=requests)
    (code, details, _), after = answer["endings"]
    assert code == "RESOURCE_EXHAUSTED"
    assert "4194304" in details
    assert after == ["OK", "", 5]


@grpcio_only
@pytest.mark.parametrize("compression", [None, "gzip", "deflate", "zstd"])
async def test_their_client_and_our_server_compress(foreign: PeerProcess, compression: str | None) -> None:
    """As it asked, or as the server was told: but only in what the client takes."""
    async with serving(compression=compression) as backend:
        requests = [{"size": 10}, {"size": 10_000}, {"size": BULK}]
        answer = await foreign.ask("endings", port=backend.port, requests=requests, compress=True)
        assert [ending[0] for ending in answer["endings"]] == ["OK"] * 3
        assert backend.calls == 3


async def test_their_streaming_calls_are_unimplemented(foreign: PeerProcess) -> None:
    async with serving() as backend:
        assert await foreign.ask("streaming", port=backend.port) == {"codes": ["UNIMPLEMENTED"] * 3}
        answer = await foreign.ask("endings", port=backend.port, requests=[{"text": "next"}])
        assert answer["endings"] == [["OK", "", 0]]
