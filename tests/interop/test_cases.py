"""The public interop cases: lbkit's client with every server, every client with lbkit's server.

What they do stands in ``cases/``, once for each API; docs/design/interop.md has the list, and what is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import lbkit
from tests.interop.implementations import IMPLEMENTATIONS, cases_of, run_case, serving
from tests.interop.messages import CaseFailed, Settings
from tests.interop.security import of_this_run
from tests.interop.servicers.aio import Servicer
from tests.support.peers import PeerProcess, peer
from tests.support.protos import grpc_testing_pb2 as pb
from tests.support.protos import grpc_testing_pb2_grpc
from tests.support.servers import PATIENCE_S, channel_to
from tests.support.tools import grpc_js, needed

pytestmark = pytest.mark.interop

FOREIGN = [name for name in IMPLEMENTATIONS if name != "lbkit"]
# Each foreign client and each foreign server passes with another one: what fails with lbkit is not the case's fault.
CONTROLS = [
    ("grpcio_aio", "grpcio_blocking"),
    ("grpcio_blocking", "grpclib"),
    ("grpclib", "grpc_js"),
    ("grpc_js", "grpcio_aio"),
]
OURS = [*[("lbkit", server) for server in IMPLEMENTATIONS], *[(client, "lbkit") for client in FOREIGN]]
SOAKS = ("rpc_soak", "channel_soak", "long_lived_channel")
ITERATIONS = 200  # of those, in `make soak`
FEW = 20  # in the suite, where it is not the count that is on trial; and over TLS, whose handshakes take their time
COMPRESSED = {
    "client_compressed_unary",
    "client_compressed_streaming",
    "server_compressed_unary",
    "server_compressed_streaming",
}
# grpclib compresses nothing, and does not look whether somebody else did; grpc-js's server reads what is compressed.
NOT_SERVED = {"grpclib": COMPRESSED, "grpc_js": {"server_compressed_unary", "server_compressed_streaming"}}
SEVERAL = {"pick_first_unary", "max_concurrent_streams_connection_scaling"}  # need servers of their own
BUSY_MACHINE_S = 10.0  # a second is what is promised; the suite is no benchmark
GAP_S = 0.02
CONCURRENCY = 100
STREAMS = 3


class Peers:
    """Foreign implementations and their servers, each started when it is first needed."""

    def __init__(self, processes: ExitStack) -> None:
        self._processes = processes
        self._running: dict[str, PeerProcess] = {}
        self._ports: dict[tuple[str, bool, int | None], int] = {}

    def get(self, name: str) -> PeerProcess:
        """Its process."""
        if name not in self._running:
            if name == "grpc_js":
                needed(grpc_js)
            self._running[name] = self._processes.enter_context(peer(name))
        return self._running[name]

    def port(self, name: str, *, tls: bool = False, streams: int | None = None) -> int:
        """Where its server listens."""
        key = name, tls, streams
        if key not in self._ports:
            identity = of_this_run()[0] if tls else None
            answer = self.get(name).ask_now("interop_serve", identity=identity, streams=streams)
            self._ports[key] = int(answer["port"])
        return self._ports[key]


@pytest.fixture(scope="module")
def peers() -> Generator[Peers, None, None]:
    """Foreign implementations."""
    with ExitStack() as processes:
        yield Peers(processes)


@asynccontextmanager
async def server_of(
    name: str, peers: Peers, *, tls: bool = False, streams: int | None = None
) -> AsyncGenerator[int, None]:
    """A server: lbkit's in this process, so that what it leaves behind is found. Gives its port."""
    if name != "lbkit":
        yield peers.port(name, tls=tls, streams=streams)
        return
    async with serving(name, identity=of_this_run()[0] if tls else None, streams=streams) as port:
        yield port


