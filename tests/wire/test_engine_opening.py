"""How connections open, and what strangers are told."""

from __future__ import annotations

import pytest

from lbkit.http2 import frames
from lbkit.http2.faults import NotHttp2
from lbkit.http2.frames import frame
from lbkit.limits import Limits
from tests.support.wire import (
    End,
    settings_frame,
    split_frames,
)
from tests.wire.test_engine_faults import HTTP1_ANSWER, TLS_HELLO, assert_deaf

STRANGERS = {
    "TLS": TLS_HELLO,
    "wrong preface": b"PRI * HTTP/2.0\r\n\r\nXX",
    "zeros": bytes(24),
}


@pytest.mark.parametrize("said", STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("bytewise", [False, True])
def test_server_names_what_a_stranger_said_and_answers_nothing(said: bytes, bytewise: bool) -> None:
    """S16. RFC 9113 3.4: GOAWAY may be left out for who does not speak HTTP/2."""
    end = End(client=False)
    for piece in [said[n : n + 1] for n in range(len(said))] if bytewise else [said]:
        end.receive(piece)
    (fault,) = end.faults
    assert isinstance(fault, NotHttp2)
    assert "does not speak HTTP/2" in fault.text
    if not bytewise:
        assert repr(said[:60]) in fault.text
    assert end.engine.take() == b""
    assert_deaf(end)


@pytest.mark.parametrize("bytewise", [False, True])
def test_tls_where_there_should_be_none_is_named(bytewise: bool) -> None:
    for client, said, cure in (
        (False, b"\x16\x03\x01\x02\x00", "a TLS handshake: this port has no tls="),
        (True, b"\x15\x03\x01\x00\x02\x02\x46", "a TLS alert: it expects TLS, use tls="),
    ):
        end = End(client=client)
        for piece in [said[n : n + 1] for n in range(len(said))] if bytewise and client else [said]:
            end.receive(piece)
        (fault,) = end.faults
        assert fault.text.endswith(cure)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"OPTIONS", b"CONNECT"])
@pytest.mark.parametrize("bytewise", [False, True])
def test_http1_request_gets_an_http1_answer(method: bytes, bytewise: bool) -> None:
    """S17."""
    end = End(client=False)
    said = method + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for piece in [said[n : n + 1] for n in range(len(said))] if bytewise else [said]:
        end.receive(piece)
    (fault,) = end.faults
    assert isinstance(fault, NotHttp2)
    assert fault.http1
    head, _, text = end.engine.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in head
    assert head.endswith(b"Content-Length: %d" % len(text))
    assert_deaf(end)


def test_server_refuses_at_the_first_wrong_byte() -> None:
    end = End(client=False)
    end.receive(b"PRI * HTTP/2.0\r\n")
    assert not end.faults
    end.receive(b"x")
    assert isinstance(end.faults[0], NotHttp2)


@pytest.mark.parametrize("bytewise", [False, True])
def test_client_names_what_an_http1_server_answered(bytewise: bool) -> None:
    end = End(client=True)
    for piece in [bytes((byte,)) for byte in HTTP1_ANSWER] if bytewise else [HTTP1_ANSWER]:
        end.receive(piece)
    (fault,) = end.faults
    assert isinstance(fault, NotHttp2)
    assert "b'H" in fault.text
    if not bytewise:
        assert "HTTP/1.1 400 Bad Request" in fault.text


@pytest.mark.parametrize(
    "first",
    [
        frame(frames.PING, 0, 0, bytes(8)),
        frame(frames.SETTINGS, frames.ACK, 0, b""),
        frame(frames.SETTINGS, 0, 1, b""),
        frame(frames.SETTINGS, 0, 0, bytes(16386)),
    ],
    ids=["no settings", "an ack", "on a stream", "too long"],
)
def test_first_frame_must_be_settings(first: bytes) -> None:
    end = End(client=True)
    end.receive(first[:9])
    assert isinstance(end.faults[0], NotHttp2)


@pytest.mark.parametrize("said", [b"H", b"\x01", b"\x00\x41"])
def test_first_frame_is_refused_from_the_bytes_of_its_length(said: bytes) -> None:
    """C25: what is no frame, or a longer one than SETTINGS may be, is not waited for."""
    end = End(client=True)
    end.receive(said)
    assert isinstance(end.faults[0], NotHttp2)


@pytest.mark.parametrize("said", [b"\x00", b"\x00\x40", b"\x00\x00\x06\x04"])
def test_first_frame_may_come_in_pieces(said: bytes) -> None:
    end = End(client=True)
    end.receive(said)
    assert not end.faults


def test_settings_may_come_a_byte_behind_the_preface() -> None:
    end = End(client=False)
    end.receive(frames.PREFACE)
    assert end.events == []
    for byte in settings_frame((3, 9)):
        end.receive(bytes((byte,)))
    assert end.events == [("settings",)]
    assert end.engine.max_streams == 9


def test_client_opens_with_preface_and_settings_that_forbid_push() -> None:
    sent = End(client=True).engine.take()
    assert sent.startswith(frames.PREFACE)
    first = split_frames(sent)[0]
    assert (first.kind, first.flags, first.stream_id) == (frames.SETTINGS, 0, 0)
    assert frames.pack_setting(frames.Setting.ENABLE_PUSH, 0) in first.payload


def test_server_announces_its_limits() -> None:
    limits = Limits(
        max_concurrent_streams=7,
        stream_window=100_000,
        connection_window=200_000,
        max_frame_size=20_000,
        header_list_advertised=5000,
    )
    end = End(client=False, limits=limits)
    end.receive(frames.PREFACE)
    first, second = end.sent()
    pairs = {frames.unpack_setting(first.payload, at) for at in range(0, len(first.payload), 6)}
    assert {
        (frames.Setting.MAX_CONCURRENT_STREAMS, 7),
        (frames.Setting.INITIAL_WINDOW_SIZE, 100_000),
        (frames.Setting.MAX_HEADER_LIST_SIZE, 5000),
        (frames.Setting.MAX_FRAME_SIZE, 20_000),
    } == pairs
    assert (second.kind, int.from_bytes(second.payload, "big")) == (frames.WINDOW_UPDATE, 200_000 - 65535)


def test_server_says_nothing_before_the_whole_preface() -> None:
    """A stranger would not understand it, and a scanner learns nothing."""
    end = End(client=False)
    end.receive(frames.PREFACE[:-1])
    assert end.engine.take() == b""
    end.receive(frames.PREFACE[-1:])
    assert end.sent()[0].kind == frames.SETTINGS
    end.receive(settings_frame())
    assert [(each.kind, each.flags) for each in end.sent()] == [(frames.SETTINGS, frames.ACK)]  # not again
