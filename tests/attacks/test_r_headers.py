"""Requests whose headers are wrong: rows R1 to R16. They are refused, no handler runs, and the connection lives on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field
from tests.attacks.attacker import BODY
from tests.attacks.bad_server import good
from tests.attacks.four_kinds import KINDS, REQUEST_STREAMS, Echo, Stage, message, path, staged
from tests.support.protos import kinds_pb2
from tests.support.servers import (
    PATIENCE_S,
    Item,
    channel_to,
    failure,
    kinds,
    raw_server,
    request_fields,
)
from tests.support.wire import settings_frame

HELLO = message("hello")


async def refused(
    stage: Stage, kind: str, *changes: Field, end: bool = True, without: bytes = b""
) -> dict[bytes, bytes]:
    """Make a call whose headers are wrong; return the answer's."""
    stream_id = await stage.caller.call(kind, HELLO, *changes, end=end, without=without)
    found = await stage.caller.answer(stream_id)
    assert stage.caller.goaways == []
    if not end:
        await stage.caller.assert_no_more_wanted(stream_id)
    return found


async def assert_reset(fields: list[Field]) -> None:
    """A request is malformed as HTTP (RFC 9113 8.1.1)."""
    async with staged() as stage:
        stream_id = await stage.caller.call_with(fields, HELLO)
        await stage.caller.assert_reset(stream_id, ErrorCode.PROTOCOL_ERROR)
        assert stream_id not in stage.caller.heads
        assert stage.servicer.got == []


async def assert_served(*changes: Field, without: bytes = b"") -> None:
    async with staged() as stage:
        for kind in KINDS:
            stream_id = await stage.caller.call(kind, HELLO, *changes, without=without)
            await stage.caller.assert_ends(stream_id, 0)
            assert stage.caller.texts(stream_id) == ["hello"]


# R1, R2: the content-type says whose request it is


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [b"", b"text/html", b"application/grpcfoo", b"application/grpc+bson"])
async def test_r1_other_content_type_gets_415(value: bytes, kind: str) -> None:
    async with staged() as stage:
        changes = ((b"content-type", value),) if value else ()
        found = await refused(stage, kind, *changes, without=b"" if value else b"content-type")
        assert (found[b":status"], found[b"grpc-status"]) == (b"415", b"2")
        assert value in found[b"grpc-message"]
        assert not stage.servicer.started[kind] or kind == "UnaryUnary"
        assert stage.servicer.got == []


async def test_r1_grpc_client_need_not_end_its_request_to_get_the_415() -> None:
    async with staged() as stage:
        found = await refused(stage, "StreamStream", (b"content-type", b"application/grpcfoo"), end=False)
        assert (found[b":status"], found[b"content-type"]) == (b"415", b"application/grpc")


async def test_r1_others_get_words_behind_their_request() -> None:
    async with staged() as stage:
        stream_id = await stage.caller.call("StreamUnary", HELLO, (b"content-type", b"text/html"), end=False)
        await stage.caller.settle()
        assert stream_id not in stage.caller.heads
        await stage.caller.stream(stream_id, bytes(1 << 20), end=True)
        found = await stage.caller.answer(stream_id)
        assert found[b":status"] == b"415"
        assert b"This is a gRPC server" in stage.caller.content[stream_id]


@pytest.mark.parametrize("value", [b"application/grpc+proto", b"application/grpc;charset=utf-8"])
async def test_r2_subtype_that_we_can_read_is_served(value: bytes) -> None:
    await assert_served((b"content-type", value))


# R3, R4: te


async def test_r3_missing_te_is_served_and_counted() -> None:
    await assert_served(without=b"te")
    async with staged() as stage:
        await stage.caller.call("UnaryUnary", HELLO, without=b"te")
        await stage.caller.call("UnaryUnary", HELLO)
        await stage.caller.settle()
        assert stage.backend.server.counters.seen["requests_without_te"] == 1


async def test_r4_te_other_than_trailers_is_reset() -> None:
    """RFC 9113 8.2.2."""
    await assert_reset(request_fields((b"te", b"gzip")))


# R5, R6, R7: method and path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [b"GET", b"PUT"])
async def test_r5_other_method_gets_405(method: bytes, kind: str) -> None:
    async with staged() as stage:
        found = await refused(stage, kind, (b":method", method))
        assert (found[b":status"], found[b"grpc-status"]) == (b"405", b"13")
        assert found[b"allow"] == b"POST"
        assert method in found[b"grpc-message"]


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize(
    "where",
    [
        b"/lbkit.tests.Kinds/Nothing",
        b"/lbkit.tests.Nobody/UnaryUnary",
        b"lbkit.tests.Kinds",
        b"/",
        b"//",
        b"*",
    ],
)
async def test_r6_path_that_nobody_serves_is_unimplemented(where: bytes, end: bool) -> None:
    """At once, also for who goes on sending."""
    async with staged() as stage:
        found = await refused(stage, "StreamStream", (b":path", where), end=end)
        assert (found[b":status"], found[b"grpc-status"]) == (b"200", b"12")
        assert where in found[b"grpc-message"]


