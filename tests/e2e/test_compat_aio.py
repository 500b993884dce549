"""``lbkit.compat.aio`` in the place of ``grpc.aio``: the same program does the same with either at either end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

import lbkit
from lbkit import compat
from lbkit.compat.options import UnknownOptionWarning
from tests.support.certificates import certificates
from tests.support.protos import kinds_pb2_grpc
from tests.support.servers import PATIENCE_S, Item, until

pytestmark = [
    pytest.mark.interop,
    pytest.mark.may_leak("thread", "socket", reason="grpcio keeps polling for a while"),
]

ROOT = Path(__file__).resolve().parents[2]
EITHER = pytest.mark.parametrize("client", [grpc, compat], ids=lambda module: module.__name__)
BOTH = [EITHER, pytest.mark.parametrize("server", [grpc, compat], ids=lambda module: module.__name__)]
RETRYING = {
    "methodConfig": [
        {
            "name": [{"service": "lbkit.tests.Kinds"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.02s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def both(test: Any) -> Any:
    """Run a test with each of the two at each end."""
    for mark in BOTH:
        test = mark(test)
    return test


class Kinds(kinds_pb2_grpc.KindsServicer):
    """Does what a request says; written with the names of the module that it is given."""

    def __init__(self, g: Any) -> None:
        self.g = g
        self.calls = 0
        self.seen: dict[str, Any] = {}

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        self.calls += 1
        self.seen = dict(context.invocation_metadata())
        self.seen["peer"] = sorted(context.auth_context())
        g = self.g
        if request.text == "twice" and self.calls < 3:
            await context.abort(g.StatusCode.UNAVAILABLE, "not yet")
        if request.text == "rich":
            detail = status_pb2.Status(code=g.StatusCode.NOT_FOUND.value[0], message="no such thing")
            detail.details.add().Pack(error_details_pb2.ErrorInfo(reason="GONE"))
            await context.abort_with_status(rpc_status.to_status(detail))
        if request.text == "hang":
            await asyncio.sleep(PATIENCE_S)
        return request

    async def UnaryStream(self, request: Any, context: Any) -> Any:
        self.seen = dict(context.invocation_metadata())
        for number in range(request.number):
            await context.write(Item(number=number))

    async def StreamUnary(self, request_iterator: Any, context: Any) -> Any:
        self.seen = dict(context.invocation_metadata())
        total = 0
        while (request := await context.read()) is not self.g.aio.EOF:
            total += request.number
        return Item(number=total)

    async def StreamStream(self, request_iterator: Any, context: Any) -> Any:
        self.seen = dict(context.invocation_metadata())
        async for request in request_iterator:
            yield request


@asynccontextmanager
async def served(
    g: Any, *, secure: bool = False, **arguments: Any
) -> AsyncGenerator[tuple[Kinds, int], None]:
    """Serve Kinds with a server of ``g``."""
    server = g.aio.server(**arguments)
    kinds = Kinds(g)
    kinds_pb2_grpc.add_KindsServicer_to_server(kinds, server)
    if secure:
        known = certificates()
        pair = (known.key.read_bytes(), known.cert.read_bytes())
        port = server.add_secure_port("127.0.0.1:0", g.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield kinds, port
    finally:
        await server.stop(None)


def stub_of(channel: Any) -> Any:
    stub: Any = kinds_pb2_grpc.KindsStub(channel)
    return stub


async def numbers(count: int) -> AsyncGenerator[Any, None]:
    for number in range(count):
        yield Item(number=number)


@both
async def test_calls_of_every_kind_with_options_and_compression(client: Any, server: Any) -> None:
    async with served(
        server,
        options=[("grpc.max_concurrent_streams", 10), ("grpc.so_reuseport", 0)],
        compression=server.Compression.Gzip,
        maximum_concurrent_rpcs=10,
    ) as (_, port):
        options = (("grpc.keepalive_time_ms", 60_000), ("grpc.lb_policy_name", "round_robin"))
        channel = client.aio.insecure_channel(f"127.0.0.1:{port}", options, client.Compression.Deflate)
        async with channel:
            stub = stub_of(channel)
            assert (await stub.UnaryUnary(Item(text="x" * 5000))).text == "x" * 5000
            assert [item.number async for item in stub.UnaryStream(Item(number=3))] == [0, 1, 2]
            assert (await stub.StreamUnary(numbers(4), compression=client.Compression.Gzip)).number == 6
            call = stub.StreamStream()
            await call.write(Item(number=7))
            assert (await call.read()).number == 7
            await call.done_writing()
            assert await call.read() is client.aio.EOF
            assert await call.code() is client.StatusCode.OK
            assert isinstance(call, client.aio.StreamStreamCall)
            assert isinstance(call, client.aio.Call)
            assert isinstance(call, client.aio.RpcContext)


@both
async def test_messages_are_limited_as_options_say(client: Any, server: Any) -> None:
    async with served(server, options=[("grpc.max_receive_message_length", 2000)]) as (_, port):
        options = [("grpc.max_receive_message_length", 1000)]
        async with client.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            for size in (1500, 2500):
                with pytest.raises(client.aio.AioRpcError) as caught:
                    await stub_of(channel).UnaryUnary(Item(text="x" * size))
                assert caught.value.code() is client.StatusCode.RESOURCE_EXHAUSTED
    unlimited = [("grpc.max_receive_message_length", -1)]
    text = "x" * 5_000_000  # more than the 4 MiB that there are without options
    async with (
        served(server, options=unlimited) as (_, port),
        client.aio.insecure_channel(f"127.0.0.1:{port}", unlimited) as channel,
    ):
        assert (await stub_of(channel).UnaryUnary(Item(text=text))).text == text


def made(g: Any) -> list[Any]:
    """Interceptors as programs write them, by the names of ``g``."""

    def marked(details: Any) -> Any:
        metadata = g.aio.Metadata(*(details.metadata or ()))
        metadata.add("x-by", "interceptor")
        return g.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )

    class Unary(g.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            if request.text == "refused":
                raise g.aio.AioRpcError(
                    grpc.StatusCode.ABORTED, grpc.aio.Metadata(), grpc.aio.Metadata(), details="not that"
                )
            return await continuation(marked(details), request)

    class Streaming(g.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(marked(details), request)

    class Uploading(g.aio.StreamUnaryClientInterceptor):
        async def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
            return await continuation(marked(details), requests)

    class Talking(g.aio.StreamStreamClientInterceptor):
        async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
            return await continuation(marked(details), requests)

    return [Unary(), Streaming(), Uploading(), Talking()]


@both
async def test_interceptors_are_those_that_programs_have(client: Any, server: Any) -> None:
    async with served(server) as (kinds, port):
        channel = client.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=made(client))
        async with channel:
            stub = stub_of(channel)
            assert isinstance(made(client)[0], client.aio.ClientInterceptor)
            for start in (lambda: stub.UnaryUnary(Item()), lambda: stub.StreamUnary(numbers(1))):
                kinds.seen = {}
                call = start()
                assert isinstance(call, client.aio.Call)
                assert (await call).number == 0
                assert kinds.seen["x-by"] == "interceptor"
            for start in (lambda: stub.UnaryStream(Item(number=1)), lambda: stub.StreamStream(numbers(1))):
                kinds.seen = {}
                call = start()
                assert isinstance(call, client.aio.Call)
                assert [item.number async for item in call] == [0]
                assert kinds.seen["x-by"] == "interceptor"
            with pytest.raises(client.aio.AioRpcError, match="not that") as caught:
                await stub.UnaryUnary(Item(text="refused"))
            assert caught.value.code() == client.StatusCode.ABORTED


@both
async def test_server_interceptors_choose_handlers(client: Any, server: Any) -> None:
    class Gate(server.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            if dict(details.invocation_metadata).get("key") == "right":
                return await continuation(details)

            async def refuse(request: Any, context: Any) -> None:
                await context.abort(server.StatusCode.UNAUTHENTICATED, f"no key for {details.method}")

            return server.unary_unary_rpc_method_handler(refuse)

    async with (
        served(server, interceptors=[Gate()]) as (_, port),
        client.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = stub_of(channel)
        assert await stub.UnaryUnary(Item(number=1), metadata=(("key", "right"),)) == Item(number=1)
        with pytest.raises(client.RpcError) as caught:
            await stub.UnaryUnary(Item())
        assert caught.value.details() == "no key for /lbkit.tests.Kinds/UnaryUnary"


@both
async def test_tls_and_credentials_of_calls(client: Any, server: Any) -> None:
    class Signing(client.AuthMetadataPlugin):
        def __call__(self, context: Any, callback: Any) -> None:
            callback((("x-signed", context.method_name),), None)

    async with served(server, secure=True) as (kinds, port):
        tls = client.ssl_channel_credentials(certificates().ca.read_bytes())
        signing = client.metadata_call_credentials(Signing())
        token = client.access_token_call_credentials("secret")
        composed = client.composite_channel_credentials(tls, signing)
        assert isinstance(composed, client.ChannelCredentials)
        options = [("grpc.ssl_target_name_override", "a.test.example")]
        async with client.aio.secure_channel(f"127.0.0.1:{port}", composed, options) as channel:
            await stub_of(channel).UnaryUnary(Item(), timeout=PATIENCE_S, credentials=token)
            assert kinds.seen["x-signed"] == "UnaryUnary"
            assert kinds.seen["authorization"] == "Bearer secret"
            assert "transport_security_type" in kinds.seen["peer"]
        several = client.composite_channel_credentials(composed, client.composite_call_credentials(token))
        async with client.aio.secure_channel(f"localhost:{port}", several) as channel:
            await stub_of(channel).UnaryUnary(Item(), timeout=PATIENCE_S)
            assert {"x-signed", "authorization"} <= set(kinds.seen)


@both
async def test_rich_errors_are_read(client: Any, server: Any) -> None:
    async with served(server) as (_, port), client.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(client.aio.AioRpcError) as caught:
            await stub_of(channel).UnaryUnary(Item(text="rich"))
        assert caught.value.code() is client.StatusCode.NOT_FOUND
        packed = status_pb2.Status.FromString(
            dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
        )
        info = error_details_pb2.ErrorInfo()
        assert packed.details[0].Unpack(info)
        assert info.reason == "GONE"


@both
@pytest.mark.parametrize("enabled", [None, 0])
async def test_retries_are_those_of_the_service_config(client: Any, server: Any, enabled: int | None) -> None:
    options: list[Any] = [("grpc.service_config", json.dumps(RETRYING))]
    options += [] if enabled is None else [("grpc.enable_retries", enabled)]
    async with (
        served(server) as (kinds, port),
        client.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
    ):
        call = stub_of(channel).UnaryUnary(Item(text="twice"))
        code = await call.code()
        assert (code.name, kinds.calls) == (("OK", 3) if enabled is None else ("UNAVAILABLE", 1))


@both
async def test_calls_wait_and_are_cancelled(client: Any, server: Any) -> None:
    async with served(server) as (kinds, port), client.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = stub_of(channel)
        await asyncio.wait_for(channel.channel_ready(), PATIENCE_S)
        assert channel.get_state() is client.ChannelConnectivity.READY
        call = stub.UnaryUnary(Item(text="hang"), wait_for_ready=True)
        await until(lambda: kinds.calls)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await call.code() is client.StatusCode.CANCELLED
        with pytest.raises(client.aio.AioRpcError) as caught:
            await stub.UnaryUnary(Item(text="hang"), timeout=0.05)
        assert caught.value.code() is client.StatusCode.DEADLINE_EXCEEDED


async def test_policy_is_pick_first_unless_an_option_says_else() -> None:
    for options, policy in ((None, "pick_first"), ([("grpc.lb_policy_name", "random")], "random")):
        channel = compat.aio.insecure_channel("127.0.0.1:1", options=options)
        assert channel.balancer == policy
        await channel.close()


async def test_handlers_can_be_given_at_once() -> None:
    async def reverse(request: bytes, context: Any) -> bytes:
        return request[::-1]

    handler = compat.unary_unary_rpc_method_handler(reverse)
    generic = compat.method_handlers_generic_handler("a.B", {"C": handler})
    server = compat.aio.server(handlers=[generic])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with compat.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await channel.unary_unary("/a.B/C")(b"abc") == b"cba"
    await server.stop(None)


def no_effect(make: Callable[[Any], Any]) -> Any:
    """Make something with an unknown option, and see that the line is named which is here."""
    with pytest.warns(UnknownOptionWarning, match="no effect") as caught:
        made = make([("grpc.nothing", 1)])
    assert [each.filename for each in caught] == [__file__]
    return made


async def test_unknown_option_is_warned_of_where_it_is_written() -> None:
    await no_effect(lambda options: compat.aio.insecure_channel("127.0.0.1:1", options)).close()
    tls = compat.ssl_channel_credentials()
    await no_effect(lambda options: compat.aio.secure_channel("127.0.0.1:1", tls, options)).close()
    await no_effect(lambda options: compat.aio.server(options=options)).stop(None)


def test_unknown_option_of_a_blocking_program_is_warned_of_as_well() -> None:
    no_effect(lambda options: compat.insecure_channel("127.0.0.1:1", options)).close()
    tls = compat.ssl_channel_credentials()
    no_effect(lambda options: compat.secure_channel("127.0.0.1:1", tls, options)).close()
    with ThreadPoolExecutor(1) as threads:
        no_effect(lambda options: compat.server(threads, options=options)).stop(None)


async def test_servers_share_a_port_that_both_ask_to_share() -> None:
    shared = [("grpc.so_reuseport", 1)]
    servers = [compat.aio.server(options=options) for options in (shared, shared, None)]
    port = servers[0].add_insecure_port("127.0.0.1:0")
    await servers[0].start()
    assert servers[1].add_insecure_port(f"127.0.0.1:{port}") == port
    with pytest.raises(OSError, match="in use"):
        servers[2].add_insecure_port(f"127.0.0.1:{port}")
    for server in servers:
        await server.stop(None)


def test_starting_and_stopping_grpcio_is_nothing() -> None:
    compat.aio.init_grpc_aio()
    compat.aio.shutdown_grpc_aio()


WITHOUT = """
import asyncio, sys
sys.modules["grpc"] = None  # importing it fails
import lbkit.compat as grpc
grpc.install_grpc_shim()
from tests.support.protos import kinds_pb2_grpc
from tests.support.protos.kinds_pb2 import Item

