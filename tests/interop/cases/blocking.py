"""The cases for grpcio's blocking client."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

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


class Client:
    """A channel, its stubs, and how to open another one."""

    def __init__(self, connect: Callable[[], Any], settings: Settings) -> None:
        self.connect = connect
        self.settings = settings
        self.channel = connect()
        self.stub = grpc_testing_pb2_grpc.TestServiceStub(self.channel)


class Requests:
    """Requests that are made while a call runs: an iterator that blocks until there is one."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def write(self, request: Any) -> None:
        """Send a request."""
        self._queue.put(request)

    def end(self) -> None:
        """Send no more."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queue.get, None)


def run(case: str, connect: Callable[[], Any], settings: Settings) -> None:
    """Run a case.

    Raises:
        CaseFailed: the peer did not do what the case asks for.
        RpcError: a call that must not fail did.
    """
    client = Client(connect, settings)
    with client.channel:
        CASES[case](client)


def failure(method: Any, request: Any) -> tuple[str, str]:
    """Make a unary call that must fail; its status."""
    try:
        found = method(request, timeout=PATIENCE_S)
    except grpc.RpcError as error:
        return status(error)
    raise CaseFailed(f"the call did not fail, it answered {found!r:.100}")


def status(call: Any) -> tuple[str, str]:
    """The status of a call, when it is over."""
    return call.code().name, call.details()


def ends(call: Any) -> None:
    """A stream's end: OK, and no message before it."""
    if found := list(call):
        raise CaseFailed(f"another message came: {found[0]!r:.100}")
    equal(status(call)[0], "OK", "code")


def empty_unary(client: Client) -> None:
    """A message without bytes, both ways."""
    equal(client.stub.EmptyCall(pb.Empty(), timeout=PATIENCE_S), pb.Empty(), "response")


def large_unary(client: Client) -> None:
    """A message of more than one frame and one window, both ways."""
    call_large(client.stub)


def call_large(stub: Any, timeout: float = PATIENCE_S) -> None:
    response = stub.UnaryCall(large_request(), timeout=timeout)
    equal(size_of(response), LARGE_RESPONSE, "size of the response")


def client_streaming(client: Client) -> None:
    """Several requests, one response."""
    response = client.stub.StreamingInputCall(iter(input_requests()), timeout=PATIENCE_S)
    equal(response.aggregated_payload_size, INPUT_TOTAL, "sum")


def server_streaming(client: Client) -> None:
    """One request, several responses in their order."""
    call = client.stub.StreamingOutputCall(output_request(*OUTPUT_SIZES), timeout=PATIENCE_S)
    equal([size_of(response) for response in call], list(OUTPUT_SIZES), "sizes of the responses")
    equal(status(call)[0], "OK", "code")


def client_compressed_unary(client: Client) -> None:
    """Requests that are compressed, and one that is not, by the call's option."""
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression):
        response = client.stub.UnaryCall(large_request(), compression=compression, timeout=PATIENCE_S)
        equal(size_of(response), LARGE_RESPONSE, "size of the response")


def client_compressed_streaming(client: Client) -> None:
    """Requests of a stream, both compressed: this API has no way to leave one out."""
    requests = [pb.StreamingInputCallRequest(payload=payload(size)) for size in COMPRESSED_INPUT_SIZES]
    method = client.stub.StreamingInputCall
    response = method(iter(requests), compression=grpc.Compression.Gzip, timeout=PATIENCE_S)
    equal(response.aggregated_payload_size, COMPRESSED_INPUT_TOTAL, "sum of an iterator")


def server_compressed_unary(client: Client) -> None:
    """Responses that are compressed, and that are not."""
    for compressed in (True, False):
        request = large_request()
        request.response_compressed.value = compressed
        response = client.stub.UnaryCall(request, timeout=PATIENCE_S)
        equal(size_of(response), LARGE_RESPONSE, "size of the response")


def server_compressed_streaming(client: Client) -> None:
    """A response that is compressed, and one of the same stream that is not."""
    call = client.stub.StreamingOutputCall(compressed_output_request(), timeout=PATIENCE_S)
    found = [size_of(response) for response in call]
    equal(found, list(COMPRESSED_OUTPUT_SIZES), "sizes of the responses")
    equal(status(call)[0], "OK", "code")


