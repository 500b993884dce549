"""What a peer may do wrong, to the reference engine and to the native one: both say the same to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.http2.hpack import Field
from lbkit.limits import Limits
from tests.support.reference import BOTH, Played, codes
from tests.support.wire import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    Scripted,
    data_frame,
    goaway_frame,
    reset_frame,
    settings_frame,
    window_update,
)

# Faults of a stream, RFC 9113 5.4.2


def changed(*changes: Field, without: bytes = b"") -> list[Field]:
    """The request with fields added behind, or one left out."""
    return [field for field in REQUEST if field[0] != without] + list(changes)


BAD_REQUESTS = {
    "8.2.1 upper case": changed((b"X-Upper", b"1")),
    "8.2.1 line feed": changed((b"x-a", b"1\n2")),
    "8.2.1 empty name": changed((b"", b"1")),
    "8.2.2 connection": changed((b"connection", b"close")),
    "8.2.2 te": changed((b"te", b"gzip")),
    "8.3 pseudo-header behind": changed((b":path", b"/")),
    "8.3 unknown pseudo-header": [(b":status", b"100"), *REQUEST],
    "8.3.1 no path": changed(without=b":path"),
    "8.1.1 content-length of words": changed((b"content-length", b"many")),
    "8.1.1 two content-lengths": changed((b"content-length", b"1"), (b"content-length", b"2")),
    "8.1.1 no content": changed((b"content-length", b"7")),
}


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("fields", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_malformed_request_is_the_end_of_its_stream_only(engine: str, fields: list[Field]) -> None:
    """RFC 9113 8.1.1; for h2 alone it is the end of the connection."""
    end = Played(engine, client=False)
    end.receive(end.headers(1) + end.headers(3, fields, end=True) + data_frame(1, b"alive", end=True))
    assert codes(end) == [ErrorCode.PROTOCOL_ERROR]
    assert end.names(1) == ["request", "data"]
    assert end.names(3) == []
    assert not end.faults


BAD_ANSWERS: dict[str, tuple[ErrorCode, Callable[[Scripted], bytes]]] = {
    "8.3.2 no status": (ErrorCode.PROTOCOL_ERROR, lambda end: end.headers(1, TRAILERS)),
    "8.1 DATA first": (ErrorCode.PROTOCOL_ERROR, lambda _: data_frame(1, b"x")),
    "8.1 mid-stream HEADERS": (
        ErrorCode.PROTOCOL_ERROR,
        lambda end: end.headers(1, RESPONSE) + end.headers(1, TRAILERS),
    ),
    "8.1 pseudo-header in trailers": (
        ErrorCode.PROTOCOL_ERROR,
        lambda end: end.headers(1, RESPONSE) + end.headers(1, RESPONSE, end=True),
    ),
    "8.1 informational end": (
        ErrorCode.PROTOCOL_ERROR,
        lambda end: end.headers(1, [(b":status", b"100")], end=True),
    ),
    "8.1.1 too much content": (
        ErrorCode.PROTOCOL_ERROR,
        lambda end: end.headers(1, [*RESPONSE, (b"content-length", b"3")]) + data_frame(1, b"four"),
    ),
    "8.1.1 too little before trailers": (
        ErrorCode.PROTOCOL_ERROR,
        lambda end: (
            end.headers(1, [*RESPONSE, (b"content-length", b"9")])
            + data_frame(1, b"four")
            + end.headers(1, TRAILERS, end=True)
        ),
    ),
    "6.9 WINDOW_UPDATE of 0": (ErrorCode.PROTOCOL_ERROR, lambda _: window_update(1, 0)),
    "6.9.1 send window above 2^31-1": (
        ErrorCode.FLOW_CONTROL_ERROR,
        lambda _: window_update(1, frames.MAX_WINDOW),
    ),
    "6.9.1 more than the window": (
        ErrorCode.FLOW_CONTROL_ERROR,
        lambda end: end.headers(1, RESPONSE) + data_frame(1, bytes(16_384)) * 5,
    ),
    "6.5.2 header list": (
        ErrorCode.ENHANCE_YOUR_CALM,
        lambda end: end.headers(1, [*RESPONSE, *((b"x-%d" % n, b"v" * 600) for n in range(30))]),
    ),
}


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize(("code", "answer"), BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_bad_answer_is_the_end_of_its_stream_only(
    engine: str, code: ErrorCode, answer: Callable[[Scripted], bytes]
) -> None:
    """C12, C13, S11 to S13."""
    end = Played(engine, client=True, limits=Limits(stream_window=65535))
    end.greedy = False
    end.open(end=True)
    end.open(end=True)
    end.engine.take()
    end.receive(settings_frame(ack=True) + answer(end))
    assert [event[:3] for event in end.of("reset")] == [("reset", 1, code)]
    assert codes(end) == [code]
    end.receive(end.headers(3, (*RESPONSE, *TRAILERS), end=True))
    assert end.names(3) == ["headers"]
    assert not end.faults


@pytest.mark.parametrize("engine", BOTH)
def test_frames_after_the_peers_end_reset_the_stream(engine: str) -> None:
    """S23, RFC 9113 5.1, "half-closed (remote)"."""
    end = Played(engine, client=False)
    end.receive(end.headers(1, end=True) + end.headers(3, end=True) + end.headers(5, end=True))
    end.receive(data_frame(1, b"x") + end.headers(3, TRAILERS, end=True))
    assert [event[:3] for event in end.of("reset")] == [
        ("reset", 1, ErrorCode.STREAM_CLOSED),
        ("reset", 3, ErrorCode.STREAM_CLOSED),
    ]
    assert codes(end) == [ErrorCode.STREAM_CLOSED] * 2
    assert list(end.engine.streams) == [5]


@pytest.mark.parametrize("engine", BOTH)
def test_large_header_list_is_left_to_the_layer_above(engine: str) -> None:
    """S9: it answers RESOURCE_EXHAUSTED."""
    end = Played(engine, client=False)
    end.receive(end.headers(1, [*REQUEST, *((b"x-%d" % n, b"v" * 600) for n in range(30))], end=True))
    ((_, stream_id, reason),) = end.of("oversized")
    assert stream_id == 1
    assert "limit is 16384" in reason
    end.engine.send_headers(end.opened[1], None, (*RESPONSE, *TRAILERS), True)
    assert [each.flags & frames.END_STREAM for each in end.sent_kinds(frames.HEADERS)] == [1]


# Faults of the connection, RFC 9113 5.4.1


@pytest.mark.parametrize("engine", BOTH)
def test_good_frames_before_a_bad_one_are_not_lost(engine: str) -> None:
    """h2 alone drops the events of all frames that came in the same read."""
    end = Played(engine, client=True)
    end.open(end=True)
    end.engine.take()
    end.receive(end.headers(1, (*RESPONSE, *TRAILERS), end=True) + frame(frames.PING, 0, 0, b"short"))
    assert [event[0] for event in end.events] == ["headers", "fault"]
    (goaway,) = end.sent_kinds(frames.GOAWAY)
    assert int.from_bytes(goaway.payload[4:8], "big") == ErrorCode.FRAME_SIZE_ERROR
    assert goaway.payload[8:], "GOAWAY says why"


@pytest.mark.parametrize("engine", BOTH)
def test_long_frames_are_refused_from_their_first_nine_bytes(engine: str) -> None:
    """S19, RFC 9113 4.2; h2 alone waits for all of them."""
    end = Played(engine, client=False)
    end.receive(frames.pack_header(0xFFFF, 0xFF, frames.DATA, 0, 1))
    assert [fault.code for fault in end.faults] == [ErrorCode.FRAME_SIZE_ERROR]


CONNECTION_FAULTS: dict[str, tuple[ErrorCode, bytes]] = {
    "4.3 compression": (
        ErrorCode.COMPRESSION_ERROR,
        frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff"),
    ),
    "5.1 RST_STREAM on idle": (ErrorCode.PROTOCOL_ERROR, reset_frame(9, 0)),
    "5.1 DATA on idle": (ErrorCode.PROTOCOL_ERROR, data_frame(9, b"x")),
    "5.1 WINDOW_UPDATE on idle": (ErrorCode.PROTOCOL_ERROR, window_update(9, 1)),
    "5.1.1 even stream": (ErrorCode.PROTOCOL_ERROR, frame(frames.HEADERS, frames.END_HEADERS, 2, b"\x83")),
    "6.5.2 window": (ErrorCode.FLOW_CONTROL_ERROR, settings_frame((4, 1 << 31))),
    "6.9 connection window": (ErrorCode.FLOW_CONTROL_ERROR, window_update(0, frames.MAX_WINDOW)),
    "6.10 CONTINUATION alone": (ErrorCode.PROTOCOL_ERROR, frame(frames.CONTINUATION, 4, 1, b"")),
    "6.10 interrupted by an unknown frame": (
        ErrorCode.PROTOCOL_ERROR,
        frame(frames.HEADERS, 0, 1, b"\x83") + frame(0xFA, 0, 0, b""),
    ),
}


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize(("code", "data"), CONNECTION_FAULTS.values(), ids=CONNECTION_FAULTS.keys())
def test_connection_faults_have_the_same_code(engine: str, code: ErrorCode, data: bytes) -> None:
    end = Played(engine, client=False)
    end.receive(data)
    assert [fault.code for fault in end.faults] == [code]


def test_headers_on_a_stream_of_the_server_are_a_fault() -> None:
    """RFC 9113 5.1.1, 8.4: h2 alone takes them for a request."""
    for engine in BOTH:
        end = Played(engine, client=True)
        end.open()
        end.receive(end.headers(2, REQUEST))
        assert [fault.code for fault in end.faults] == [ErrorCode.PROTOCOL_ERROR]


def test_one_streams_dependency_on_itself_is_not_the_next_ones() -> None:
    """RFC 9113 5.3.2: the native engine refuses such a stream, as RFC 7540 5.3.1 had it, but no other."""
    end = Played("native", client=False)
    end.receive(end.headers(1))
    priority = bytes((0, 0, 0, 1, 16))
    trailers = frame(frames.HEADERS, 0x25, 1, priority + end.block(TRAILERS))
    end.receive(trailers + end.headers(3, end=True))
    assert [event[1] for event in end.of("request")] == [1, 3]


def test_alternative_services_are_ignored() -> None:
    """RFC 9113 5.5: we have no use for ALTSVC; h2 alone takes a short one for the connection's end."""
    end = Played("h2", client=True)
    end.receive(frame(0x0A, 0, 0, b"\x00"))
    assert not end.faults
    assert end.counters.seen["glitches"] == 1


