"""Status on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit.http2.frames import ErrorCode
from lbkit.status import BY_NUMBER, Status, StatusCode
from lbkit.wire.status import (
    OK,
    decode_details,
    encode_details,
    status_fields,
    status_of_http,
    status_of_reset,
    status_of_trailers,
)

HTTP = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    431: StatusCode.INTERNAL,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}
RESETS = {
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}


@given(st.text())
def test_any_text_survives_percent_coding(details: str) -> None:
    sent = encode_details(details)
    assert all(0x20 <= byte <= 0x7E for byte in sent)
    expected = details.encode("utf-8", "replace").decode()  # lone surrogates cannot travel
    assert decode_details(sent) == expected


@pytest.mark.parametrize(
    ("details", "sent"),
    [
        ("plain ~ text!", b"plain ~ text!"),
        ("50%", b"50%25"),
        ("a\nb", b"a%0Ab"),
        ("é", b"%C3%A9"),
        ("\x7f", b"%7F"),
    ],
)
def test_everything_but_printable_ascii_is_escaped(details: str, sent: bytes) -> None:
    assert encode_details(details) == sent


@pytest.mark.parametrize(
    ("value", "details"),
    [
        (b"a%zzb%4", "a%zzb%4"),
        (b"%", "%"),
        (b"100%", "100%"),
        (b"%c3%a9", "é"),
        (b"%FF", "\ufffd"),
        (b"caf\xc3\xa9", "café"),
    ],
)
def test_malformed_escapes_stay_as_they_are(value: bytes, details: str) -> None:
    assert decode_details(value) == details


@given(st.binary())
def test_decoding_never_fails(value: bytes) -> None:
    assert isinstance(decode_details(value), str)


@pytest.mark.parametrize("code", list(StatusCode))
@pytest.mark.parametrize("details", ["", "why ünder 100%"])
def test_every_status_is_read_back(code: StatusCode, details: str) -> None:
    assert status_of_trailers(tuple(status_fields(Status(code, details)))) == Status(code, details)


def test_ok_without_details_is_one_object() -> None:
    assert status_of_trailers(((b"grpc-status", b"0"),)) is OK
    assert status_fields(OK) == [(b"grpc-status", b"0")]


def test_status_is_found_among_other_trailers() -> None:
    trailers = (
        (b"x-a", b"1"),
        (b"grpc-message", b"why"),
        (b"x-b", b"2"),
        (b"grpc-status", b"5"),
        (b"x-c", b""),
    )
    assert status_of_trailers(trailers) == Status(StatusCode.NOT_FOUND, "why")


def test_trailers_without_a_status_have_none() -> None:
    assert status_of_trailers(()) is None
    assert status_of_trailers(((b"grpc-message", b"lonely"),)) is None


@pytest.mark.parametrize("number", [b"abc", b"-1", b"", b"1.0", b"99999999999", b"\xb2"])
def test_malformed_number_becomes_unknown(number: bytes) -> None:
    status = status_of_trailers(((b"grpc-status", number),))
    assert status == Status(StatusCode.UNKNOWN, f"malformed grpc-status {number!r}")


def test_unknown_number_stays_in_the_text() -> None:
    status = status_of_trailers(((b"grpc-status", b"99"), (b"grpc-message", b"from the future")))
    assert status == Status(StatusCode.UNKNOWN, "unknown grpc-status 99: from the future")
    assert len(BY_NUMBER) == 17


@pytest.mark.parametrize("http", [*HTTP, 200, 204, 302, 418, 500, 599])
def test_http_status_stands_in_for_a_missing_one(http: int) -> None:
    status = status_of_http(b"%d" % http, "no more")
    assert status.code is HTTP.get(http, StatusCode.UNKNOWN)
    assert str(http) in status.details
    assert "no more" in status.details


@pytest.mark.parametrize("code", [*ErrorCode, 77])
def test_reset_maps_as_the_protocol_says(code: int) -> None:
    expected = {int(key): value for key, value in RESETS.items()}.get(code, StatusCode.INTERNAL)
    assert status_of_reset(code, "why").code is expected
    assert status_of_reset(code, "why").details == "why"


def test_reset_without_a_reason_is_named() -> None:
    assert status_of_reset(ErrorCode.CANCEL, "").details == "the stream was reset with CANCEL"
    assert status_of_reset(77, "").details == "the stream was reset with error 77"
