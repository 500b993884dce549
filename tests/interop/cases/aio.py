"""The cases for clients of grpc.aio's API: grpcio's and lbkit's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio

import lbkit
from tests.interop.messages import (
    COMPRESSED_INPUT_SIZES,
    COMPRESSED_INPUT_TOTAL,
    COMPRESSED_OUTPUT_SIZES,
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
    compressed_output_request,
    equal,
    input_requests,
    large_request,
    output_request,
    payload,
    ping_pong_requests,
    pushback_request,
    pushed_back,
    size_of,
    status_request,
    streamed_status_request,
)
from tests.support.protos import grpc_testing_pb2 as pb
from tests.support.protos import grpc_testing_pb2_grpc

RPC_ERRORS = (grpc.aio.AioRpcError, lbkit.RpcError)


class Client:
    """A channel, its stubs, and how to open another one."""

    def __init__(self, connect: Callable[[], Any], settings: Settings) -> None:
        self.connect = connect
        self.settings = settings
        self.channel = connect()
        self.stub = grpc_testing_pb2_grpc.TestServiceStub(self.channel)


async def run(case: str, connect: Callable[[], Any], settings: Settings) -> None:
    """Run a case.

    Raises:
        CaseFailed: the peer did not do what the case asks for.
        RpcError: a call that must not fail did.
    """
    client = Client(connect, settings)
    async with client.channel:
        await CASES[case](client)


async def failure(call: Any) -> tuple[str, str]:
    """The status of a call that must fail: name and message."""
    try:
        found = await call
    except RPC_ERRORS:
        return await status(call)
    raise CaseFailed(f"the call did not fail, it answered {found!r:.100}")


async def status(call: Any) -> tuple[str, str]:
    """The status of a call, when it is over."""
    async with asyncio.timeout(PATIENCE_S):
        return (await call.code()).name, await call.details()


async def empty_unary(client: Client) -> None:
    """A message without bytes, both ways."""
    equal(await client.stub.EmptyCall(pb.Empty(), timeout=PATIENCE_S), pb.Empty(), "response")


async def large_unary(client: Client) -> None:
    """A message of more than one frame and one window, both ways."""
    await call_large(client.stub)


async def call_large(stub: Any, timeout: float = PATIENCE_S) -> None:
    response = await stub.UnaryCall(large_request(), timeout=timeout)
    equal(size_of(response), LARGE_RESPONSE, "size of the response")


async def client_streaming(client: Client) -> None:
    """Several requests, one response, by both ways to write."""
    response = await client.stub.StreamingInputCall(iter(input_requests()), timeout=PATIENCE_S)
    equal(response.aggregated_payload_size, INPUT_TOTAL, "sum of an iterator")
    call = client.stub.StreamingInputCall(timeout=PATIENCE_S)
    for request in input_requests():
        await call.write(request)
    await call.done_writing()
    equal((await call).aggregated_payload_size, INPUT_TOTAL, "sum of what was written")


async def server_streaming(client: Client) -> None:
    """One request, several responses in their order."""
    call = client.stub.StreamingOutputCall(output_request(*OUTPUT_SIZES), timeout=PATIENCE_S)
    found = [size_of(response) async for response in call]
    equal(found, list(OUTPUT_SIZES), "sizes of the responses")
    equal((await status(call))[0], "OK", "code")


async def client_compressed_unary(client: Client) -> None:
    """Requests that are compressed, and one that is not, by the call's option."""
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression):
        call = client.stub.UnaryCall(large_request(), compression=compression, timeout=PATIENCE_S)
        equal(size_of(await call), LARGE_RESPONSE, "size of the response")


async def client_compressed_streaming(client: Client) -> None:
    """A request that is compressed, and one of the same stream that is not, where the API can say so."""
    call = client.stub.StreamingInputCall(compression=grpc.Compression.Gzip, timeout=PATIENCE_S)
    as_it_is = {"compress": False} if isinstance(client.channel, lbkit.Channel) else {}
    for size, how in zip(COMPRESSED_INPUT_SIZES, ({}, as_it_is), strict=True):
        await call.write(pb.StreamingInputCallRequest(payload=payload(size)), **how)
    await call.done_writing()
    equal((await call).aggregated_payload_size, COMPRESSED_INPUT_TOTAL, "sum of what was written")


async def server_compressed_unary(client: Client) -> None:
    """Responses that are compressed, and that are not."""
    for compressed in (True, False):
        request = large_request()
        request.response_compressed.value = compressed
        response = await client.stub.UnaryCall(request, timeout=PATIENCE_S)
        equal(size_of(response), LARGE_RESPONSE, "size of the response")


async def server_compressed_streaming(client: Client) -> None:
    """A response that is compressed, and one of the same stream that is not."""
    call = client.stub.StreamingOutputCall(compressed_output_request(), timeout=PATIENCE_S)
    found = [size_of(response) async for response in call]
    equal(found, list(COMPRESSED_OUTPUT_SIZES), "sizes of the responses")
    equal((await status(call))[0], "OK", "code")