def test_reserved_bits_are_ignored() -> None:
    """RFC 9113 4.1, 6.9; h2 alone refuses the increment."""
    end = Played("h2", client=True)
    end.receive(frame(frames.WINDOW_UPDATE, 0, 1 << 31, (1 << 31 | 5).to_bytes(4, "big")))
    end.receive(goaway_frame(1 << 31 | 7))
    assert not end.faults
    assert end.events == [("goaway", 7, 0, b"")]


# Floods, RFC 9113 10.5


def _blocks(end: Scripted) -> bytes:
    return frame(frames.HEADERS, 0, 1, b"\x83") + frame(frames.CONTINUATION, 0, 1, b"\x83") * 20


FLOODS: dict[str, Callable[[Scripted], bytes]] = {
    "pings": lambda _: frame(frames.PING, 0, 0, bytes(8)) * 300,
    "settings": lambda _: settings_frame() * 200,
    "settings_entries": lambda _: settings_frame(*[(9, 1)] * 40),
    "resets": lambda end: b"".join(end.headers(n) + reset_frame(n, 8) for n in range(1, 1200, 2)),
    "refused": lambda end: b"".join(end.headers(n, TRAILERS) for n in range(1, 1200, 2)),
    "empty_frames": lambda end: end.headers(1) + data_frame(1, b"") * 20,
    "continuation_frames": _blocks,
    "priority_frames": lambda _: frame(frames.PRIORITY, 0, 1, bytes((0, 0, 0, 0, 9))) * 400,
    "glitches": lambda _: frame(0xFA, 0, 0, b"") * 1000,
    "window_updates": lambda _: window_update(0, 1) * 100,
    "abusive_header_list": lambda end: end.headers(
        1, [*REQUEST, *[(b"x-big", b"v" * 3900)] * 20], flags=frames.END_HEADERS
    ),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_end_both_engines_at_the_same_limit(name: str) -> None:
    """S1 to S8: both count with the same guard."""
    seen: list[Any] = []
    for engine in BOTH:
        end = Played(engine, client=False)
        end.receive(FLOODS[name](end))
        assert [fault.code for fault in end.faults] == [ErrorCode.ENHANCE_YOUR_CALM]
        seen.append((dict(end.counters.exceeded), end.counters.seen))
    assert seen[0] == seen[1]