async def test_r6_method_that_the_servicer_lacks_is_unimplemented() -> None:
    async with staged() as stage:
        stage.install("UnaryStream", None)
        stream_id = await stage.call_bad("UnaryStream")
        await stage.caller.assert_ends(stream_id, 12, "does not implement")


async def test_r6_empty_path_is_reset() -> None:
    """RFC 9113 8.3.1: it is no gRPC status that such a client could read."""
    await assert_reset(request_fields((b":path", b"")))


PSEUDO = {
    "no :path": request_fields(without=b":path"),
    "no :method": request_fields(without=b":method"),
    "no :scheme": request_fields(without=b":scheme"),
    "two :path": [(b":path", path("UnaryUnary")), *request_fields()],
    "two :method": [(b":method", b"POST"), *request_fields()],
    "unknown": [(b":version", b"2"), *request_fields()],
    "behind the others": [*request_fields(without=b":path"), (b":path", path("UnaryUnary"))],
}


@pytest.mark.parametrize("name", PSEUDO)
async def test_r7_pseudo_header_missing_twice_or_out_of_place_is_reset(name: str) -> None:
    await assert_reset(PSEUDO[name])


# R8: who is meant


async def test_r8_two_authorities_are_reset() -> None:
    await assert_reset([(b":authority", b"another"), *request_fields()])


@pytest.mark.parametrize("kind", KINDS)
async def test_r8_two_hosts_get_400(kind: str) -> None:
    async with staged() as stage:
        fields = request_fields((b":path", path(kind)), (b"host", b"one"))
        stream_id = await stage.caller.call_with([*fields, (b"host", b"one")], HELLO)
        found = await stage.caller.assert_ends(stream_id, 13, "host")
        assert found[b":status"] == b"400"
        assert stage.servicer.got == []


@pytest.mark.parametrize("without", [b"", b":authority"])
async def test_r8_host_beside_or_instead_of_the_authority_is_dropped(without: bytes) -> None:
    """``:authority`` counts (gRFC A41). Handlers do not see either."""
    seen: list[Any] = []

    async def look(request: Any, context: Any) -> Any:
        seen.extend(context.invocation_metadata())
        return request

    async with staged() as stage:
        stage.install("UnaryUnary", look)
        fields = request_fields((b":path", b"/test.Bad/UnaryUnary"), (b"host", b"another"), without=without)
        await stage.caller.assert_ends(await stage.caller.call_with(fields, HELLO), 0)
        assert "host" not in dict(seen)


