"""The cases for grpclib's client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from grpclib.client import (
    Channel,
    StreamStreamMethod,
    StreamUnaryMethod,
    UnaryStreamMethod,
    UnaryUnaryMethod,
)
from grpclib.exceptions import GRPCError, StreamTerminatedError

from tests.interop.messages import (
    COUNTS,
    CROWD_S,
    ECHO_INITIAL,
    ECHO_TRAILING,
    GLANCE_S,
    INPUT_TOTAL,
    LARGE_REQUEST,
    LARGE_RESPONSE,
    NEVER_US,
    OUTPUT_SIZES,
    PATIENCE_S,
    PUSHBACK_COUNT,
    PUSHBACK_SIZE,
    SPECIAL_MESSAGE,
    STALLED_S,
    STATUS_MESSAGE,
    TINY_TIMEOUT_S,
    CaseFailed,
    Counts,
    Settings,
    Settling,
    Soak,
    equal,
    input_requests,
    large_request,
    output_request,
    ping_pong_requests,
    pushback_request,
    pushed_back,
    size_of,
    status_request,
    streamed_status_request,
)
from tests.support.protos import grpc_testing_pb2 as pb

SERVICE = "/grpc.testing.TestService"
METADATA: Any = [ECHO_INITIAL, ECHO_TRAILING]
DUPLEX = pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse


class Stub:
    """The methods of both services."""

    def __init__(self, channel: Channel) -> None:
        self.empty: Any = UnaryUnaryMethod(channel, f"{SERVICE}/EmptyCall", pb.Empty, pb.Empty)
        self.unary: Any = UnaryUnaryMethod(
            channel, f"{SERVICE}/UnaryCall", pb.SimpleRequest, pb.SimpleResponse
        )
        self.output: Any = UnaryStreamMethod(channel, f"{SERVICE}/StreamingOutputCall", *DUPLEX)
        self.input: Any = StreamUnaryMethod(
            channel,
            f"{SERVICE}/StreamingInputCall",
            pb.StreamingInputCallRequest,
            pb.StreamingInputCallResponse,
        )
        self.duplex: Any = StreamStreamMethod(channel, f"{SERVICE}/FullDuplexCall", *DUPLEX)
        self.no_method: Any = UnaryUnaryMethod(channel, f"{SERVICE}/UnimplementedCall", pb.Empty, pb.Empty)
        self.no_service: Any = UnaryUnaryMethod(
            channel, "/grpc.testing.UnimplementedService/UnimplementedCall", pb.Empty, pb.Empty
        )


class Client:
    """A channel, its methods, and how to open another one."""

    def __init__(self, connect: Callable[[], Channel], settings: Settings) -> None:
        self.connect = connect
        self.settings = settings
        self.channel = connect()
        self.stub = Stub(self.channel)


async def run(case: str, connect: Callable[[], Channel], settings: Settings) -> None:
    """Run a case.

    Raises:
        CaseFailed: the peer did not do what the case asks for.
        GRPCError, StreamTerminatedError, TimeoutError: a call that must not fail did.
    """
    client = Client(connect, settings)
    async with client.channel:
        await CASES[case](client)


async def failure(call: Coroutine[Any, Any, Any]) -> tuple[str, str]:
    """The status of a call that must fail: name and message."""
    try:
        found = await call
    except GRPCError as error:
        return error.status.name, error.message or ""
    raise CaseFailed(f"the call did not fail, it answered {found!r:.100}")


async def ends(stream: Any) -> None:
    """A stream's end: OK, and no message before it."""
    if found := await stream.recv_message():
        raise CaseFailed(f"another message came: {found!r:.100}")


async def empty_unary(client: Client) -> None:
    """A message without bytes, both ways."""
    equal(await client.stub.empty(pb.Empty(), timeout=PATIENCE_S), pb.Empty(), "response")


async def large_unary(client: Client) -> None:
    """A message of more than one frame and one window, both ways."""
    await call_large(client.stub)


async def call_large(stub: Stub, timeout: float = PATIENCE_S) -> None:
    response = await stub.unary(large_request(), timeout=timeout)
    equal(size_of(response), LARGE_RESPONSE, "size of the response")


async def client_streaming(client: Client) -> None:
    """Several requests, one response."""
    response = await client.stub.input(input_requests(), timeout=PATIENCE_S)
    equal(response.aggregated_payload_size, INPUT_TOTAL, "sum")


