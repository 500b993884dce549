"""Codecs: messages as JSON, as bytes, or as an application's own format, by the content-type."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Generator
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.json_format import ParseError
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue

import lbkit
from lbkit import StatusCode
from lbkit.encoding.codecs import Json, bind, message_class_of, registry
from lbkit.http2 import frames
from lbkit.wire.messages import frame_message
from tests.support.protos import kinds_pb2, kinds_pb2_grpc
from tests.support.servers import (
    PATIENCE_S,
    Item,
    RawPeer,
    calling,
    channel_to,
    failure,
    kinds,
    raw_client,
    raw_server,
    request_fields,
    serving,
)
from tests.support.wire import RESPONSE, TRAILERS, data_frame

JSON = (b"content-type", b"application/grpc+json")
ITEM = Item(text="ann", number=7, body=b"\x00\xff")


class Echo(kinds_pb2_grpc.KindsServicer):
    """Sends back what comes."""

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        return request

    async def UnaryStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield request

    async def StreamUnary(self, request_iterator: AsyncIterator[Any], context: Any) -> Any:
        return [each async for each in request_iterator][-1]

    async def StreamStream(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in request_iterator:
            yield request


async def all_kinds(stub: Any) -> None:
    assert await stub.UnaryUnary(ITEM, timeout=PATIENCE_S) == ITEM
    assert [each async for each in stub.UnaryStream(ITEM, timeout=PATIENCE_S)] == [ITEM]
    assert await stub.StreamUnary(iter([ITEM]), timeout=PATIENCE_S) == ITEM
    assert [each async for each in stub.StreamStream(iter([ITEM]), timeout=PATIENCE_S)] == [ITEM]


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("codec", [None, "proto", "json"])
async def test_every_kind_of_call_speaks_every_codec(codec: str | None, compression: str | None) -> None:
    server = lbkit.Server()
    server.add(kinds_pb2, "Kinds", Echo())
    port = server.bind("127.0.0.1:0")
    await server.start()
    try:
        async with channel_to(port, compression=compression) as channel:
            await all_kinds(channel.stub(kinds_pb2, "Kinds", codec=codec))
    finally:
        await server.stop(None)


async def test_generated_servicer_speaks_json_as_well() -> None:
    server = lbkit.Server()
    kinds_pb2_grpc.add_KindsServicer_to_server(Echo(), server)
    port = server.bind("127.0.0.1:0")
    await server.start()
    try:
        async with channel_to(port) as channel:
            await all_kinds(channel.stub(kinds_pb2, "Kinds", codec="json"))
    finally:
        await server.stop(None)


async def test_multicallable_takes_a_codec_and_the_class_of_its_deserializer() -> None:
    async with serving() as backend, channel_to(backend) as channel:
        call = channel.unary_unary(
            "/lbkit.tests.Kinds/UnaryUnary", Item.SerializeToString, Item.FromString, codec="json"
        )
        assert await call(ITEM, timeout=PATIENCE_S) == ITEM


async def test_raw_bytes_pass_for_protobuf() -> None:
    async with serving() as backend, channel_to(backend) as channel:
        stub = channel.stub(kinds_pb2, "Kinds", codec="raw")
        data = ITEM.SerializeToString()
        assert await stub.UnaryUnary(data, timeout=PATIENCE_S) == data


async def test_unknown_codec_is_answered_with_the_nearest() -> None:
    channel = lbkit.Channel("static:///127.0.0.1:1")
    with pytest.raises(lbkit.UnknownPluginError, match=r"no codec 'jsno'\. Did you mean 'json'\?"):
        channel.stub(kinds_pb2, "Kinds", codec="jsno")


async def test_codec_that_cannot_know_the_class_of_responses_says_so() -> None:
    channel: Any = lbkit.Channel("static:///127.0.0.1:1")
    with pytest.raises(TypeError, match="needs the class of the messages: give its FromString"):
        channel.unary_unary("/a/b", None, None, codec="json")
    with pytest.raises(TypeError):
        channel.stream_stream("/a/b", None, lambda data: data, codec="json")
    channel.unary_unary("/a/b", None, None, codec="raw")


# What is on the wire


async def test_client_names_its_codec_in_the_content_type() -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes:
        head = peer.headers(stream_id, ((b":status", b"200"), JSON))
        data = data_frame(stream_id, frame_message(b'{"text": "hi", "unheardOf": 1}'))
        return head + data + peer.headers(stream_id, TRAILERS, end=True)

    async with raw_server(answer) as server, channel_to(server.port) as channel:
        call = channel.stub(kinds_pb2, "Kinds", codec="json").UnaryUnary(ITEM, timeout=PATIENCE_S)
        assert await call == Item(text="hi")
        assert server.heads[0][b"content-type"] == b"application/grpc+json"
        (data,) = [each.payload for each in server.peers[0].received if each.kind == frames.DATA]
        assert json.loads(data[5:]) == {"text": "ann", "number": "7", "body": "AP8="}


async def ask(port: int, *fields: tuple[bytes, bytes], data: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """Make a unary call frame by frame; return the header fields of the answer, and its data."""
    async with raw_client(port) as peer:
        peer.writer.write(peer.headers(1, request_fields(*fields)) + data_frame(1, data, end=True))
        found: dict[bytes, bytes] = {}
        while b"grpc-status" not in found:
            frame = await peer.next_frame()
            if frame.kind == frames.HEADERS:
                found.update(peer.decode(frame.payload))
        return found, b"".join(each.payload for each in peer.received if each.kind == frames.DATA)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (b"application/grpc", b"application/grpc"),
        (b"application/grpc+proto", b"application/grpc+proto"),
        (b"application/grpc;charset=utf-8", b"application/grpc"),
        (b"application/grpc+json", b"application/grpc+json"),
        (b"application/grpc+json;charset=utf-8", b"application/grpc+json"),
    ],
)
async def test_r2_answer_is_of_the_type_of_its_request(asked: bytes, answered: bytes) -> None:
    data = b'{"text": "ann"}' if b"json" in asked else Item(text="ann").SerializeToString()
    async with serving() as backend:
        found, answer = await ask(backend.port, (b"content-type", asked), data=frame_message(data))
    assert found[b"content-type"] == answered
    assert found[b"grpc-status"] == b"0"
    assert Item(**json.loads(answer[5:])) == Item(text="ann") if b"json" in asked else answer[5:] == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"text": 7}',
        b'{"number": "seven"}',
        b"\xff",
        b'{"text": "' + b"\xff" + b'"}',
        b"[" * 100_000,
    ],
    ids=lambda data: repr(data[:12]),
)
async def test_r26_json_that_cannot_be_parsed_is_internal_and_its_handler_does_not_run(data: bytes) -> None:
    async with serving() as backend:
        message = frame_message(data)
        frames_of = [message[at : at + 16000] for at in range(0, len(message), 16000)]
        if len(frames_of) == 1:
            found, _ = await ask(backend.port, JSON, data=message)
            assert found[b"content-type"] == b"application/grpc+json"
            assert found[b"grpc-status"] == b"13"
            assert b"cannot be parsed" in found[b"grpc-message"]
        else:
            async with channel_to(backend) as channel:
                call = channel.stub(kinds_pb2, "Kinds", codec="json").UnaryUnary
                call.serialize = bytes
                assert (await failure(call(data, timeout=PATIENCE_S))).code() is StatusCode.INTERNAL
        assert backend.calls == 0


async def test_handler_whose_messages_are_bytes_is_not_served_as_json() -> None:
    """It would not know what it gets."""
    import grpc

    handler: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server = lbkit.Server()
    server.add_registered_method_handlers("lbkit.tests.Kinds", {"UnaryUnary": handler})
    port = server.bind("127.0.0.1:0")
    await server.start()
    try:
        found, _ = await ask(port, JSON, data=frame_message(b"{}"))
        assert found[b"grpc-status"] == b"12"
        assert b"is not served as json" in found[b"grpc-message"]
        found, answer = await ask(port, data=frame_message(b"{}"))
        assert (found[b"grpc-status"], answer[5:]) == (b"0", b"{}")
    finally:
        await server.stop(None)


async def test_unknown_method_is_unknown_in_every_codec() -> None:
    async with serving() as backend:
        found, _ = await ask(backend.port, JSON, (b":path", b"/no/such"), data=frame_message(b"{}"))
    assert found[b"grpc-status"] == b"12"
    assert b"no method '/no/such'" in found[b"grpc-message"]


async def test_answer_in_another_codec_cannot_be_parsed() -> None:
    def answer(peer: RawPeer, stream_id: int) -> bytes:
        head = peer.headers(stream_id, RESPONSE)
        data = data_frame(stream_id, frame_message(ITEM.SerializeToString()))
        return head + data + peer.headers(stream_id, TRAILERS, end=True)

    async with raw_server(answer) as server, channel_to(server.port) as channel:
        error = await failure(channel.stub(kinds_pb2, "Kinds", codec="json").UnaryUnary(ITEM))
        assert error.code() is StatusCode.INTERNAL
        assert "cannot be parsed" in error.details()


# Codecs of applications


@pytest.fixture
def shouting() -> Generator[None, None, None]:
    """Register a codec of our own, and forget it."""

    @lbkit.codec("shouting")
    class Shouting:
        def encode(self, message: Any) -> bytes:
            text: str = message.text
            return text.upper().encode()

        def decode(self, message_class: Any, data: bytes) -> Any:
            return message_class(text=data.decode())

    assert Shouting().encode(Item(text="a")) == b"A"
    yield
    del registry._registered["shouting"]


@pytest.mark.usefixtures("shouting")
async def test_codec_of_an_application_has_a_content_type_of_its_own() -> None:
    async with serving() as backend, channel_to(backend) as channel:
        stub = channel.stub(kinds_pb2, "Kinds", codec="shouting")
        assert await stub.UnaryUnary(Item(text="ann"), timeout=PATIENCE_S) == Item(text="ANN")
        found, answer = await ask(
            backend.port, (b"content-type", b"application/grpc+shouting"), data=frame_message(b"x")
        )
        assert found[b"content-type"] == b"application/grpc+shouting"
        assert answer == frame_message(b"X")


async def test_codec_that_two_claim_ends_its_calls_with_internal() -> None:
    class Other:
        def encode(self, message: Any) -> bytes:
            return b""

        def decode(self, message_class: Any, data: bytes) -> Any:
            return None

    before = list(registry._registered["json"])
    lbkit.codec("json")(Other)
    try:
        async with serving() as backend:
            found, _ = await ask(backend.port, JSON, data=frame_message(b"{}"))
            assert found[b"grpc-status"] == b"13"
            assert b"rename or remove one" in found[b"grpc-message"]
    finally:
        registry._registered["json"] = before


def test_r26_json_is_nested_as_deep_as_protobuf_can_be() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' * depth + b"1" + b"}" * depth

    assert Json().decode(Struct, nested(30)) is not None
    for depth in (60, 200, 100_000):  # each is two messages, a Struct and a Value
        with pytest.raises((ParseError, RecursionError)):
            Json().decode(Struct, nested(depth))


def test_json_of_wrapped_values_is_no_object() -> None:
    assert Json().decode(StringValue, b' "text"') == StringValue(value="text")
    assert Json().encode(StringValue(value="text")) == b'"text"'


def test_class_that_is_no_codec_is_refused() -> None:
    nothing: Any = type("Nothing", (), {})
    with pytest.raises(TypeError, match=r"has no method encode\(\)"):
        lbkit.codec("nothing")(nothing)


def test_class_of_messages_is_found_in_what_generated_code_passes() -> None:
    assert message_class_of(Item.FromString) is Item
    assert message_class_of(Item) is Item
    for other in (None, bytes, len, lambda data: data):
        assert message_class_of(other) is None


def test_protobuf_can_be_bound_by_name() -> None:
    bound = bind("proto", Item)
    assert bound.subtype == ""
    assert bound.decode(bound.encode(ITEM)) == ITEM


async def test_json_is_read_in_a_stream_message_by_message() -> None:
    """What came before a bad one is delivered."""
    got: list[str] = []

    async def behaviour(requests: Any, context: Any) -> Any:
        async for request in requests:
            got[len(got) :] = [request.text]
        return Item()

    async with kinds(SimpleNamespace(StreamUnary=behaviour)) as plain:
        call = plain.StreamUnary
        json_call = call.channel.stub(kinds_pb2, "Kinds", codec="json").StreamUnary
        json_call.serialize = bytes
        error = await failure(json_call(iter([b'{"text": "a"}', b"{"]), timeout=PATIENCE_S))
        assert error.code() is StatusCode.INTERNAL
    assert got == ["a"]


async def test_proto_is_what_generated_stubs_speak() -> None:
    async with calling() as call:
        assert await call(ITEM) == ITEM
        assert dict(call.prefix.fields)[b"content-type"] == b"application/grpc"
