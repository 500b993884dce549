"""The public interop cases: lbkit's client with every server, every client with lbkit's server.

What they do stands in ``cases/``, once for each API; docs/design/interop.md has the list, and what is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest

import lbkit
from tests.interop.implementations import IMPLEMENTATIONS, cases_of, run_case, serving
from tests.interop.messages import CaseFailed, Settings
from tests.interop.servicers.aio import Servicer
from tests.support.peers import FOREIGN, PeerProcess, peer
from tests.support.protos import grpc_testing_pb2 as pb
from tests.support.protos import grpc_testing_pb2_grpc
from tests.support.servers import PATIENCE_S, channel_to

pytestmark = pytest.mark.interop

# Each foreign client and each foreign server passes with another one: what fails with lbkit is not the case's fault.
CONTROLS = [("grpcio_aio", "grpcio_blocking"), ("grpcio_blocking", "grpclib"), ("grpclib", "grpcio_aio")]
PAIRS = [
    *[("lbkit", server) for server in IMPLEMENTATIONS],
    *[(client, "lbkit") for client in FOREIGN],
    *CONTROLS,
]
ITERATIONS = 200
BUSY_MACHINE_S = 10.0  # a second is what is promised; the suite is no benchmark
GAPS = 20
GAP_S = 0.02
CONCURRENCY = 100


class Peers:
    """Foreign implementations, each started when it is first needed."""

    def __init__(self, processes: ExitStack) -> None:
        self._processes = processes
        self._running: dict[str, tuple[PeerProcess, int]] = {}

    def get(self, name: str) -> tuple[PeerProcess, int]:
        """Its process, and the port of its server."""
        if name not in self._running:
            process = self._processes.enter_context(peer(name))
            self._running[name] = process, int(process.ask_now("interop_serve")["port"])
        return self._running[name]


@pytest.fixture(scope="module")
def peers() -> Generator[Peers, None, None]:
    """Foreign implementations."""
    with ExitStack() as processes:
        yield Peers(processes)


@asynccontextmanager
async def server_of(name: str, peers: Peers) -> AsyncGenerator[int, None]:
    """A server: lbkit's in this process, so that what it leaves behind is found. Gives its port."""
    if name != "lbkit":
        yield peers.get(name)[1]
        return
    async with serving(name) as port:
        yield port


async def run(client: str, case: str, ports: Sequence[int], settings: Settings, peers: Peers) -> None:
    """Run a case: lbkit's client in this process."""
    if client == "lbkit":
        await run_case(client, case, [f"127.0.0.1:{port}" for port in ports], settings)
        return
    answer = await peers.get(client)[0].ask(
        "interop_case", case=case, ports=list(ports), settings=settings._asdict()
    )
    assert not answer["failed"], answer["failed"]


def settings_for(case: str, client: str, server: str) -> Settings:
    """As many calls as such a case is known for, unless it would take too long."""
    receiver = server if case == "client_pushback" else client
    return Settings(
        soak_iterations=GAPS if case == "long_lived_channel" or (client, server) in CONTROLS else ITERATIONS,
        soak_latency_s=BUSY_MACHINE_S,
        soak_gap_s=GAP_S if case == "long_lived_channel" else 0.0,
        concurrency=CONCURRENCY,
        # grpclib gives the connection's window back when the application reads the stream, as the stream's.
        neighbours=receiver != "grpclib",
    )


@pytest.mark.parametrize(
    ("client", "server", "case"),
    [
        pytest.param(client, server, case, id=f"{client}-to-{server}-{case}")
        for client, server in PAIRS
        for case in cases_of(client)
        if case != "pick_first_unary"  # several servers, below
    ],
)
async def test_case_passes(client: str, server: str, case: str, peers: Peers) -> None:
    async with server_of(server, peers) as port:
        await run(client, case, [port], settings_for(case, client, server), peers)


@pytest.mark.parametrize("server", IMPLEMENTATIONS)
async def test_pick_first_stays_with_one_of_our_servers_or_theirs(server: str, peers: Peers) -> None:
    async with serving("lbkit") as first, server_of(server, peers) as second:
        for ports in ([first, second], [second, first]):
            await run_case("lbkit", "pick_first_unary", [f"127.0.0.1:{port}" for port in ports], Settings())


@pytest.mark.parametrize("client", ["grpcio_aio", "grpcio_blocking"])  # grpclib knows one host
async def test_pick_first_of_grpcio_stays_with_one_of_our_servers(client: str, peers: Peers) -> None:
    async with serving("lbkit") as first, serving("lbkit") as second:
        await run(client, "pick_first_unary", [first, second], Settings(), peers)


class Wrong(Servicer):
    """Does each thing a little differently."""

    async def UnaryCall(self, request: Any, context: Any) -> Any:
        request.response_size = max(0, request.response_size - 1)
        request.response_status.message = request.response_status.message.strip() + "."
        return await super().UnaryCall(request, context)

    async def StreamingInputCall(self, request_iterator: AsyncIterable[Any], context: Any) -> Any:
        response = await super().StreamingInputCall(request_iterator, context)
        response.aggregated_payload_size += 1
        return response

    async def StreamingOutputCall(self, request: Any, context: Any) -> None:
        request.response_parameters.reverse()
        await super().StreamingOutputCall(request, context)

    async def FullDuplexCall(
        self, request_iterator: AsyncIterable[Any], context: Any
    ) -> AsyncGenerator[Any, None]:
        async for response in super().FullDuplexCall(request_iterator, context):
            response.payload.body += b"\0"
            yield response
        yield pb.StreamingOutputCallResponse()

    async def UnimplementedCall(self, request: Any, context: Any) -> Any:
        return pb.Empty()


WRONG = [
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "cancel_after_first_response",
    "rpc_soak",
    "channel_soak",
    "concurrent_large_unary",
]


@pytest.mark.parametrize("client", IMPLEMENTATIONS)
async def test_cases_fail_when_the_server_is_wrong(client: str, peers: Peers) -> None:
    settings = Settings(soak_iterations=2, concurrency=2)
    server = lbkit.Server()
    grpc_testing_pb2_grpc.add_TestServiceServicer_to_server(Wrong("wrong"), server)
    port = server.bind("127.0.0.1:0")
    await server.start()
    try:
        for case in WRONG:
            if client == "lbkit":
                with pytest.raises(CaseFailed):
                    await run(client, case, [port], settings, peers)
            else:
                with pytest.raises(AssertionError, match=r"\A(?!Traceback)"):  # no other error
                    await run(client, case, [port], settings, peers)
    finally:
        await server.stop(None)


async def test_wait_for_connection_does_not_wait_for_an_answer(peers: Peers) -> None:
    _, port = peers.get("grpcio_aio")
    async with channel_to(port) as channel:
        stub = grpc_testing_pb2_grpc.TestServiceStub(channel)
        call = stub.StreamingInputCall(timeout=PATIENCE_S)
        async with asyncio.timeout(2):  # grpc.aio's returns when the request's headers are sent
            await call.wait_for_connection()


async def test_every_client_runs_every_case() -> None:
    for client in FOREIGN:
        missing = set(cases_of("lbkit")) - set(cases_of(client))
        assert missing == ({"pick_first_unary"} if client == "grpclib" else set())