async def server_streaming(client: Client) -> None:
    """One request, several responses in their order."""
    responses = await client.stub.output(output_request(*OUTPUT_SIZES), timeout=PATIENCE_S)
    equal([size_of(response) for response in responses], list(OUTPUT_SIZES), "sizes of the responses")


async def ping_pong(client: Client) -> None:
    """A request when the response before it has come."""
    async with client.stub.duplex.open(timeout=PATIENCE_S) as stream:
        for size, request in zip(OUTPUT_SIZES, ping_pong_requests(), strict=True):
            await stream.send_message(request)
            equal(size_of(await stream.recv_message()), size, "size of the response")
        await stream.end()
        await ends(stream)


async def empty_stream(client: Client) -> None:
    """No message, neither way."""
    async with client.stub.duplex.open(timeout=PATIENCE_S) as stream:
        await stream.send_request(end=True)
        await ends(stream)


async def custom_metadata(client: Client) -> None:
    """Text in the headers, bytes in the trailers, of a unary call and of a stream."""
    async with client.stub.unary.open(metadata=METADATA, timeout=PATIENCE_S) as unary:
        await unary.send_message(large_request())
        equal(size_of(await unary.recv_message()), LARGE_RESPONSE, "size of the response")
        await unary.recv_trailing_metadata()
    metadata_came(unary)
    async with client.stub.duplex.open(metadata=METADATA, timeout=PATIENCE_S) as stream:
        await stream.send_message(output_request(LARGE_RESPONSE, send=LARGE_REQUEST), end=True)
        equal(size_of(await stream.recv_message()), LARGE_RESPONSE, "size of the response")
        await ends(stream)
        await stream.recv_trailing_metadata()
    metadata_came(stream)


def metadata_came(stream: Any) -> None:
    """Both are where they belong."""
    for metadata, expected in (
        (stream.initial_metadata, ECHO_INITIAL),
        (stream.trailing_metadata, ECHO_TRAILING),
    ):
        pairs = [pair for pair in metadata.items() if pair[0].startswith("x-grpc-test")]
        equal(pairs, [expected], "metadata")


async def status_code_and_message(client: Client) -> None:
    """A status of the server's choice, from a unary call and from a stream."""
    expected = ("UNKNOWN", STATUS_MESSAGE)
    unary = client.stub.unary(status_request(STATUS_MESSAGE), timeout=PATIENCE_S)
    equal(await failure(unary), expected, "status of the unary call")
    stream = client.stub.duplex([streamed_status_request(STATUS_MESSAGE)], timeout=PATIENCE_S)
    equal(await failure(stream), expected, "status of the stream")


async def special_status_message(client: Client) -> None:
    """White space and characters outside ASCII in a status."""
    call = client.stub.unary(status_request(SPECIAL_MESSAGE), timeout=PATIENCE_S)
    equal(await failure(call), ("UNKNOWN", SPECIAL_MESSAGE), "status")


async def unimplemented_method(client: Client) -> None:
    """A method that the service does not implement."""
    call = client.stub.no_method(pb.Empty(), timeout=PATIENCE_S)
    equal((await failure(call))[0], "UNIMPLEMENTED", "code")


async def unimplemented_service(client: Client) -> None:
    """A service that the server does not have."""
    call = client.stub.no_service(pb.Empty(), timeout=PATIENCE_S)
    equal((await failure(call))[0], "UNIMPLEMENTED", "code")


async def cancel_after_begin(client: Client) -> None:
    """A stream is cancelled when its headers have come, and the handler learns of it; here it has no status."""
    before = await counts(client.stub)
    async with client.stub.input.open(timeout=PATIENCE_S) as stream:
        await stream.send_request()
        await reach(client.stub, "begun", before)
        await stream.cancel()
    await reach(client.stub, "ended", before)


async def cancel_after_first_response(client: Client) -> None:
    """A stream is cancelled in the middle, and the handler learns of it; here it has no status."""
    before = await counts(client.stub)
    async with client.stub.duplex.open(timeout=PATIENCE_S) as stream:
        await stream.send_message(ping_pong_requests()[0])
        equal(size_of(await stream.recv_message()), OUTPUT_SIZES[0], "size of the response")
        await stream.cancel()
    await reach(client.stub, "ended", before)


