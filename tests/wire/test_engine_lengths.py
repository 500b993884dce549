"""content-length against the content that comes, padding left out (RFC 9113 8.1.1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.http2.hpack import Field
from tests.support.wire import REQUEST, RESPONSE, TRAILERS, Scripted, data_frame

PADDED_3 = frame(frames.DATA, frames.PADDED, 1, b"\4abc\0\0\0\0")
PADDED_END = frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\2abc\0\0")


def stated(length: int) -> Field:
    return (b"content-length", b"%d" % length)


def end_of(*, client: bool) -> Scripted:
    """An end, and if it is the client, with stream 1 open."""
    end = Scripted(client=client)
    if client:
        end.open(end=True)
        end.engine.take()
    return end


def head(end: Scripted, *extra: Field, last: bool = False) -> bytes:
    """The headers that come on stream 1: a request, or an answer."""
    return end.headers(1, (*(RESPONSE if end.engine.client else REQUEST), *extra), end=last)


# (content-length, what follows)
Message = tuple[int, Callable[[Scripted], bytes]]


def trailers(end: Scripted) -> bytes:
    return end.headers(1, TRAILERS, end=True)


KEPT: dict[str, Message] = {
    "one frame": (3, lambda _: data_frame(1, b"abc", end=True)),
    "two frames": (5, lambda _: data_frame(1, b"abc") + data_frame(1, b"de", end=True)),
    "an empty end": (3, lambda _: data_frame(1, b"abc") + data_frame(1, b"", end=True)),
    "nothing": (0, lambda _: data_frame(1, b"", end=True)),
    "trailers": (3, lambda end: data_frame(1, b"abc") + trailers(end)),
    "trailers only": (0, trailers),
    "padding": (6, lambda _: PADDED_3 + PADDED_END),
    "padding and trailers": (3, lambda end: PADDED_3 + trailers(end)),
}
BROKEN: dict[str, Message] = {
    "one byte more": (3, lambda _: data_frame(1, b"abcd")),
    "one byte more at the end": (3, lambda _: data_frame(1, b"abcd", end=True)),
    "one byte more, later": (3, lambda _: data_frame(1, b"abc") + data_frame(1, b"d")),
    "one byte less": (3, lambda _: data_frame(1, b"ab", end=True)),
    "one byte less, later": (3, lambda _: data_frame(1, b"ab") + data_frame(1, b"", end=True)),
    "one byte less before trailers": (3, lambda end: data_frame(1, b"ab") + trailers(end)),
    "nothing before trailers": (3, trailers),
    "something for nothing": (0, lambda _: data_frame(1, b"a")),
    "padding in place of content": (7, lambda _: PADDED_END),
    "content hidden by padding": (2, lambda _: PADDED_3),
}


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("name", KEPT)
def test_content_of_the_stated_length_passes(name: str, client: bool) -> None:
    end = end_of(client=client)
    length, script = KEPT[name]
    end.receive(head(end, stated(length)) + script(end))
    assert end.of("reset") == []
    assert len(end.body(1)) == length
    assert end.events[-1][-1] is True


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("name", BROKEN)
def test_content_of_another_length_resets_the_stream(name: str, client: bool) -> None:
    end = end_of(client=client)
    length, script = BROKEN[name]
    end.receive(head(end, stated(length)) + script(end))
    ((_, stream_id, code, reason),) = end.of("reset")
    assert (stream_id, code) == (1, ErrorCode.PROTOCOL_ERROR)
    assert "content-length" in reason
    assert end.events[-1][0] == "reset"  # the end was not told before
    assert [each.stream_id for each in end.sent_kinds(frames.RST_STREAM)] == [1]
    assert not end.faults


def test_too_much_content_is_not_delivered() -> None:
    end = end_of(client=False)
    end.receive(head(end, stated(3)) + data_frame(1, b"abc") + data_frame(1, b"d"))
    assert end.body(1) == b"abc"


def test_request_that_ends_with_its_headers_has_no_content() -> None:
    end = end_of(client=False)
    end.receive(head(end, stated(3), last=True))
    assert end.events == []  # there never was a stream to tell
    assert [(each.stream_id, each.payload) for each in end.sent()] == [(1, b"\0\0\0\1")]
    end.receive(end.headers(3, (*REQUEST, stated(0)), end=True))
    assert [event[:2] for event in end.events] == [("request", 3)]


def test_answer_that_ends_with_its_headers_has_no_content() -> None:
    end = end_of(client=True)
    end.receive(head(end, stated(3), last=True))
    assert [event[:3] for event in end.events] == [("reset", 1, ErrorCode.PROTOCOL_ERROR)]
    end = end_of(client=True)
    end.receive(head(end, stated(0), last=True))
    assert end.of("headers") == end.events


@pytest.mark.parametrize("status", [b"204", b"304"])
@pytest.mark.parametrize("ending", ["headers", "trailers", "DATA"])
def test_status_without_content_may_state_a_length(status: bytes, ending: str) -> None:
    """RFC 9110 8.6: what the same answer would have had with content; nobody waits for it."""
    end = end_of(client=True)
    end.receive(end.headers(1, ((b":status", status), stated(99)), end=ending == "headers"))
    if ending == "trailers":
        end.receive(trailers(end))
    elif ending == "DATA":
        end.receive(data_frame(1, b"", end=True))
    assert end.of("reset") == []
    assert end.events[-1][-1] is True


def test_length_of_an_informational_response_does_not_count() -> None:
    """RFC 9110 8.6 forbids it there; what matters is the final answer's."""
    end = end_of(client=True)
    end.receive(end.headers(1, ((b":status", b"103"), stated(99))) + head(end, stated(3)))
    end.receive(data_frame(1, b"abc", end=True))
    assert end.of("reset") == []


def test_length_is_judged_anew_for_each_answer() -> None:
    """The same block decodes to the same tuple, and good ones are remembered: not those with a length."""
    end = Scripted(client=True)
    for body in (b"abc", b"ab", b"abc"):
        stream = end.open(end=True)
        end.receive(end.headers(stream.id, (*RESPONSE, stated(3))) + data_frame(stream.id, body, end=True))
    assert [event[1] for event in end.of("reset")] == [3]


def test_length_does_not_stay_with_the_next_stream() -> None:
    end = Scripted(client=False)
    end.receive(end.headers(1, (*REQUEST, stated(3))) + end.headers(3))
    end.receive(data_frame(3, b"of any length", end=True))
    assert end.body(3) == b"of any length"
    assert end.of("reset") == []


def test_length_in_trailers_means_nothing() -> None:
    end = end_of(client=True)
    end.receive(head(end) + data_frame(1, b"abc") + end.headers(1, (*TRAILERS, stated(7)), end=True))
    assert end.of("reset") == []
    assert end.events[-1][-1] is True


def test_lengths_that_disagree_reset_the_stream() -> None:
    end = end_of(client=False)
    end.receive(head(end, stated(3), stated(4)))
    assert [(each.stream_id, each.payload) for each in end.sent()] == [(1, b"\0\0\0\1")]


def test_window_of_counted_content_comes_back() -> None:
    """Content with a length takes another way through the engine, to the same account."""
    end = end_of(client=False)
    size = 16_384 * 40
    end.receive(head(end, stated(size)))
    window = end.opened[1].receive_window
    for _ in range(40):
        end.receive(data_frame(1, bytes(16_384)))
    assert end.opened[1].receive_window + end.opened[1].unreturned == window
    assert len(end.body(1)) == size
