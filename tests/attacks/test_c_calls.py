"""Servers that answer one call against the rules of gRPC: rows C1 to C8, C10 and C11, for all four kinds of call.

The numbers are those of the catalogue of bad servers. Of a stream, what came before the fault is delivered.
"""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from lbkit import StatusCode
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field
from lbkit.wire.messages import frame_message
from tests.attacks.bad_answers import (
    FIRST,
    MIB,
    RESPONSE_STREAMS,
    UNARY_RESPONSES,
    Say,
    Stage,
    answer,
    calling,
    each_kind,
    fails,
    headers_only,
    start,
)
from tests.attacks.bad_server import GOOD_MESSAGE, scene
from tests.support.protos import kinds_pb2
from tests.support.servers import Item, RawPeer
from tests.support.wire import RESPONSE, TRAILERS, data_frame, reset_frame

# C1: no status


@each_kind
async def test_c1_trailers_without_a_status_are_unknown(kind: str) -> None:
    await fails(
        kind,
        answer(GOOD_MESSAGE, trailers=((b"x-a", b"1"),)),
        StatusCode.UNKNOWN,
        "without a grpc-status",
        texts=("good",),
    )


@each_kind
async def test_c1_headers_alone_without_a_status_are_unknown(kind: str) -> None:
    await fails(kind, headers_only(*RESPONSE), StatusCode.UNKNOWN, "without a grpc-status")


@each_kind
@pytest.mark.parametrize(
    "body", [(GOOD_MESSAGE,), (GOOD_MESSAGE, b""), (b"",)], ids=["full", "empty", "none"]
)
async def test_c1_end_on_data_is_internal(body: tuple[bytes, ...], kind: str) -> None:
    await fails(
        kind,
        answer(*body, trailers=None, end=True),
        StatusCode.INTERNAL,
        "without trailers",
        texts=("good",) if body[0] else (),
    )


@pytest.mark.parametrize("kind", ["StreamUnary", "StreamStream"])
async def test_c1_end_on_data_in_the_middle_of_the_requests_ends_those(kind: str) -> None:
    await fails(
        kind,
        answer(GOOD_MESSAGE, trailers=None, end=True),
        StatusCode.INTERNAL,
        "without trailers",
        texts=("good",),
        sent=ErrorCode.NO_ERROR,
        end=False,
    )


# C2, C5: odd statuses


@each_kind
@pytest.mark.parametrize("number", [b"abc", b"-1", b"", b"99999999999"])
async def test_c2_malformed_status_is_unknown(number: bytes, kind: str) -> None:
    await fails(
        kind,
        answer(GOOD_MESSAGE, trailers=((b"grpc-status", number), (b"grpc-message", b"hidden"))),
        StatusCode.UNKNOWN,
        f"malformed grpc-status {number!r}",
        texts=("good",),
    )


@each_kind
@pytest.mark.parametrize("number", [b"17", b"99"])
async def test_c2_status_that_nobody_knows_is_unknown_and_keeps_its_number(number: bytes, kind: str) -> None:
    await fails(
        kind,
        answer(trailers=((b"grpc-status", number), (b"grpc-message", b"from the future"))),
        StatusCode.UNKNOWN,
        number.decode(),
        "from the future",
    )


@each_kind
async def test_c5_details_that_are_badly_escaped_are_kept_as_they_are(kind: str) -> None:
    """PROTOCOL-HTTP2: they must not be an error."""
    error = await fails(
        kind,
        headers_only(*RESPONSE, (b"grpc-status", b"5"), (b"grpc-message", b"a%zzb%4 %FF caf%C3%A9")),
        StatusCode.NOT_FOUND,
    )
    assert error.details() == "a%zzb%4 \ufffd caf\xe9"


# C3, C4: messages that are wrong in themselves, or in their number


@pytest.mark.parametrize("kind", UNARY_RESPONSES)
@pytest.mark.parametrize("say", [headers_only(*RESPONSE, *TRAILERS), answer(), answer(b"")])
async def test_c3_ok_without_a_message_is_internal(say: Say, kind: str) -> None:
    """Not a response that is None."""
    await fails(kind, say, StatusCode.INTERNAL, "no message")