async def ping_pong(client: Client) -> None:
    """A request when the response before it has come."""
    call = client.stub.FullDuplexCall(timeout=PATIENCE_S)
    for size, request in zip(OUTPUT_SIZES, ping_pong_requests(), strict=True):
        await call.write(request)
        equal(size_of(await call.read()), size, "size of the response")
    await call.done_writing()
    await ends(call)


async def ends(call: Any) -> None:
    """A stream's end: OK, and no message before it."""
    if found := await call.read():
        raise CaseFailed(f"another message came: {found!r:.100}")
    equal((await status(call))[0], "OK", "code")


async def empty_stream(client: Client) -> None:
    """No message, neither way."""
    call = client.stub.FullDuplexCall(timeout=PATIENCE_S)
    await call.done_writing()
    await ends(call)


async def custom_metadata(client: Client) -> None:
    """Text in the headers, bytes in the trailers, of a unary call and of a stream."""
    metadata = (ECHO_INITIAL, ECHO_TRAILING)
    unary = client.stub.UnaryCall(large_request(), metadata=metadata, timeout=PATIENCE_S)
    await unary
    await metadata_came(unary)
    stream = client.stub.FullDuplexCall(metadata=metadata, timeout=PATIENCE_S)
    await stream.write(output_request(LARGE_RESPONSE, send=LARGE_REQUEST))
    equal(size_of(await stream.read()), LARGE_RESPONSE, "size of the response")
    await stream.done_writing()
    await ends(stream)
    await metadata_came(stream)


async def metadata_came(call: Any) -> None:
    """Both are where they belong."""
    for pairs, expected in (
        (await call.initial_metadata(), ECHO_INITIAL),
        (await call.trailing_metadata(), ECHO_TRAILING),
    ):
        equal([pair for pair in pairs if pair[0].startswith("x-grpc-test")], [expected], "metadata")


async def status_code_and_message(client: Client) -> None:
    """A status of the server's choice, from a unary call and from a stream."""
    expected = ("UNKNOWN", STATUS_MESSAGE)
    unary = client.stub.UnaryCall(status_request(STATUS_MESSAGE), timeout=PATIENCE_S)
    equal(await failure(unary), expected, "status of the unary call")
    stream = client.stub.FullDuplexCall(timeout=PATIENCE_S)
    await stream.write(streamed_status_request(STATUS_MESSAGE))
    equal(await status(stream), expected, "status of the stream")


async def special_status_message(client: Client) -> None:
    """White space and characters outside ASCII in a status."""
    call = client.stub.UnaryCall(status_request(SPECIAL_MESSAGE), timeout=PATIENCE_S)
    equal(await failure(call), ("UNKNOWN", SPECIAL_MESSAGE), "status")


async def unimplemented_method(client: Client) -> None:
    """A method that the service does not implement."""
    call = client.stub.UnimplementedCall(pb.Empty(), timeout=PATIENCE_S)
    equal((await failure(call))[0], "UNIMPLEMENTED", "code")


async def unimplemented_service(client: Client) -> None:
    """A service that the server does not have."""
    stub = grpc_testing_pb2_grpc.UnimplementedServiceStub(client.channel)
    call = stub.UnimplementedCall(pb.Empty(), timeout=PATIENCE_S)
    equal((await failure(call))[0], "UNIMPLEMENTED", "code")


async def cancel_after_begin(client: Client) -> None:
    """A stream is cancelled when its headers have come, and the handler learns of it."""
    before = await counts(client.stub)
    call = client.stub.StreamingInputCall(timeout=PATIENCE_S)
    await reach(client.stub, "begun", before)
    call.cancel()
    equal((await status(call))[0], "CANCELLED", "code")
    await reach(client.stub, "ended", before)


async def cancel_after_first_response(client: Client) -> None:
    """A stream is cancelled in the middle, and the handler learns of it."""
    before = await counts(client.stub)
    call = client.stub.FullDuplexCall(timeout=PATIENCE_S)
    first = ping_pong_requests()[0]
    await call.write(first)
    equal(size_of(await call.read()), OUTPUT_SIZES[0], "size of the response")
    call.cancel()
    equal((await status(call))[0], "CANCELLED", "code")
    await reach(client.stub, "ended", before)


async def timeout_on_sleeping_server(client: Client) -> None:
    """A deadline that passes while the server waits for more."""
    await empty_unary(client)  # so that it is not the connection that takes too long
    code = ""
    for timeout_s in (TINY_TIMEOUT_S, 0.1, 1.0):
        call = client.stub.FullDuplexCall(timeout=timeout_s)
        writing = asyncio.ensure_future(call.write(output_request(send=27_182)))
        code = (await status(call))[0]
        await asyncio.wait([writing])  # the deadline may come before
        failure = writing.exception()
        if code != "INTERNAL" or failure is None or isinstance(failure, lbkit.RpcError):
            break  # else it came while grpcio wrote, which calls that so
    equal(code, "DEADLINE_EXCEEDED", "code")