def ping_pong(client: Client) -> None:
    """A request when the response before it has come."""
    requests = Requests()
    call = client.stub.FullDuplexCall(iter(requests), timeout=PATIENCE_S)
    for size, request in zip(OUTPUT_SIZES, ping_pong_requests(), strict=True):
        requests.write(request)
        equal(size_of(next(call)), size, "size of the response")
    requests.end()
    ends(call)


def empty_stream(client: Client) -> None:
    """No message, neither way."""
    ends(client.stub.FullDuplexCall(iter(()), timeout=PATIENCE_S))


def custom_metadata(client: Client) -> None:
    """Text in the headers, bytes in the trailers, of a unary call and of a stream."""
    metadata = (ECHO_INITIAL, ECHO_TRAILING)
    _, unary = client.stub.UnaryCall.with_call(large_request(), metadata=metadata, timeout=PATIENCE_S)
    metadata_came(unary)
    request = output_request(LARGE_RESPONSE, send=LARGE_REQUEST)
    stream = client.stub.FullDuplexCall(iter([request]), metadata=metadata, timeout=PATIENCE_S)
    equal(size_of(next(stream)), LARGE_RESPONSE, "size of the response")
    ends(stream)
    metadata_came(stream)


def metadata_came(call: Any) -> None:
    """Both are where they belong."""
    for pairs, expected in (
        (call.initial_metadata(), ECHO_INITIAL),
        (call.trailing_metadata(), ECHO_TRAILING),
    ):
        equal([tuple(pair) for pair in pairs if pair[0].startswith("x-grpc-test")], [expected], "metadata")


def status_code_and_message(client: Client) -> None:
    """A status of the server's choice, from a unary call and from a stream."""
    expected = ("UNKNOWN", STATUS_MESSAGE)
    equal(
        failure(client.stub.UnaryCall, status_request(STATUS_MESSAGE)), expected, "status of the unary call"
    )
    request = streamed_status_request(STATUS_MESSAGE)
    stream = client.stub.FullDuplexCall(iter([request]), timeout=PATIENCE_S)
    equal(status(stream), expected, "status of the stream")


def special_status_message(client: Client) -> None:
    """White space and characters outside ASCII in a status."""
    found = failure(client.stub.UnaryCall, status_request(SPECIAL_MESSAGE))
    equal(found, ("UNKNOWN", SPECIAL_MESSAGE), "status")


def unimplemented_method(client: Client) -> None:
    """A method that the service does not implement."""
    equal(failure(client.stub.UnimplementedCall, pb.Empty())[0], "UNIMPLEMENTED", "code")


def unimplemented_service(client: Client) -> None:
    """A service that the server does not have."""
    stub = grpc_testing_pb2_grpc.UnimplementedServiceStub(client.channel)
    equal(failure(stub.UnimplementedCall, pb.Empty())[0], "UNIMPLEMENTED", "code")


def cancel_after_begin(client: Client) -> None:
    """A stream is cancelled when its headers have come, and the handler learns of it."""
    before = counts(client.stub)
    requests = Requests()
    call = client.stub.StreamingInputCall.future(iter(requests), timeout=PATIENCE_S)
    reach(client.stub, "begun", before)
    call.cancel()
    requests.end()
    equal(call.code().name, "CANCELLED", "code")
    reach(client.stub, "ended", before)


def cancel_after_first_response(client: Client) -> None:
    """A stream is cancelled in the middle, and the handler learns of it."""
    before = counts(client.stub)
    requests = Requests()
    call = client.stub.FullDuplexCall(iter(requests), timeout=PATIENCE_S)
    requests.write(ping_pong_requests()[0])
    equal(size_of(next(call)), OUTPUT_SIZES[0], "size of the response")
    call.cancel()
    requests.end()
    equal(call.code().name, "CANCELLED", "code")
    reach(client.stub, "ended", before)