@pytest.mark.parametrize("kind", RESPONSE_STREAMS)
async def test_c3_stream_of_no_messages_is_a_stream(kind: str) -> None:
    for say in (headers_only(*RESPONSE, *TRAILERS), answer(), answer(b"", b"")):
        async with calling(kind) as stage:
            stage.say(say(stage.peer, 1))
            outcome = await stage.outcome()
            assert (outcome.texts, outcome.error) == ([], None)


@each_kind
@pytest.mark.parametrize("cut", [1, 4, 5, 8])
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
async def test_c3_end_in_the_middle_of_a_message_is_internal(bytewise: bool, cut: int, kind: str) -> None:
    """For a stream: of the second one."""
    data = (FIRST if kind in RESPONSE_STREAMS else b"") + GOOD_MESSAGE[:cut]
    pieces = [data[at : at + 1] for at in range(len(data))] if bytewise else [data]
    await fails(kind, answer(*pieces), StatusCode.INTERNAL, "in the middle of a message", texts=("first",))


@each_kind
async def test_c3_failure_in_the_middle_of_a_message_keeps_its_status(kind: str) -> None:
    data = (FIRST if kind in RESPONSE_STREAMS else b"") + GOOD_MESSAGE[:8]
    await fails(
        kind, answer(data, trailers=((b"grpc-status", b"15"),)), StatusCode.DATA_LOSS, texts=("first",)
    )


@each_kind
@pytest.mark.parametrize("flag", [1, 2, 255])
async def test_c3_c10_flag_without_an_encoding_is_internal(flag: int, kind: str) -> None:
    """At once: nothing more of that answer can be read."""
    data = (FIRST if kind in RESPONSE_STREAMS else b"") + bytes((flag,)) + GOOD_MESSAGE[1:]
    await fails(
        kind,
        answer(data, trailers=None),
        StatusCode.INTERNAL,
        f"flag {flag}",
        texts=("first",),
        sent=ErrorCode.CANCEL,
    )


@pytest.mark.parametrize("kind", UNARY_RESPONSES)
@pytest.mark.parametrize(
    "body",
    [(GOOD_MESSAGE * 2,), (GOOD_MESSAGE, GOOD_MESSAGE), (GOOD_MESSAGE[:8], GOOD_MESSAGE[8:] + FIRST)],
    ids=["one frame", "two", "askew"],
)
async def test_c4_second_message_where_there_must_be_one_is_internal_at_once(
    body: tuple[bytes, ...], kind: str
) -> None:
    """The server need not end the stream for it, nor does its OK help."""
    await fails(
        kind,
        answer(*body, trailers=None),
        StatusCode.INTERNAL,
        "more than one message",
        sent=ErrorCode.CANCEL,
    )


@pytest.mark.parametrize("kind", UNARY_RESPONSES)
@pytest.mark.parametrize("second", [b"\0", GOOD_MESSAGE[:7], GOOD_MESSAGE])
async def test_c4_ok_behind_more_than_one_message_is_internal(second: bytes, kind: str) -> None:
    async with scene() as stage:
        call = start(stage.channel, kind, end=True)
        await stage.arrived(1)
        stage.say(answer(GOOD_MESSAGE + second)(stage.peer, 1))
        outcome = await Stage(stage, kind, call).outcome()
        await outcome.assert_failed(StatusCode.INTERNAL, "message")


@each_kind
async def test_c4_message_that_cannot_be_parsed_is_internal(kind: str) -> None:
    """The ones before it are delivered, the ones behind it are not."""
    bad = frame_message(b"\xff\xff")
    body = FIRST + bad + GOOD_MESSAGE if kind in RESPONSE_STREAMS else bad
    await fails(kind, answer(body), StatusCode.INTERNAL, "cannot be parsed", texts=("first",))


