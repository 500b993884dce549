"""Which header blocks are malformed: RFC 9113 8.2 and 8.3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit.http2 import fields as check
from lbkit.http2.fields import MalformedError
from lbkit.http2.hpack import Field
from lbkit.http2.stream import NO_LENGTH
from tests.support.wire import REQUEST, RESPONSE, TRAILERS

FORBIDDEN = [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"]


def why(judge: Callable[[Any], int], fields: tuple[Field, ...]) -> str | None:
    """Why a block is malformed; None if it is not."""
    try:
        judge(fields)
    except MalformedError as error:
        return str(error)
    return None


def test_ordinary_blocks_pass() -> None:
    assert why(check.check_request, REQUEST) is None
    assert why(check.check_response, RESPONSE) is None
    assert why(check.check_trailers, TRAILERS) is None
    assert why(check.check_trailers, ()) is None


@pytest.mark.parametrize("missing", [b":method", b":scheme", b":path"])
def test_request_without_a_pseudo_header_names_it(missing: bytes) -> None:
    rest = tuple(field for field in REQUEST if field[0] != missing)
    assert why(check.check_request, rest) == f"pseudo-header {missing!r} missing"


def test_authority_may_be_missing() -> None:
    assert why(check.check_request, tuple(field for field in REQUEST if field[0] != b":authority")) is None


@pytest.mark.parametrize("twice", [b":method", b":scheme", b":path", b":authority"])
def test_pseudo_header_twice_is_refused(twice: bytes) -> None:
    again = next(field for field in REQUEST if field[0] == twice)
    assert why(check.check_request, (again, *REQUEST)) == f"pseudo-header {twice!r} twice"


def test_pseudo_header_behind_a_regular_one_is_refused() -> None:
    assert (
        why(check.check_request, ((b"x-a", b"1"), *REQUEST))
        == "pseudo-header b':method' after a regular field"
    )


@pytest.mark.parametrize("name", [b":status", b":protocol", b":", b":Path"])
def test_unknown_pseudo_header_in_a_request_is_refused(name: bytes) -> None:
    assert why(check.check_request, ((name, b"1"), *REQUEST)) == f"unknown pseudo-header {name!r}"


@pytest.mark.parametrize("bad", [b"a\x00b", b"a\rb", b"a\nb", b"\n"])
def test_nul_cr_and_lf_are_refused_everywhere(bad: bytes) -> None:
    for _ in range(2):  # the second time its name is a known one
        reason = why(check.check_request, (*REQUEST, (b"x-value", bad)))
        assert reason == "value of 'x-value' holds NUL, CR or LF"
        assert why(check.check_trailers, ((b"x-value", bad),)) == reason
        assert why(check.check_response, (*RESPONSE, (b"x-value", bad))) == reason
        assert why(check.check_trailers, ((b"x-value", b"good"),)) is None
    path = tuple((name, b"/a" + bad if name == b":path" else value) for name, value in REQUEST)
    assert why(check.check_request, path) == "value of b':path' holds NUL, CR or LF"


@pytest.mark.parametrize("name", [b"", b"X-Upper", b"x y", b"x:y", b"x\x00", b"x\xff", b"\xc3\xa9", b"x\n"])
def test_name_that_is_no_token_is_refused(name: bytes) -> None:
    for _ in range(2):
        assert why(check.check_trailers, ((name, b"v"),)) == f"field name {name!r} is not a lower-case token"


@pytest.mark.parametrize("name", FORBIDDEN)
def test_connection_specific_field_is_refused_each_time(name: bytes) -> None:
    for _ in range(2):
        assert (
            why(check.check_request, (*REQUEST, (name, b"v")))
            == f"connection-specific field {name.decode()!r}"
        )


def test_te_is_trailers_or_nothing() -> None:
    for _ in range(2):
        assert why(check.check_request, REQUEST) is None
        assert (b"te", b"trailers") in REQUEST
        assert why(check.check_request, (*REQUEST, (b"te", b"gzip"))) == "te is not 'trailers'"


@pytest.mark.parametrize("value", [b"trailers", b"gzip"])
def test_te_belongs_in_requests_only(value: bytes) -> None:
    """RFC 9113 8.2.2."""
    for _ in range(2):
        assert why(check.check_trailers, ((b"te", value),)) == "te where none belongs"
        assert why(check.check_response, (*RESPONSE, (b"te", value))) == "te where none belongs"


def test_path_is_not_empty() -> None:
    """RFC 9113 8.3.1."""
    fields = tuple((name, b"" if name == b":path" else value) for name, value in REQUEST)
    assert why(check.check_request, fields) == "':path' is empty"


def test_pseudo_header_in_trailers_is_refused() -> None:
    assert why(check.check_trailers, ((b":status", b"200"),)) == "pseudo-header b':status' where none belongs"


@pytest.mark.parametrize("status", [b"", b"20", b"2000", b"abc", b"-20", b"2 0"])
def test_status_is_three_digits(status: bytes) -> None:
    assert why(check.check_response, ((b":status", status),)) == f":status is {status!r}"


@pytest.mark.parametrize("block", [(), TRAILERS, (*TRAILERS, *RESPONSE)])
def test_response_begins_with_its_status(block: tuple[tuple[bytes, bytes], ...]) -> None:
    assert why(check.check_response, block) == "no :status first"


def test_protocols_are_not_switched() -> None:
    """RFC 9113 8.6."""
    assert why(check.check_response, ((b":status", b"101"),)) == ":status is b'101'"


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_what_was_seen_before_changes_no_verdict(name: bytes, value: bytes) -> None:
    first = why(check.check_trailers, ((name, value),))
    assert why(check.check_trailers, ((name, value),)) == first
    token = bool(name) and all(
        chr(byte) in "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz" for byte in name
    )
    clean = not any(byte in b"\x00\r\n" for byte in value)
    if name not in {b"te", b"content-length", *FORBIDDEN, b"http2-settings"}:
        assert (first is None) == (token and clean)


def test_known_names_are_bounded() -> None:
    for number in range(3000):
        assert why(check.check_trailers, ((b"x-flood-%d" % number, b"v"),)) is None
    assert len(check._good_names) <= check._KNOWN_NAMES_MAX


# content-length, RFC 9113 8.1.1 and RFC 9110 8.6


@pytest.mark.parametrize(
    ("value", "length"), [(b"0", 0), (b"7", 7), (b"007", 7), (b"9" * 18, 10**18 - 1)], ids=repr
)
def test_content_length_is_returned(value: bytes, length: int) -> None:
    field = (b"content-length", value)
    assert check.check_request((*REQUEST, field)) == length
    assert check.check_response((*RESPONSE, field)) == length
    assert check.check_trailers((field,)) == length


def test_no_content_length_is_told_apart_from_zero() -> None:
    assert check.check_request(REQUEST) == check.check_response(RESPONSE) == NO_LENGTH
    assert check.check_trailers(TRAILERS) == NO_LENGTH
    assert NO_LENGTH < 0


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"+1", b"1.0", b" 1", b"1 ", b"0x1", b"1,1", b"\xb2", b"9" * 19]
)
def test_content_length_is_a_plain_number(value: bytes) -> None:
    for _ in range(2):  # its name must not become one that is not looked at again
        assert (
            why(check.check_request, (*REQUEST, (b"content-length", value))) == f"content-length is {value!r}"
        )


def test_content_lengths_must_agree() -> None:
    twice = ((b"content-length", b"3"), (b"content-length", b"3"))
    assert check.check_request((*REQUEST, *twice)) == 3
    assert (
        why(check.check_request, (*REQUEST, twice[0], (b"content-length", b"4"))) == "content-length is b'4'"
    )


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_status_without_content_keeps_to_no_content_length(status: bytes) -> None:
    """RFC 9110 8.6: the length that the same answer would have had with content."""
    assert check.check_response(((b":status", status), (b"content-length", b"99"))) == NO_LENGTH
