"""``lbkit.compat`` in the place of ``grpc``: the same blocking program does the same with either at either end."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
import pytest

from lbkit import compat
from tests.support.blocking import Blocking, Item
from tests.support.certificates import certificates
from tests.support.protos import kinds_pb2_grpc
from tests.support.servers import PATIENCE_S

pytestmark = pytest.mark.interop

EITHER = [grpc, compat]
NAMED: dict[str, Any] = {"argvalues": EITHER, "ids": [module.__name__ for module in EITHER]}


@contextmanager
def served(g: Any, *, secure: bool = False, **arguments: Any) -> Generator[int, None, None]:
    """Serve Kinds with a blocking server of ``g``."""
    with ThreadPoolExecutor(4) as threads:
        server = g.server(threads, **arguments)
        kinds_pb2_grpc.add_KindsServicer_to_server(Blocking(), server)
        if secure:
            known = certificates()
            pair = (known.key.read_bytes(), known.cert.read_bytes())
            port = server.add_secure_port("127.0.0.1:0", g.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            assert server.stop(None).wait(PATIENCE_S)


def stub_of(channel: Any) -> Any:
    stub: Any = kinds_pb2_grpc.KindsStub(channel)
    return stub


@pytest.mark.parametrize("client", **NAMED)
@pytest.mark.parametrize("server", **NAMED)
def test_calls_of_every_kind(client: Any, server: Any) -> None:
    options = [("grpc.max_receive_message_length", 1000)]
    with (
        served(server, options=options, compression=server.Compression.Gzip) as port,
        client.insecure_channel(f"127.0.0.1:{port}", options, client.Compression.Gzip) as channel,
    ):
        stub = stub_of(channel)
        reply, call = stub.UnaryUnary.with_call(Item(text="x"))
        assert (reply.text, call.code()) == ("x", client.StatusCode.OK)
        assert isinstance(call, client.Call)
        assert [item.number for item in stub.UnaryStream(Item(number=3))] == [0, 1, 2]
        assert stub.StreamUnary(Item(number=number) for number in range(4)).number == 6
        assert [item.number for item in stub.StreamStream(iter([Item(number=5)]))] == [5]
        future = stub.UnaryUnary.future(Item(number=1))
        assert isinstance(future, client.Future)
        assert future.result(PATIENCE_S).number == 2
        with pytest.raises(client.RpcError) as caught:
            stub.UnaryUnary(Item(text="x" * 2000))
        assert caught.value.code() is client.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("client", **NAMED)
@pytest.mark.parametrize("server", **NAMED)
def test_tls_and_credentials_of_calls(client: Any, server: Any) -> None:
    class Asks(server.ServerInterceptor):
        def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            seen.append(dict(handler_call_details.invocation_metadata).get("authorization"))
            return continuation(handler_call_details)

    seen: list[Any] = []
    with served(server, secure=True, interceptors=[Asks()]) as port:
        tls = client.ssl_channel_credentials(certificates().ca.read_bytes())
        token = client.access_token_call_credentials("secret")
        composed = client.composite_channel_credentials(tls, token)
        with client.secure_channel(f"localhost:{port}", composed) as channel:
            stub_of(channel).UnaryUnary(Item(), timeout=PATIENCE_S)
        options = [("grpc.ssl_target_name_override", "a.test.example")]
        with client.secure_channel(f"127.0.0.1:{port}", tls, options) as channel:
            stub_of(channel).UnaryUnary(Item(), timeout=PATIENCE_S)
    assert seen == ["Bearer secret", None]


class Said(NamedTuple):
    """What a program keeps of a call."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