async def run(
    client: str, case: str, ports: Sequence[int], settings: Settings, peers: Peers, *, tls: bool = False
) -> None:
    """Run a case: lbkit's client in this process."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    trust = of_this_run()[1] if tls else None
    if client == "lbkit":
        await run_case(client, case, addresses, settings, trust)
        return
    answer = await peers.get(client).ask(
        "interop_case", case=case, addresses=addresses, settings=settings._asdict(), trust=trust
    )
    assert not answer["failed"], answer["failed"]


def settings_for(case: str, client: str, server: str, *, tls: bool, calls: int) -> Settings:
    """What a case is known for, unless it would take too long."""
    receiver = server if case == "client_pushback" else client
    return Settings(
        soak_iterations=calls,
        soak_latency_s=BUSY_MACHINE_S,
        soak_gap_s=GAP_S if case == "long_lived_channel" else 0.0,
        concurrency=FEW if tls else CONCURRENCY,
        # grpclib gives the connection's window back when the application reads the stream, as the stream's.
        neighbours=receiver != "grpclib",
    )


def runs(client: str, server: str) -> list[str]:
    """The cases that a pair runs."""
    left_out = SEVERAL | NOT_SERVED.get(server, set())
    return [case for case in cases_of(client) if case not in left_out]


@pytest.mark.parametrize(
    ("client", "server", "case", "tls"),
    [
        pytest.param(client, server, case, tls, id=f"{client}-to-{server}-{'tls-' if tls else ''}{case}")
        for tls in (False, True)
        for client, server in (OURS if tls else [*OURS, *CONTROLS])
        for case in runs(client, server)
    ],
)
async def test_case_passes(client: str, server: str, case: str, tls: bool, peers: Peers) -> None:
    async with server_of(server, peers, tls=tls) as port:
        settings = settings_for(case, client, server, tls=tls, calls=FEW)
        await run(client, case, [port], settings, peers, tls=tls)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("client", "server", "case"),
    [(client, server, case) for client, server in OURS for case in SOAKS if case in runs(client, server)],
)
async def test_case_passes_with_as_many_calls_as_it_is_known_for(
    client: str, server: str, case: str, peers: Peers
) -> None:
    async with server_of(server, peers) as port:
        settings = settings_for(case, client, server, tls=False, calls=ITERATIONS)
        await run(client, case, [port], settings, peers)


@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
@pytest.mark.parametrize("server", IMPLEMENTATIONS)
async def test_pick_first_stays_with_one_of_our_servers_or_theirs(
    server: str, tls: bool, peers: Peers
) -> None:
    async with server_of("lbkit", peers, tls=tls) as first, server_of(server, peers, tls=tls) as second:
        for ports in ([first, second], [second, first]):
            await run("lbkit", "pick_first_unary", ports, Settings(), peers, tls=tls)


@pytest.mark.parametrize("client", [client for client in FOREIGN if client != "grpclib"])  # it knows one host
async def test_pick_first_of_others_stays_with_one_of_our_servers(client: str, peers: Peers) -> None:
    async with serving("lbkit") as first, serving("lbkit") as second:
        await run(client, "pick_first_unary", [first, second], Settings(), peers)


@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
# It sets no limit.
@pytest.mark.parametrize("server", [name for name in IMPLEMENTATIONS if name != "grpclib"])
async def test_full_connection_gets_a_second_one(server: str, tls: bool, peers: Peers) -> None:
    case, settings = "max_concurrent_streams_connection_scaling", Settings(streams=STREAMS)
    async with server_of(server, peers, tls=tls, streams=STREAMS) as port:
        await run("lbkit", case, [port], settings, peers, tls=tls)


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
    async with channel_to(peers.port("grpcio_aio")) as channel:
        stub = grpc_testing_pb2_grpc.TestServiceStub(channel)
        call = stub.StreamingInputCall(timeout=PATIENCE_S)
        async with asyncio.timeout(2):  # grpc.aio's returns when the request's headers are sent
            await call.wait_for_connection()


async def test_every_client_runs_every_case() -> None:
    ours_alone = {"max_concurrent_streams_connection_scaling"}
    for client in FOREIGN:
        missing = set(cases_of("lbkit")) - set(cases_of(client)) - ours_alone
        assert missing == ({"pick_first_unary", *COMPRESSED} if client == "grpclib" else set())


PAGE = Path(__file__).parents[2] / "docs" / "design" / "interop.md"


def matrix() -> list[str]:
    """The rows of the page's table."""
    rows = []
    for client, server in [*OURS, *CONTROLS]:
        count = len(runs(client, server))
        missing = [case for case in runs("lbkit", "lbkit") if case not in runs(client, server)]
        left_out = "the compressed ones" if set(missing) == COMPRESSED else ", ".join(missing)
        tls = str(count) if (client, server) in OURS else ""
        rows.append(f"| {client} | {server} | {count} | {tls} | {left_out} |")
    return rows


def test_page_has_the_matrix_and_every_case() -> None:
    page = PAGE.read_text()
    for row in matrix():
        assert f"\n{row}\n" in page
    described = page.partition("## The cases")[2].partition("`test_negative_cases.py`")[0]
    for case in cases_of("lbkit"):
        assert case in described
