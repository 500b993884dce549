"""The test service on grpclib's server."""

from __future__ import annotations

import asyncio
from typing import Any

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from tests.interop.messages import COUNTS, ECHO_INITIAL, ECHO_TRAILING, Counts, payload
from tests.support.protos import grpc_testing_pb2 as pb

AnyStream = Stream[Any, Any]


class Servicer:
    """Does what requests say."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = Counts()

    async def empty_call(self, stream: AnyStream) -> None:
        """Answer with nothing."""
        await stream.recv_message()
        await stream.send_message(pb.Empty())
        if COUNTS in (stream.metadata or {}):
            await stream.send_trailing_metadata(metadata=[self.counts.pair()])

    async def unary_call(self, stream: AnyStream) -> None:
        """Answer with a payload."""
        await echo_initial(stream)
        request = await stream.recv_message()
        assert request is not None
        refuse_if_told(request)
        await stream.send_message(
            pb.SimpleResponse(
                payload=payload(request.response_size), server_id=self.name if request.fill_server_id else ""
            )
        )
        await echo_trailing(stream)

    async def streaming_output_call(self, stream: AnyStream) -> None:
        """Send payloads."""
        request = await stream.recv_message()
        await self._respond(stream, request)

    async def streaming_input_call(self, stream: AnyStream) -> None:
        """Count the bytes of the payloads."""
        total = 0
        with self.counts.counting():
            async for request in stream:
                total += len(request.payload.body)
        await stream.send_message(pb.StreamingInputCallResponse(aggregated_payload_size=total))

    async def full_duplex_call(self, stream: AnyStream) -> None:
        """Send payloads for each request, before the next one is read."""
        with self.counts.counting():
            await echo_initial(stream)
            async for request in stream:
                await self._respond(stream, request)
            await echo_trailing(stream)

    async def _respond(self, stream: AnyStream, request: Any) -> None:
        refuse_if_told(request)
        for each in request.response_parameters:
            await asyncio.sleep(each.interval_us / 1e6)
            self.counts.streamed += 1
            await stream.send_message(pb.StreamingOutputCallResponse(payload=payload(each.size)))

    def __mapping__(self) -> dict[str, Handler]:
        one, streamed = pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse
        summed = pb.StreamingInputCallRequest, pb.StreamingInputCallResponse
        methods: dict[str, tuple[Any, Cardinality, Any, Any]] = {
            "EmptyCall": (self.empty_call, Cardinality.UNARY_UNARY, pb.Empty, pb.Empty),
            "UnaryCall": (self.unary_call, Cardinality.UNARY_UNARY, pb.SimpleRequest, pb.SimpleResponse),
            "StreamingOutputCall": (self.streaming_output_call, Cardinality.UNARY_STREAM, one, streamed),
            "StreamingInputCall": (self.streaming_input_call, Cardinality.STREAM_UNARY, *summed),
            "FullDuplexCall": (self.full_duplex_call, Cardinality.STREAM_STREAM, one, streamed),
        }
        return {f"/grpc.testing.TestService/{name}": Handler(*method) for name, method in methods.items()}


async def echo_initial(stream: AnyStream) -> None:
    """Send metadata back ahead of the response, if there is any to send there."""
    metadata: Any = stream.metadata
    found = metadata.get(ECHO_INITIAL[0])
    if found is not None:
        await stream.send_initial_metadata(metadata={ECHO_INITIAL[0]: found})


async def echo_trailing(stream: AnyStream) -> None:
    """Send metadata back with the status, if there is any to send there."""
    metadata: Any = stream.metadata
    found = metadata.get(ECHO_TRAILING[0])
    if found is not None:
        await stream.send_trailing_metadata(metadata={ECHO_TRAILING[0]: found})


def refuse_if_told(request: Any) -> None:
    """End the call with the status that the request asks for, if it does."""
    status = request.response_status
    if status.code:
        raise GRPCError(Status(status.code), status.message)