class Kinds(kinds_pb2_grpc.KindsServicer):
    async def UnaryUnary(self, request, context: grpc.aio.ServicerContext[Item, Item]):
        await context.abort(grpc.StatusCode.NOT_FOUND, request.text)

async def main():
    server = grpc.aio.server()
    kinds_pb2_grpc.add_KindsServicer_to_server(Kinds(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            await kinds_pb2_grpc.KindsStub(channel).UnaryUnary(Item(text="nobody"))
        except grpc.aio.AioRpcError as error:
            print(error.code() is grpc.StatusCode.NOT_FOUND, error.details(), isinstance(error, grpc.RpcError))
    await server.stop(None)

asyncio.run(main())
"""


def test_program_runs_without_grpcio() -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT]
    path = os.pathsep.join(str(ROOT / source) for source in (".", "resolvers", "balancers"))
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True nobody True\n", "")


# Names


@pytest.mark.parametrize(
    ("ours", "theirs"), [(compat, grpc), (compat.aio, grpc.aio)], ids=["grpc", "grpc.aio"]
)
def test_every_name_of_grpcio_is_there_or_says_what_to_use(ours: ModuleType, theirs: ModuleType) -> None:
    for name in theirs.__all__:
        if name not in ours.__all__:
            with pytest.raises(AttributeError, match=rf"has no attribute '{name}'; "):
                getattr(ours, name)
        else:
            assert getattr(ours, name) is not None


@pytest.mark.parametrize("module", [compat, compat.aio], ids=lambda module: module.__name__)
def test_name_that_nobody_has_is_missing(module: ModuleType) -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'nothing'$"):
        _ = module.nothing


def test_codes_and_states_are_those_that_calls_give() -> None:
    assert compat.StatusCode is lbkit.StatusCode  # type: ignore[comparison-overlap]
    assert compat.ChannelConnectivity is lbkit.ConnectivityState  # type: ignore[comparison-overlap]
    assert compat.aio.EOF is lbkit.EOF  # type: ignore[comparison-overlap]


def test_errors_are_grpcios_where_it_is_loaded() -> None:
    assert compat.RpcError is grpc.RpcError
    assert compat.aio.AioRpcError is grpc.aio.AioRpcError


def test_errors_are_ours_where_grpcio_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (None, object()):  # not loaded; half of it, or another one of the name
        monkeypatch.setitem(sys.modules, "grpc", module)
        assert compat.RpcError is compat.aio.AioRpcError is lbkit.RpcError  # type: ignore[comparison-overlap]


def test_contexts_can_be_annotated_with_types() -> None:
    assert get_args(compat.aio.ServicerContext[int, str]) == (int, str)
    assert not isinstance(object(), compat.aio.RpcContext)
