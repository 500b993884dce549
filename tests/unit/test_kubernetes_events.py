"""A watch's bytes become events, or failures that say what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit_resolvers.kubernetes.events import Event, Lines, event_of, json_of, version_of
from lbkit_resolvers.kubernetes.failures import SLOW_S, Failure, refused

WHERE = "api:443, service shop/greeter"


def line(kind: Any, about: Any) -> bytes:
    return json.dumps({"type": kind, "object": about}).encode()


@given(st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")), max_size=6), st.data())
def test_lines_are_the_same_however_the_bytes_come(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(each + b"\n" for each in lines) + b"half a li"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    splitter = Lines(WHERE)
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += splitter.feed(whole[start:end])
    assert found == [each for each in lines if each.strip()]


def test_line_without_end_is_given_up() -> None:
    splitter = Lines(WHERE, most=10)
    assert list(splitter.feed(b"123456789\n12345")) == [b"123456789"]
    with pytest.raises(Failure, match="an event is longer than 10 bytes; listing again") as caught:
        list(splitter.feed(b"678901"))
    assert caught.value.expired


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"])
def test_event_has_its_version(kind: str) -> None:
    about = {"metadata": {"name": "a", "resourceVersion": "17"}}
    assert event_of(line(kind, about), WHERE, "shop") == Event(kind, about, "17")


@pytest.mark.parametrize("about", [{}, {"metadata": None}, {"metadata": {"resourceVersion": 17}}, {"metadata": {"resourceVersion": "1\n"}}])  # fmt: skip
def test_object_without_a_version_has_none(about: Any) -> None:
    assert version_of(about) == ""


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"garbage",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"null",
        line("EXPLODED", {}),
        line("ADDED", []),
        line("ADDED", None),
        line(None, {}),
        line([], {}),
        line("ERROR", "text"),
        b"[" * 100_000,
    ],
)
def test_what_is_no_event_means_to_list_again(data: bytes) -> None:
    with pytest.raises(Failure) as caught:
        event_of(data, WHERE, "shop")
    assert caught.value.expired
    assert not caught.value.passing
    assert str(caught.value).startswith(WHERE)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_error_event_is_what_its_status_says() -> None:
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (7)"}
    with pytest.raises(
        Failure, match=r"answered 410: too old resource version: 1 \(7\); listing again"
    ) as caught:
        event_of(line("ERROR", gone), WHERE, "shop")
    assert caught.value.expired
    with pytest.raises(Failure) as other:
        event_of(line("ERROR", {"code": "x", "message": "etcd is away"}), WHERE, "shop")
    assert (other.value.status, other.value.expired) == (500, False)


@pytest.mark.parametrize(
    ("status", "expired", "passing", "wait_s", "cure"),
    [
        (400, True, False, SLOW_S, "does the server speak the Kubernetes API?"),
        (401, True, False, SLOW_S, "the token or certificate is not accepted any more"),
        (403, True, False, SLOW_S, 'verbs: ["get", "list", "watch"]} in namespace shop, and a RoleBinding'),
        (404, True, False, SLOW_S, "Kubernetes 1.21 or later is needed"),
        (410, True, True, 0.0, "listing again"),
        (302, False, False, SLOW_S, "redirections are not followed"),
        (429, False, False, 7.0, "answered 429: slow down"),
        (500, False, False, 7.0, "answered 500: slow down"),
        (503, False, False, 7.0, "answered 503: slow down"),
        (504, False, False, 7.0, "answered 504: slow down"),
    ],
)
def test_each_status_has_its_wait_and_its_cure(
    status: int, expired: bool, passing: bool, wait_s: float, cure: str
) -> None:
    failure = refused(WHERE, "shop", status, {"message": "slow down"}, "7")
    assert (failure.expired, failure.passing, failure.wait_s) == (expired, passing, wait_s)
    assert str(failure).startswith(f"{WHERE}: the API server answered {status}: slow down")
    assert cure in str(failure)


def test_version_that_a_restored_server_does_not_know_means_to_list_again() -> None:
    body = {
        "message": "Too large resource version",
        "details": {"causes": [{"reason": "ResourceVersionTooLarge"}]},
    }
    failure = refused(WHERE, "shop", 504, body)
    assert failure.expired
    assert not failure.passing
    for details in (None, {"causes": None}, {"causes": ["x"]}):
        assert not refused(WHERE, "shop", 504, {"details": details}).expired


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [(None, 0.0), ("", 0.0), ("3", 3.0), ("99999", 300.0), ("-1", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("٣", 0.0)],
)  # fmt: skip
def test_retry_after_is_kept_within_reason(header: str | None, wait_s: float) -> None:
    assert refused(WHERE, "shop", 429, "", header).wait_s == wait_s


def test_what_the_server_says_is_short_and_printable() -> None:
    failure = refused(WHERE, "shop", 500, "\x1b[2J" + "x" * 10_000)
    assert str(failure).isprintable()
    assert len(str(failure)) < 500
    assert str(refused(WHERE, "shop", 500, {"message": 7})) == f"{WHERE}: the API server answered 500"


def test_json_is_parsed() -> None:
    assert json_of(b'{"a": [1]}', WHERE) == {"a": [1]}