@pytest.mark.parametrize("kind", RESPONSE_STREAMS)
async def test_c4_message_that_cannot_be_parsed_stops_a_stream_that_goes_on(kind: str) -> None:
    await fails(
        kind,
        answer(FIRST + frame_message(b"\xff\xff"), trailers=None),
        StatusCode.INTERNAL,
        "cannot be parsed",
        texts=("first",),
        sent=ErrorCode.CANCEL,
    )


# Messages above the limit, from their prefix

LIMIT = 4 * MIB  # of a channel, by default


@each_kind
@pytest.mark.parametrize(
    ("limit", "where"),
    [(LIMIT, ""), (1000, "channel"), (1000, "call"), (2000, "both")],
    ids=["by default", "per channel", "per call", "the call's counts"],
)
async def test_c3_response_above_the_limit_is_refused_from_its_prefix(
    limit: int, where: str, kind: str
) -> None:
    """Before anything is collected; the length is a claim."""
    data = FIRST if kind in RESPONSE_STREAMS else b""
    options: dict[str, Any] = {}
    if where in {"channel", "both"}:
        options["channel"] = {"max_response_bytes": 1000}
    if where in {"call", "both"}:
        options["max_response_bytes"] = limit
    await fails(
        kind,
        answer(data + b"\0" + (limit + 1).to_bytes(4, "big"), trailers=None),
        StatusCode.RESOURCE_EXHAUSTED,
        f"{limit + 1} bytes is larger than the limit of {limit}",
        texts=("first",),
        sent=ErrorCode.CANCEL,
        **options,
    )


@each_kind
@pytest.mark.parametrize("where", ["channel", "call"])
async def test_c3_request_above_the_limit_is_not_sent(where: str, kind: str) -> None:
    options = {"max_request_bytes": 100}
    async with scene(**(options if where == "channel" else {})) as stage:
        method = getattr(stage.channel.stub(kinds_pb2, "Kinds"), kind)
        large = Item(body=bytes(100))
        streams = kind in {"StreamUnary", "StreamStream"}
        call = method([Item(), large] if streams else large, **(options if where == "call" else {}))
        outcome = await Stage(stage, kind, call).outcome()
        assert outcome.error is not None
        assert outcome.error.code() is StatusCode.RESOURCE_EXHAUSTED
        assert "limit of 100" in outcome.error.details()
        if not streams:
            assert stage.server.heads == []


# C6, C7, C8: answers that are not gRPC's

HTTP = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
    500: StatusCode.UNKNOWN,
    302: StatusCode.UNKNOWN,
    204: StatusCode.UNKNOWN,
}
HTML = (b"content-type", b"text/html")


@each_kind
@pytest.mark.parametrize("http", HTTP)
async def test_c6_http_status_stands_in_for_a_missing_one(http: int, kind: str) -> None:
    """doc/http-grpc-status-mapping.md."""
    await fails(kind, headers_only((b":status", b"%d" % http), HTML), HTTP[http], f"HTTP status {http}")


@each_kind
async def test_c6_http_status_comes_with_the_beginning_of_the_body(kind: str) -> None:
    """Also where the content-type is gRPC's."""
    head = (b":status", b"503"), (b"content-type", b"application/grpc")

    def say(peer: RawPeer, stream_id: int) -> bytes:
        return peer.headers(stream_id, head) + data_frame(stream_id, b"come back later", end=True)

    await fails(kind, say, StatusCode.UNAVAILABLE, "HTTP status 503", "come back later")


@each_kind
@pytest.mark.parametrize("together", [True, False])
async def test_c7_grpc_status_counts_more_than_the_http_status(together: bool, kind: str) -> None:
    status: Field = (b"grpc-status", b"5")

    def say(peer: RawPeer, stream_id: int) -> bytes:
        if together:
            return peer.headers(stream_id, ((b":status", b"503"), HTML, status), end=True)
        return peer.headers(stream_id, ((b":status", b"503"), HTML)) + peer.headers(
            stream_id, (status,), end=True
        )

    await fails(kind, say, StatusCode.NOT_FOUND)