async def timeout_on_sleeping_server(client: Client) -> None:
    """A deadline that passes while the server waits for more: grpclib raises TimeoutError, or reads the status."""
    await empty_unary(client)  # so that it is not the connection that takes too long
    code = "OK"
    try:
        async with client.stub.duplex.open(timeout=TINY_TIMEOUT_S) as stream:
            await stream.send_message(output_request(send=27_182))
            await stream.recv_message()
    except TimeoutError:
        code = "DEADLINE_EXCEEDED"
    except GRPCError as error:
        code = error.status.name
    equal(code, "DEADLINE_EXCEEDED", "code")


async def rpc_soak(client: Client) -> None:
    """Many calls on one channel."""
    await soak(client, lambda: call_large(client.stub))


async def channel_soak(client: Client) -> None:
    """Many calls, each on a channel of its own."""

    async def once() -> None:
        async with client.connect() as channel:
            await call_large(Stub(channel))

    await soak(client, once)


async def soak(client: Client, once: Callable[[], Awaitable[None]]) -> None:
    """Do something many times, and look at the time that it takes."""
    account = Soak(client.settings, time.monotonic())
    while account.goes_on(time.monotonic()):
        began, error = time.monotonic(), ""
        try:
            await once()
        except (CaseFailed, GRPCError, StreamTerminatedError, TimeoutError) as failed:
            error = repr(failed)
        await asyncio.sleep(account.note(time.monotonic() - began, error))
    account.verdict()


async def concurrent_large_unary(client: Client) -> None:
    """Many large calls at the same time."""
    await asyncio.gather(*(call_large(client.stub, CROWD_S) for _ in range(client.settings.concurrency)))


async def client_pushback(client: Client) -> None:
    """What the server does not read, the client cannot go on sending."""
    written = 0
    async with client.stub.duplex.open(timeout=2 * PATIENCE_S) as stream:
        # Until this is answered, the server reads no more.
        await stream.send_message(output_request(1, interval_us=NEVER_US))
        try:
            while written < PUSHBACK_COUNT:
                async with asyncio.timeout(STALLED_S):
                    await stream.send_message(output_request(send=PUSHBACK_SIZE))
                written += 1
        except TimeoutError:
            pass
        pushed_back(written)
        if client.settings.neighbours:
            await large_unary(client)
        await stream.cancel()


async def server_pushback(client: Client) -> None:
    """What the client does not read, the server cannot go on sending; when it reads, all of it comes."""
    onlooker = client.connect()
    async with onlooker, client.stub.output.open(timeout=2 * PATIENCE_S) as stream:
        stub = Stub(onlooker)
        before = (await counts(stub)).streamed
        await stream.send_message(pushback_request(), end=True)
        first = size_of(await stream.recv_message())
        settling = Settling(time.monotonic())
        while not settling.settled((await counts(stub)).streamed - before, time.monotonic()):  # noqa: ASYNC110 -- its counts set no event
            await asyncio.sleep(GLANCE_S)
        pushed_back(settling.count)
        if client.settings.neighbours:
            await large_unary(client)
        found = [first, *[size_of(response) async for response in stream]]
    equal(found, [PUSHBACK_SIZE] * PUSHBACK_COUNT, "sizes of the responses")


async def counts(stub: Stub) -> Counts:
    """What the server counts."""
    async with stub.empty.open(metadata={COUNTS: "1"}, timeout=PATIENCE_S) as stream:
        await stream.send_message(pb.Empty())
        await stream.recv_message()
        await stream.recv_trailing_metadata()
    return Counts.of(stream.trailing_metadata.items())


async def reach(stub: Stub, what: str, before: Counts) -> None:
    """Wait until the server has counted one more; a server that does not count is believed."""
    end = time.monotonic() + PATIENCE_S
    while before.known and getattr(await counts(stub), what) <= getattr(before, what):
        if time.monotonic() > end:
            raise CaseFailed(f"no handler has {what} within {PATIENCE_S} s")
        await asyncio.sleep(GLANCE_S)


CASES: dict[str, Callable[[Client], Awaitable[None]]] = {
    each.__name__: each
    for each in (
        empty_unary,
        large_unary,
        client_streaming,
        server_streaming,
        ping_pong,
        empty_stream,
        custom_metadata,
        status_code_and_message,
        special_status_message,
        unimplemented_method,
        unimplemented_service,
        cancel_after_begin,
        cancel_after_first_response,
        timeout_on_sleeping_server,
        rpc_soak,
        channel_soak,
        concurrent_large_unary,
        client_pushback,
        server_pushback,
    )
}
# The same calls with a gap between them.
CASES["long_lived_channel"] = rpc_soak
