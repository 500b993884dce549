"""What fuzzing has found, each as the shortest story that shows it; the inputs themselves are in ``corpus``."""

from __future__ import annotations

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import CONTINUATION, END_HEADERS, HEADERS, PREFACE, frame
from lbkit.limits import Limits
from lbkit.wire.messages import PREFIX_BYTES, OneMessage
from tests.support.wire import End, Scripted, data_frame, settings_frame


def test_header_block_is_unfinished_though_its_first_frame_is_whole() -> None:
    """S14: HEADERS without END_HEADERS, and nothing after it, has to run into ``header_timeout_s``."""
    end = Scripted(client=False)
    block = end.block([(b":method", b"POST")])
    end.time = 5.0
    end.receive(frame(HEADERS, 0, 1, block))
    assert end.engine.unfinished_since == 5.0
    end.time = 6.0
    end.receive(frame(CONTINUATION, 0, 1, b""))
    assert end.engine.unfinished_since == 5.0
    end.receive(frame(CONTINUATION, END_HEADERS, 1, b""))
    assert end.engine.unfinished_since is None


@pytest.mark.parametrize("say", ["goaway", "ping"])
def test_settings_are_the_first_frame_of_a_server_whatever_it_has_to_say(say: str) -> None:
    """RFC 9113 3.4: also of one that drains before the client's preface has come."""
    end = End(client=False)
    if say == "goaway":
        end.engine.goaway(frames.MAX_STREAM_ID, 0, b"graceful_stop")
    else:
        end.engine.ping(b"pingpong")
    end.receive(PREFACE + settings_frame())
    kinds = [each.kind for each in end.sent()]
    assert kinds[0] == frames.SETTINGS
    assert kinds.count(frames.SETTINGS) == 2  # ours, and the ACK of the client's


@pytest.mark.parametrize("cut", [1, 2, 3, 8, 9, 10])
def test_first_settings_frame_may_be_long_and_come_in_pieces(cut: int) -> None:
    """RFC 9113 3.4 and 4.2: up to 16,384 bytes; the first ones of the length do not tell."""
    end = End(client=False, limits=Limits(settings_entries=100))
    wire = settings_frame(*[(0x99, 0)] * 50)
    end.receive(PREFACE)
    end.receive(wire[:cut])
    end.receive(wire[cut:])
    assert not end.faults
    assert end.of("settings")


@pytest.mark.parametrize("size", [32 * 1024 - 1, 32 * 1024, 32 * 1024 + 1])
def test_message_has_room_for_what_the_engine_asks_for(size: int) -> None:
    """A message as long as the shortest direct read, whose prefix came in a frame of its own."""
    message = OneMessage(1 << 20)
    assert message.feed(b"\x00" + size.to_bytes(4, "big"))
    assert message.missing == size
    message.feed(b"x" * size) if size < 32 * 1024 else fill(message, size)
    assert message.finish() == b"x" * size


def fill(message: OneMessage, size: int) -> None:
    message.room(size)[:] = b"x" * size
    message.filled(size)


def test_nothing_comes_on_a_stream_after_its_end_not_even_a_request_for_room() -> None:
    """RFC 9113 5.1, half-closed (remote): more DATA is STREAM_CLOSED, also while a message is awaited."""
    limits = Limits(max_frame_size=100_000, stream_window=200_000)
    end = Scripted(client=False, limits=limits)
    end.receive(settings_frame(ack=True) + end.headers(1))
    end.sinks[1].direct = True
    end.engine.expect(end.opened[1], 150_000)
    end.receive(data_frame(1, b"x" * PREFIX_BYTES, end=True))
    wire = data_frame(1, bytes(90_000), end=True)
    end.receive(wire[:1000])
    assert not end.sinks[1].room
    end.receive(wire[1000:])
    assert end.names(1)[-1] == "reset"
    assert end.of("reset")[-1][2] == frames.ErrorCode.STREAM_CLOSED