def timeout_on_sleeping_server(client: Client) -> None:
    """A deadline that passes while the server waits for more."""
    empty_unary(client)  # so that it is not the connection that takes too long
    requests = Requests()
    requests.write(output_request(send=27_182))
    call = client.stub.FullDuplexCall(iter(requests), timeout=TINY_TIMEOUT_S)
    equal(call.code().name, "DEADLINE_EXCEEDED", "code")
    requests.end()


def rpc_soak(client: Client) -> None:
    """Many calls on one channel."""
    soak(client, lambda: call_large(client.stub))


def channel_soak(client: Client) -> None:
    """Many calls, each on a channel of its own."""

    def once() -> None:
        with client.connect() as channel:
            call_large(grpc_testing_pb2_grpc.TestServiceStub(channel))

    soak(client, once)


def soak(client: Client, once: Callable[[], None]) -> None:
    """Do something many times, and look at the time that it takes."""
    account = Soak(client.settings, time.monotonic())
    while account.goes_on(time.monotonic()):
        began, error = time.monotonic(), ""
        try:
            once()
        except (CaseFailed, grpc.RpcError) as failed:
            error = str(failed)
        time.sleep(account.note(time.monotonic() - began, error))
    account.verdict()


def pick_first_unary(client: Client) -> None:
    """A hundred calls, all to the same of several servers."""
    request = pb.SimpleRequest(fill_server_id=True)
    responses = [client.stub.UnaryCall(request, timeout=PATIENCE_S) for _ in range(100)]
    equal(len({response.server_id for response in responses}), 1, "servers that answered")
    if not responses[0].server_id:
        raise CaseFailed("the server did not name itself")


def concurrent_large_unary(client: Client) -> None:
    """Many large calls at the same time."""
    count = client.settings.concurrency
    with ThreadPoolExecutor(count) as executor:
        list(executor.map(call_large, [client.stub] * count, [CROWD_S] * count))


def client_pushback(client: Client) -> None:
    """What the server does not read, the client cannot go on sending."""
    taken = 0

    def requests() -> Iterator[Any]:
        nonlocal taken
        yield output_request(1, interval_us=NEVER_US)  # until this is answered, it reads no more
        while taken < PUSHBACK_COUNT:
            taken += 1
            yield output_request(send=PUSHBACK_SIZE)

    call = client.stub.FullDuplexCall(requests(), timeout=2 * PATIENCE_S)
    settling = Settling(time.monotonic())
    while not settling.settled(taken, time.monotonic()) or not taken:
        time.sleep(GLANCE_S)
    pushed_back(settling.count)
    if client.settings.neighbours:
        large_unary(client)
    call.cancel()


def server_pushback(client: Client) -> None:
    """What the client does not read, the server cannot go on sending; when it reads, all of it comes."""
    with client.connect() as onlooker:
        stub = grpc_testing_pb2_grpc.TestServiceStub(onlooker)
        before = counts(stub).streamed
        call = client.stub.StreamingOutputCall(pushback_request(), timeout=2 * PATIENCE_S)
        first = size_of(next(call))
        settling = Settling(time.monotonic())
        while not settling.settled(counts(stub).streamed - before, time.monotonic()):
            time.sleep(GLANCE_S)
    pushed_back(settling.count)
    if client.settings.neighbours:
        large_unary(client)
    found = [first, *(size_of(response) for response in call)]
    equal(found, [PUSHBACK_SIZE] * PUSHBACK_COUNT, "sizes of the responses")


def counts(stub: Any) -> Counts:
    """What the server counts."""
    _, call = stub.EmptyCall.with_call(pb.Empty(), metadata=((COUNTS, "1"),), timeout=PATIENCE_S)
    return Counts.of(call.trailing_metadata())


def reach(stub: Any, what: str, before: Counts) -> None:
    """Wait until the server has counted one more; a server that does not count is believed."""
    end = time.monotonic() + PATIENCE_S
    while before.known and getattr(counts(stub), what) <= getattr(before, what):
        if time.monotonic() > end:
            raise CaseFailed(f"no handler has {what} within {PATIENCE_S} s")
        time.sleep(GLANCE_S)


CASES: dict[str, Callable[[Client], None]] = {
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
        concurrent_large_unary,
        client_pushback,
        server_pushback,
    )
}
# The same calls with a gap between them.
CASES["long_lived_channel"] = rpc_soak