@pytest.mark.parametrize("name", [b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"])
async def test_r9_connection_specific_header_is_reset(name: bytes) -> None:
    """RFC 9113 8.2.2."""
    await assert_reset(request_fields((name, b"close")))


# R10, R11, R12: grpc-timeout


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_r10_malformed_timeout_gets_400_and_internal(kind: str, end: bool) -> None:
    async with staged() as stage:
        for value in (b"1", b"S", b"", b"1x", b"-1S", b"1.5S", b"123456789S", b" 1S"):
            found = await refused(stage, kind, (b"grpc-timeout", value), end=end)
            assert (found[b":status"], found[b"grpc-status"]) == (b"400", b"13")
            assert b"malformed grpc-timeout" in found[b"grpc-message"]
        assert stage.servicer.got == []
        assert stage.servicer.started.total() == 1


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_r11_timeout_of_zero_is_deadline_exceeded_before_any_handler_runs(kind: str, end: bool) -> None:
    async with staged() as stage:
        for value in (b"0S", b"0n", b"00000000H"):
            found = await refused(stage, kind, (b"grpc-timeout", value), end=end)
            assert found[b"grpc-status"] == b"4"
        assert stage.servicer.started.total() == 1


async def test_r12_longest_timeout_is_no_overflow() -> None:
    await assert_served((b"grpc-timeout", b"99999999H"))


# R13, R14, R15: metadata


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_r13_bad_base64_is_internal(kind: str, end: bool) -> None:
    async with staged() as stage:
        for value in (b"?", b"YQ,?", b"Y", b"YQ-_"):
            found = await refused(stage, kind, (b"x-bin", value), end=end)
            assert found[b"grpc-status"] == b"13"
            assert b"'x-bin' is not base64" in found[b"grpc-message"]
        assert stage.servicer.started.total() == 1


async def seen_by_a_handler(*sent: Field) -> list[tuple[str, Any]]:
    """What a handler finds of these header fields."""
    seen: list[tuple[str, Any]] = []

    async def look(requests: Any, context: Any) -> Any:
        seen.extend(context.invocation_metadata())
        return Item()

    async with staged() as stage:
        stage.install("StreamUnary", look)
        await stage.caller.assert_ends(await stage.call_bad("StreamUnary", HELLO, *sent), 0)
    return [each for each in seen if each[0].startswith("x-")]


async def test_r13_base64_comes_padded_or_not_or_as_a_list() -> None:
    """PROTOCOL-HTTP2: lists are split before they are decoded."""
    assert await seen_by_a_handler((b"x-a-bin", b"YQ=="), (b"x-b-bin", b"YQ"), (b"x-c-bin", b"YQ==,YWI")) == [
        ("x-a-bin", b"a"),
        ("x-b-bin", b"a"),
        ("x-c-bin", b"a"),
        ("x-c-bin", b"ab"),
    ]


@pytest.mark.parametrize(
    "field",
    [
        (b"X-Upper", b"v"),
        (b"x y", b"v"),
        (b"x-a\n", b"v"),
        (b"x-a", b"a\rb"),
        (b"x-a", b"a\nb"),
        (b"x-a", b"a\0b"),
        (b"x-a-bin", b"YQ\n"),
    ],
)
async def test_r14_name_or_value_that_http_forbids_is_reset(field: Field) -> None:
    """RFC 9113 8.2.1: it gets neither to a handler nor into a log."""
    await assert_reset(request_fields(field))


async def test_r15_bytes_outside_ascii_are_kept() -> None:
    """PROTOCOL-HTTP2: they must not be an error."""
    found = await seen_by_a_handler((b"x-a", b"\x80\xff"), (b"x-b", b"caf\xc3\xa9"))
    assert found == [("x-a", "\x80\xff"), ("x-b", "caf\xc3\xa9")]


# R16: the application's own mistakes stay at home

BAD_METADATA: dict[str, Any] = {
    "line feed": [("x-a", "a\r\nx-b: 2")],
    "pseudo-header": [(":path", "/")],
    "upper case": [("X-Upper", "v")],
    "the protocol's": [("grpc-status", "0")],
    "text as binary": [("x-bin", "text")],
}


def started(stub: Any, kind: str, **options: Any) -> Any:
    """Start a call of a kind."""
    method = getattr(stub, kind)
    return method([Item()], **options) if kind in REQUEST_STREAMS else method(Item(), **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD_METADATA)
async def test_r16_metadata_that_must_not_be_sent_raises_where_the_call_is_made(name: str, kind: str) -> None:
    async with kinds(Echo()) as stub:
        with pytest.raises(lbkit.MetadataError):
            started(stub, kind, metadata=BAD_METADATA[name])
        assert await stub.UnaryUnary(Item(text="next")) == Item(text="next")


@pytest.mark.parametrize("kind", KINDS)
async def test_r16_metadata_above_the_servers_limit_is_internal_and_not_sent(kind: str) -> None:
    """RFC 9113 6.5.2: the server has said how much it takes."""
    small = settings_frame((frames.Setting.MAX_HEADER_LIST_SIZE, 1000))
    async with raw_server(good, small) as server, channel_to(server.port) as channel:
        await channel.ready(PATIENCE_S)
        stub = channel.stub(kinds_pb2, "Kinds")
        call = started(stub, kind, metadata=[("x-big", "v" * 1000)], timeout=PATIENCE_S)
        assert await call.code() is StatusCode.INTERNAL
        assert "takes 1000" in await call.details()
        assert server.heads == []
        assert await stub.UnaryUnary(Item(), timeout=PATIENCE_S) == Item(text="good")
        assert len(server.peers) == 1


@pytest.mark.parametrize("name", BAD_METADATA)
@pytest.mark.parametrize("how", ["initial", "trailing"])
async def test_r16_handlers_metadata_that_must_not_be_sent_raise_there(name: str, how: str) -> None:
    caught: list[str] = []

    async def careless(request: Any, context: Any) -> Any:
        try:
            if how == "initial":
                await context.send_initial_metadata(BAD_METADATA[name])
            else:
                context.set_trailing_metadata(BAD_METADATA[name])
        except lbkit.MetadataError as error:
            caught.append(str(error))
        return request

    async with staged() as stage:
        stage.install("UnaryUnary", careless)
        stream_id = await stage.call_bad("UnaryUnary", BODY)
        found = await stage.caller.assert_ends(stream_id, 0)
        assert set(found) == {b":status", b"content-type", b"grpc-accept-encoding", b"grpc-status"}
    assert len(caught) == 1


async def test_r16_status_text_of_any_sort_travels_whole() -> None:
    """What would be a header of its own is escaped."""
    text = "50% \r\nx-evil: 1\0 \N{SNOWMAN}"

    async def evil(request: Any, context: Any) -> Any:
        await context.abort(StatusCode.ABORTED, text)

    async with kinds(SimpleNamespace(UnaryUnary=evil)) as stub:
        error = await failure(stub.UnaryUnary(Item()))
        assert (error.code(), error.details()) == (StatusCode.ABORTED, text)