@each_kind
@pytest.mark.parametrize("size", [10, 1024, 200_000])
async def test_c8_web_page_is_unknown_and_shows_its_first_kibibyte(size: int, kind: str) -> None:
    page = (b"<html>" + b"x" * size)[:size]

    def say(peer: RawPeer, stream_id: int) -> bytes:
        said = peer.headers(stream_id, ((b":status", b"200"), HTML))
        pieces = [page[at : at + 16_000] for at in range(0, size, 16_000)]
        for each in pieces:
            said += data_frame(stream_id, each, end=each is pieces[-1])
        return said

    error = await fails(
        kind, say, StatusCode.UNKNOWN, "text/html", sent=ErrorCode.CANCEL if size > 16_000 else None
    )
    assert page[:1024].decode() in error.details()
    assert len(error.details()) < 1200


# C10: encodings


@each_kind
async def test_c10_message_in_an_unknown_encoding_is_internal_at_once(kind: str) -> None:
    def say(peer: RawPeer, stream_id: int) -> bytes:
        head = peer.headers(stream_id, (*RESPONSE, (b"grpc-encoding", b"snappy")))
        return head + data_frame(stream_id, b"\x01" + GOOD_MESSAGE[1:])

    await fails(kind, say, StatusCode.INTERNAL, "compressed with 'snappy'", sent=ErrorCode.CANCEL)


@each_kind
@pytest.mark.parametrize("size", [100, 100_000])
async def test_c10_response_that_cannot_be_decompressed_is_internal(size: int, kind: str) -> None:
    """However long it takes to find out; what came before it is delivered."""
    body = Item(text="bad", body=bytes(size)).SerializeToString()
    data = gzip.compress(body)[:-1] + b"\xff"  # the last byte is of the length

    def say(peer: RawPeer, stream_id: int) -> bytes:
        head = peer.headers(stream_id, (*RESPONSE, (b"grpc-encoding", b"gzip")))
        first = FIRST if kind in RESPONSE_STREAMS else b""
        message = first + b"\x01" + len(data).to_bytes(4, "big") + data
        return head + data_frame(stream_id, message) + peer.headers(stream_id, TRAILERS, end=True)

    text = "'gzip' cannot be decompressed"
    await fails(kind, say, StatusCode.INTERNAL, text, texts=("first",))


@each_kind
@pytest.mark.parametrize("encoding", [b"identity", b"snappy", b"gzip"])
async def test_c10_message_that_is_not_compressed_is_read_whatever_the_encoding(
    kind: str, encoding: bytes
) -> None:
    async with calling(kind) as stage:
        stage.say(
            stage.peer.headers(1, (*RESPONSE, (b"grpc-encoding", encoding))),
            data_frame(1, GOOD_MESSAGE),
            stage.peer.headers(1, TRAILERS, end=True),
        )
        outcome = await stage.outcome()
        assert (outcome.texts, outcome.error) == (["good"], None)


# C11: metadata


@each_kind
async def test_c11_bad_base64_in_trailers_is_internal(kind: str) -> None:
    await fails(
        kind,
        answer(GOOD_MESSAGE, trailers=(*TRAILERS, (b"x-bin", b"!"))),
        StatusCode.INTERNAL,
        "'x-bin' is not base64",
        texts=("good",),
    )


@each_kind
async def test_c11_bad_base64_in_headers_is_internal_at_once(kind: str) -> None:
    error = await fails(
        kind,
        headers_only(*RESPONSE, (b"x-bin", b"!"), end=False),
        StatusCode.INTERNAL,
        "'x-bin' is not base64",
        sent=ErrorCode.CANCEL,
    )
    assert list(error.initial_metadata()) == []


@each_kind
async def test_c11_bad_base64_of_a_foreign_answer_does_not_hide_its_status(kind: str) -> None:
    head = (b":status", b"503"), HTML, (b"x-bin", b"!")

    def say(peer: RawPeer, stream_id: int) -> bytes:
        return peer.headers(stream_id, head) + data_frame(stream_id, b"later", end=True)

    await fails(kind, say, StatusCode.UNAVAILABLE, "later")