def marking(g: Any, name: str) -> Any:
    """An interceptor as grpcio's own examples have it: details of a class of the program's."""

    class Details(Said, g.ClientCallDetails):
        pass

    class Marking(g.UnaryUnaryClientInterceptor, g.StreamStreamClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            assert isinstance(details, g.ClientCallDetails)
            request.text += name
            changed = Details(details.method, 5.0, details.metadata, details.credentials, None, None)
            return continuation(changed, request)

        def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
            return continuation(details, (Item(number=item.number + 1) for item in requests))

    return Marking()


@pytest.mark.parametrize("client", **NAMED)
def test_interceptors_surround_a_channel_the_first_one_outermost(client: Any) -> None:
    with served(compat) as port, client.insecure_channel(f"127.0.0.1:{port}") as plain:
        once = client.intercept_channel(plain, marking(client, "c"))
        with client.intercept_channel(once, marking(client, "a"), marking(client, "b")) as channel:
            stub = stub_of(channel)
            assert stub.UnaryUnary(Item()).text == "abc"
            assert stub.UnaryUnary.future(Item()).result(PATIENCE_S).text == "abc"
            assert [item.number for item in stub.StreamStream(iter([Item(number=1)]))] == [4]
            assert [item.number for item in stub.UnaryStream(Item(number=1))] == [0]
            assert stub.StreamUnary(iter([Item(number=1)])).number == 1


@pytest.mark.parametrize("client", **NAMED)
def test_channel_is_waited_for(client: Any) -> None:
    with served(compat) as port, client.insecure_channel(f"127.0.0.1:{port}") as channel:
        ready = client.channel_ready_future(channel)
        ready.result(timeout=PATIENCE_S)
        assert ready.done()
        assert not ready.cancel()
    with client.insecure_channel("127.0.0.1:1") as channel:
        ready = client.channel_ready_future(channel)
        with pytest.raises(client.FutureTimeoutError):
            ready.result(timeout=0.01)
        assert ready.cancel()
        with pytest.raises(client.FutureCancelledError):
            ready.result(timeout=PATIENCE_S)


def test_intercepted_channel_is_closed_and_looked_at_as_the_channel() -> None:
    channel = compat.intercept_channel(compat.insecure_channel("127.0.0.1:1"), marking(compat, "a"))
    assert channel.get_state() is compat.ChannelConnectivity.IDLE
    channel.close()
    with pytest.raises(TypeError, match="an interceptor is an object with a method"):
        compat.intercept_channel(channel, object())


def test_server_of_xds_is_refused() -> None:
    with ThreadPoolExecutor(1) as threads, pytest.raises(ValueError, match=r"server\(xds=True\)"):
        compat.server(threads, xds=True)


def test_handlers_can_be_given_at_once() -> None:
    handler = compat.unary_unary_rpc_method_handler(lambda request, context: request[::-1])
    generic = compat.method_handlers_generic_handler("a.B", {"C": handler})
    with ThreadPoolExecutor(1) as threads:
        server = compat.server(threads, [generic])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with compat.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert channel.unary_unary("/a.B/C")(b"abc") == b"cba"
        assert server.stop(None).wait(PATIENCE_S)


class Told(NamedTuple):
    """What a program says of a refusal."""

    code: Any
    details: str
    trailing_metadata: Any


class Refusal(Told, compat.Status):
    """The same, as grpcio wants it."""


def test_rich_status_of_a_program_ends_a_call() -> None:
    def refuse(request: bytes, context: Any) -> None:
        assert isinstance(context, compat.ServicerContext)
        assert isinstance(context, compat.RpcContext)
        context.abort_with_status(Refusal(compat.StatusCode.ABORTED, "no", (("why", "so"),)))

    handler = compat.unary_unary_rpc_method_handler(refuse)
    with ThreadPoolExecutor(1) as threads:
        server = compat.server(threads, [compat.method_handlers_generic_handler("a.B", {"C": handler})])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with compat.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(compat.RpcError) as caught:
                channel.unary_unary("/a.B/C")(b"")
            error: Any = caught.value
            assert (error.code(), dict(error.trailing_metadata())) == (
                compat.StatusCode.ABORTED,
                {"why": "so"},
            )
        assert server.stop(None).wait(PATIENCE_S)
