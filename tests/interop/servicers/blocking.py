"""The test service on grpcio's blocking server."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc

from tests.interop.messages import COUNTS, ECHO_INITIAL, ECHO_TRAILING, Counts, echoed, payload
from tests.interop.servicers.aio import response_of
from tests.support.protos import grpc_testing_pb2 as pb
from tests.support.protos import grpc_testing_pb2_grpc


class Servicer(grpc_testing_pb2_grpc.TestServiceServicer):
    """Does what requests say."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = Counts()

    def EmptyCall(self, request: Any, context: Any) -> Any:
        """Answer with nothing."""
        if any(key == COUNTS for key, _ in context.invocation_metadata()):
            context.set_trailing_metadata((self.counts.pair(),))
        return pb.Empty()

    def UnaryCall(self, request: Any, context: Any) -> Any:
        """Answer with a payload."""
        if request.HasField("response_compressed"):
            compress(context, wanted=request.response_compressed.value)
        echo_metadata(context)
        refuse_if_told(request, context)
        return pb.SimpleResponse(
            payload=payload(request.response_size), server_id=self.name if request.fill_server_id else ""
        )

    def StreamingOutputCall(self, request: Any, context: Any) -> Iterator[Any]:
        """Send payloads."""
        refuse_if_told(request, context)
        compress(context, wanted=any(each.compressed.value for each in request.response_parameters))
        yield from self._responses(request, over_of(context), context)

    def StreamingInputCall(self, request_iterator: Iterable[Any], context: Any) -> Any:
        """Count the bytes of the payloads."""
        with self.counts.counting():
            total = sum(len(request.payload.body) for request in request_iterator)
        return pb.StreamingInputCallResponse(aggregated_payload_size=total)

    def FullDuplexCall(self, request_iterator: Iterable[Any], context: Any) -> Iterator[Any]:
        """Send payloads for each request, before the next one is read."""
        with self.counts.counting():
            echo_metadata(context)
            over = over_of(context)
            for request in request_iterator:
                refuse_if_told(request, context)
                yield from self._responses(request, over, context)

    def _responses(self, request: Any, over: threading.Event, context: Any) -> Iterator[Any]:
        for each in request.response_parameters:
            if each.interval_us and over.wait(each.interval_us / 1e6):
                return
            self.counts.streamed += 1
            if not each.compressed.value:
                context.disable_next_message_compression()
            yield response_of(each, context)


def over_of(context: Any) -> threading.Event:
    """An event that is set when the call is over."""
    over = threading.Event()
    if not context.add_callback(over.set):
        over.set()
    return over


def compress(context: Any, *, wanted: bool) -> None:
    """Have responses compressed, or not."""
    context.set_compression(grpc.Compression.Gzip if wanted else grpc.Compression.NoCompression)


def echo_metadata(context: Any) -> None:
    """Send metadata back where its key says."""
    for key, value in echoed(context.invocation_metadata()):
        if key == ECHO_INITIAL[0]:
            context.send_initial_metadata(((key, value),))
        if key == ECHO_TRAILING[0]:
            context.set_trailing_metadata(((key, value),))


def refuse_if_told(request: Any, context: Any) -> None:
    """End the call with the status that the request asks for, if it does."""
    status = request.response_status
    if status.code:
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        context.abort(code, status.message)