@pytest.mark.parametrize("padding", [b"", b"="])
@each_kind
async def test_c11_base64_comes_padded_or_not(kind: str, padding: bytes) -> None:
    async with calling(kind) as stage:
        stage.say(
            stage.peer.headers(1, (*RESPONSE, (b"x-bin", b"YWI" + padding))),
            data_frame(1, GOOD_MESSAGE),
            stage.peer.headers(1, (*TRAILERS, (b"x-bin", b"YWI" + padding)), end=True),
        )
        outcome = await stage.outcome()
        assert (outcome.texts, outcome.error) == (["good"], None)
        assert (await stage.call.initial_metadata())["x-bin"] == b"ab"
        assert (await stage.call.trailing_metadata())["x-bin"] == b"ab"


# C9 and C12 for streams: header blocks out of place


@each_kind
async def test_c9_informational_responses_are_skipped(kind: str) -> None:
    async with calling(kind) as stage:
        early = [stage.peer.headers(1, ((b":status", status),)) for status in (b"100", b"103")]
        stage.say(*early, answer(GOOD_MESSAGE)(stage.peer, 1))
        outcome = await stage.outcome()
        assert (outcome.texts, outcome.error) == (["good"], None)


@each_kind
async def test_c9_informational_response_that_ends_the_stream_is_internal(kind: str) -> None:
    await fails(
        kind,
        headers_only((b":status", b"103")),
        StatusCode.INTERNAL,
        "informational response",
        sent=ErrorCode.PROTOCOL_ERROR,
    )


@pytest.mark.parametrize("kind", RESPONSE_STREAMS)
async def test_c12_second_headers_between_messages_are_internal(kind: str) -> None:
    def say(peer: RawPeer, stream_id: int) -> bytes:
        said = answer(FIRST, trailers=None)(peer, stream_id)
        return said + peer.headers(stream_id, TRAILERS) + data_frame(stream_id, GOOD_MESSAGE)

    await fails(
        kind,
        say,
        StatusCode.INTERNAL,
        "HEADERS in mid-stream",
        texts=("first",),
        sent=ErrorCode.PROTOCOL_ERROR,
    )


@pytest.mark.parametrize("kind", ["StreamUnary", "StreamStream"])
async def test_c12_answer_that_ends_before_the_requests_stops_those(kind: str) -> None:
    """PROTOCOL-HTTP2: nobody reads them any more."""
    async with calling(kind, end=False, sent=ErrorCode.NO_ERROR) as stage:
        stage.say(answer(GOOD_MESSAGE)(stage.peer, 1))
        outcome = await stage.outcome()
        assert (outcome.texts, outcome.error) == (["good"], None)


@each_kind
async def test_c12_data_behind_the_trailers_end_the_connection_and_not_the_call_that_had_ended(
    kind: str,
) -> None:
    """RFC 9113 5.1, "closed": who does that is out of step with everything."""
    async with scene() as stage:
        call = start(stage.channel, kind, end=True)
        await stage.arrived(1)
        other = stage.call()
        await stage.arrived(2)
        stage.say(answer(GOOD_MESSAGE)(stage.peer, 1), data_frame(1, FIRST))
        outcome = await Stage(stage, kind, call).outcome()
        assert (outcome.texts, outcome.error) == (["good"], None)
        await stage.assert_connection_error(ErrorCode.STREAM_CLOSED, "which has ended", other)


@pytest.mark.parametrize("kind", RESPONSE_STREAMS)
async def test_c14_reset_between_messages_comes_behind_them(kind: str) -> None:
    def say(peer: RawPeer, stream_id: int) -> bytes:
        said = answer(FIRST + GOOD_MESSAGE[:7], trailers=None)(peer, stream_id)
        return said + reset_frame(stream_id, ErrorCode.INTERNAL_ERROR)

    await fails(kind, say, StatusCode.INTERNAL, "INTERNAL_ERROR", texts=("first",))