async def rpc_soak(client: Client) -> None:
    """Many calls on one channel."""
    await soak(client, lambda: call_large(client.stub))


async def channel_soak(client: Client) -> None:
    """Many calls, each on a channel of its own."""

    async def once() -> None:
        async with client.connect() as channel:
            await call_large(grpc_testing_pb2_grpc.TestServiceStub(channel))

    await soak(client, once)


async def soak(client: Client, once: Callable[[], Awaitable[None]]) -> None:
    """Do something many times, and look at the time that it takes."""
    account = Soak(client.settings, time.monotonic())
    while account.goes_on(time.monotonic()):
        began, error = time.monotonic(), ""
        try:
            await once()
        except (CaseFailed, *RPC_ERRORS) as failed:
            error = str(failed)
        await asyncio.sleep(account.note(time.monotonic() - began, error))
    account.verdict()


async def pick_first_unary(client: Client) -> None:
    """A hundred calls, all to the same of several servers."""
    request = pb.SimpleRequest(fill_server_id=True)
    responses = [await client.stub.UnaryCall(request, timeout=PATIENCE_S) for _ in range(100)]
    equal(len({response.server_id for response in responses}), 1, "servers that answered")
    if not responses[0].server_id:
        raise CaseFailed("the server did not name itself")


async def max_concurrent_streams_connection_scaling(client: Client) -> None:
    """As many streams as a connection may have, and one more, which gets another connection (gRFC A105)."""
    streams = client.settings.streams
    calls = [client.stub.FullDuplexCall(timeout=PATIENCE_S) for _ in range(streams + 1)]
    peers = [await peer_of(call) for call in calls]
    equal(len(set(peers[:streams])), 1, "connections of the first streams")
    if peers[-1] in peers[:streams]:
        raise CaseFailed(f"stream {streams + 1} is on the connection of the others, from {peers[-1]}")
    for call in calls:
        await call.done_writing()
        await ends(call)


async def peer_of(call: Any) -> str:
    """Where the server sees a stream come from."""
    request = output_request(1)
    request.response_parameters[0].fill_peer_socket_address.value = True
    await call.write(request)
    if found := (await call.read()).peer_socket_address:
        return str(found)
    raise CaseFailed("the server does not say where streams come from")


async def concurrent_large_unary(client: Client) -> None:
    """Many large calls at the same time."""
    await asyncio.gather(*(call_large(client.stub, CROWD_S) for _ in range(client.settings.concurrency)))


async def client_pushback(client: Client) -> None:
    """What the server does not read, the client cannot go on sending."""
    call = client.stub.FullDuplexCall(timeout=2 * PATIENCE_S)
    await call.write(output_request(1, interval_us=NEVER_US))  # until this is answered, it reads no more
    written = 0
    try:
        while written < PUSHBACK_COUNT:
            async with asyncio.timeout(STALLED_S):
                await call.write(output_request(send=PUSHBACK_SIZE))
            written += 1
    except TimeoutError:
        pass
    pushed_back(written)
    if client.settings.neighbours:
        await large_unary(client)
    call.cancel()


async def server_pushback(client: Client) -> None:
    """What the client does not read, the server cannot go on sending; when it reads, all of it comes."""
    async with client.connect() as onlooker:
        stub = grpc_testing_pb2_grpc.TestServiceStub(onlooker)
        before = (await counts(stub)).streamed
        call = client.stub.StreamingOutputCall(pushback_request(), timeout=2 * PATIENCE_S)
        found = [size_of(await call.read())]
        settling = Settling(time.monotonic())
        while not settling.settled((await counts(stub)).streamed - before, time.monotonic()):  # noqa: ASYNC110 -- its counts set no event
            await asyncio.sleep(GLANCE_S)
    pushed_back(settling.count)
    if client.settings.neighbours:
        await large_unary(client)
    while response := await call.read():
        found.append(size_of(response))
    equal(found, [PUSHBACK_SIZE] * PUSHBACK_COUNT, "sizes of the responses")


async def counts(stub: Any) -> Counts:
    """What the server counts."""
    call = stub.EmptyCall(pb.Empty(), metadata=((COUNTS, "1"),), timeout=PATIENCE_S)
    await call
    return Counts.of(await call.trailing_metadata())


async def reach(stub: Any, what: str, before: Counts) -> None:
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
        client_compressed_unary,
        client_compressed_streaming,
        server_compressed_unary,
        server_compressed_streaming,
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
        pick_first_unary,
        max_concurrent_streams_connection_scaling,
        concurrent_large_unary,
        client_pushback,
        server_pushback,
    )
}
# The same calls with a gap between them.
CASES["long_lived_channel"] = rpc_soak
