"""The test service on servers of grpc.aio's API: grpcio's and lbkit's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

import grpc

from tests.interop.messages import COUNTS, ECHO_INITIAL, ECHO_TRAILING, Counts, echoed, payload
from tests.support.protos import grpc_testing_pb2 as pb
from tests.support.protos import grpc_testing_pb2_grpc


class Servicer(grpc_testing_pb2_grpc.TestServiceServicer):
    """Does what requests say; all three forms of servicer methods are in use."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = Counts()

    async def EmptyCall(self, request: Any, context: Any) -> Any:
        """Answer with nothing."""
        if any(key == COUNTS for key, _ in context.invocation_metadata()):
            context.set_trailing_metadata((self.counts.pair(),))
        return pb.Empty()

    async def UnaryCall(self, request: Any, context: Any) -> Any:
        """Answer with a payload."""
        if request.HasField("response_compressed"):
            compress(context, wanted=request.response_compressed.value)
        await echo_metadata(context)
        await refuse_if_told(request, context)
        return pb.SimpleResponse(
            payload=payload(request.response_size), server_id=self.name if request.fill_server_id else ""
        )

    async def StreamingOutputCall(self, request: Any, context: Any) -> None:
        """Send payloads."""
        await refuse_if_told(request, context)
        compress(context, wanted=any(each.compressed.value for each in request.response_parameters))
        for each in request.response_parameters:
            await asyncio.sleep(each.interval_us / 1e6)
            self.counts.streamed += 1
            if not each.compressed.value:
                context.disable_next_message_compression()
            await context.write(response_of(each, context))

    async def StreamingInputCall(self, request_iterator: AsyncIterable[Any], context: Any) -> Any:
        """Count the bytes of the payloads."""
        total = 0
        with self.counts.counting():
            async for request in request_iterator:
                total += len(request.payload.body)
        return pb.StreamingInputCallResponse(aggregated_payload_size=total)

    async def FullDuplexCall(
        self, request_iterator: AsyncIterable[Any], context: Any
    ) -> AsyncGenerator[Any, None]:
        """Send payloads for each request, before the next one is read."""
        with self.counts.counting():
            await echo_metadata(context)
            async for request in request_iterator:
                await refuse_if_told(request, context)
                for each in request.response_parameters:
                    await asyncio.sleep(each.interval_us / 1e6)
                    self.counts.streamed += 1
                    yield response_of(each, context)


def response_of(parameters: Any, context: Any) -> Any:
    """One message of a stream."""
    return pb.StreamingOutputCallResponse(
        payload=payload(parameters.size),
        peer_socket_address=context.peer() if parameters.fill_peer_socket_address.value else "",
    )


def compress(context: Any, *, wanted: bool) -> None:
    """Have responses compressed, or not."""
    context.set_compression(grpc.Compression.Gzip if wanted else grpc.Compression.NoCompression)


async def echo_metadata(context: Any) -> None:
    """Send metadata back where its key says."""
    for key, value in echoed(context.invocation_metadata()):
        if key == ECHO_INITIAL[0]:
            await context.send_initial_metadata(((key, value),))
        if key == ECHO_TRAILING[0]:
            context.set_trailing_metadata(((key, value),))


async def refuse_if_told(request: Any, context: Any) -> None:
    """End the call with the status that the request asks for, if it does."""
    status = request.response_status
    if status.code:
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        await context.abort(code, status.message)
