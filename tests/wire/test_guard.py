"""What a peer may do only so often: just as often passes, once more ends the connection (RFC 9113 10.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any, NamedTuple

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, Setting, frame
from lbkit.http2.guard import Bucket
from lbkit.limits import Limits
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

PING = frame(frames.PING, 0, 0, b"12345678")
PATIENT = {"ping_interval_s": 0.0, "idle_ping_interval_s": 0.0}  # with no strikes, the bucket decides


def server(**limits: Any) -> Scripted:
    return Scripted(client=False, limits=Limits(**limits))


def assert_calmed(end: Scripted, limit: str) -> None:
    """The connection ended with ENHANCE_YOUR_CALM for one limit, which was counted once."""
    (fault,) = end.faults
    assert fault.code == ErrorCode.ENHANCE_YOUR_CALM
    assert end.counters.exceeded == {limit: 1}
    goaway = end.sent()[-1]
    assert (goaway.kind, goaway.payload[4:8]) == (frames.GOAWAY, b"\0\0\0\x0b")


def odd() -> Iterator[int]:
    return count(1, 2)


def cancelled_requests(end: Scripted) -> Iterator[bytes]:
    return (end.headers(n) + reset_frame(n, ErrorCode.CANCEL) for n in odd())


def malformed_requests(end: Scripted) -> Iterator[bytes]:
    return (end.headers(n, TRAILERS) for n in odd())


def ended_then(late: Callable[[int], bytes]) -> Callable[[Scripted], Iterator[bytes]]:
    """Requests that have us reset them: the primitives of CVE-2025-8671."""
    return lambda end: (end.headers(n, end=True) + late(n) for n in odd())


def fragments(end: Scripted) -> Iterator[bytes]:
    block = end.block(REQUEST)
    yield frame(frames.HEADERS, 0, 1, block[:1])
    for n in count(1):
        yield frame(frames.CONTINUATION, 0, 1, block[n : n + 1])


def late(frame_of: Callable[[Scripted], bytes]) -> Callable[[Scripted], Iterator[bytes]]:
    """A request that we reset for its fault, and frames that come after that."""

    def script(end: Scripted) -> Iterator[bytes]:
        yield end.headers(1, TRAILERS)
        while True:
            yield frame_of(end)

    return script


def again(data: bytes) -> Callable[[Scripted], Iterator[bytes]]:
    return lambda end: iter(lambda: data, b"")


def on_stream(each: bytes) -> Callable[[Scripted], Iterator[bytes]]:
    def script(end: Scripted) -> Iterator[bytes]:
        yield end.headers(1)
        while True:
            yield each

    return script


class Row(NamedTuple):
    """A limit: what provokes it, and how often that passes.

    Attributes:
        limits: small ones, with no refill.
        script: what the peer sends, piece by piece.
        allowed: pieces that pass.
        limit: what is counted as exceeded.
    """

    limits: dict[str, float]
    script: Callable[[Scripted], Iterator[bytes]]
    allowed: int
    limit: str


RESETS = {"resets_burst": 5, "resets_rate": 2.0}
GLITCHES = {"glitches_burst": 5, "glitches_rate": 2.0}
SETTINGS = {"settings_burst": 6, "settings_rate": 2.0}  # one of them opened the connection
PINGS = {"pings_burst": 5, "pings_rate": 2.0, **PATIENT}

BUCKETS = {
    "S1 requests and RST_STREAM": Row(RESETS, cancelled_requests, 5, "resets"),
    "S7 malformed requests": Row(RESETS, malformed_requests, 5, "resets"),
    "S2 WINDOW_UPDATE 0": Row(RESETS, ended_then(lambda n: window_update(n, 0)), 5, "resets"),
    "S2 WINDOW_UPDATE 2^31-1": Row(
        RESETS, ended_then(lambda n: window_update(n, frames.MAX_WINDOW)), 5, "resets"
    ),
    "S2 DATA after END_STREAM": Row(RESETS, ended_then(lambda n: data_frame(n, b"x")), 5, "resets"),
    "S2 PRIORITY on itself": Row(
        RESETS, ended_then(lambda n: frame(frames.PRIORITY, 0, n, n.to_bytes(4, "big") + b"\0")), 5, "resets"
    ),
    "S6 unknown frames": Row(GLITCHES, again(frame(0xFA, 0, 0, b"?")), 5, "glitches"),
    "S6 PRIORITY as a glitch": Row(GLITCHES, again(frame(frames.PRIORITY, 0, 9, bytes(5))), 5, "glitches"),
    "C19 GOAWAY": Row(GLITCHES, again(goaway_frame(1)), 5, "glitches"),
    "PING ACK for no PING": Row(GLITCHES, again(frame(frames.PING, frames.ACK, 0, bytes(8))), 5, "glitches"),
    "S4 SETTINGS": Row(SETTINGS, again(settings_frame()), 5, "settings"),
    "S4 PING": Row(PINGS, again(PING), 5, "pings"),
}

LIMITS = {
    **BUCKETS,
    "S3 CONTINUATION": Row({"continuation_frames": 5}, fragments, 6, "continuation_frames"),
    "S3 empty CONTINUATION": Row(
        {"continuation_frames": 100, "empty_frames": 5},
        lambda end: iter([frame(frames.HEADERS, 0, 1, b""), *[frame(frames.CONTINUATION, 0, 1, b"")] * 10]),
        6,
        "empty_frames",
    ),
    "S3 endless block": Row(
        {"abusive_header_list": 50_000},
        lambda end: iter([frame(frames.HEADERS, 0, 1, b""), *[frame(frames.CONTINUATION, 0, 1, bytes(10_000))] * 9]),
        6,
        "abusive_header_list",
    ),
    "S8 HPACK bomb": Row(
        {"abusive_header_list": 50_000},
        lambda end: iter(
            [
                end.headers(1, (*REQUEST, (b"x-bomb", bytes(1000).replace(b"\0", b"v")))),
                frame(frames.HEADERS, frames.END_HEADERS, 3, end.block(REQUEST) + b"\xbe" * 40),
                frame(frames.HEADERS, frames.END_HEADERS, 5, end.block(REQUEST) + b"\xbe" * 50),
            ]
        ),
        2,
        "abusive_header_list",
    ),
    "S4 ping strikes": Row({"ping_strikes": 2}, again(PING), 3, "ping_strikes"),
    "S4 parameters of SETTINGS": Row(
        {"settings_entries": 5},
        lambda end: (settings_frame(*[(0xFF, 0)] * n) for n in count(1)),
        5,
        "settings_entries",
    ),
    "S5 empty DATA": Row({"empty_frames": 5}, on_stream(data_frame(1, b"")), 6, "empty_frames"),
    "S5 DATA of padding": Row(
        {"empty_frames": 5}, on_stream(frame(frames.DATA, frames.PADDED, 1, b"\1\0")), 6, "empty_frames"
    ),
    "S24 late RST_STREAM, two free": Row(GLITCHES, late(lambda _: reset_frame(1, 0)), 1 + 2 + 5, "glitches"),
    "S24 late HEADERS, two free": Row(GLITCHES, late(lambda end: end.headers(1, TRAILERS)), 1 + 2 + 5, "glitches"),
    "S5 empty DATA on a closed stream": Row({"empty_frames": 5}, late(lambda _: data_frame(1, b"")), 6, "empty_frames"),
    "S6 PRIORITY, no stream": Row(
        {"priority_frames": 5}, again(frame(frames.PRIORITY, 0, 9, bytes(5))), 5, "priority_frames"
    ),
    "S6 PRIORITY, one stream": Row(
        {"priority_frames": 5}, on_stream(frame(frames.PRIORITY, 0, 1, bytes(5))), 11, "priority_frames"
    ),
    "S6 WINDOW_UPDATE, no stream": Row({}, again(window_update(0, 1)), 5, "window_updates"),
    "S6 WINDOW_UPDATE, one stream": Row({}, on_stream(window_update(1, 1)), 8, "window_updates"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_as_often_as_allowed_passes_and_once_more_ends_the_connection(name: str) -> None:
    row = LIMITS[name]
    end = server(**row.limits)
    script = row.script(end)
    for piece in islice(script, row.allowed):
        end.receive(piece)
    assert not end.faults
    assert row.limit not in end.counters.exceeded
    end.counters.exceeded.clear()  # of what a milder limit did
    end.receive(next(script))
    assert_calmed(end, row.limit)


@pytest.mark.parametrize("name", BUCKETS)
def test_time_refills_a_bucket_to_its_brim(name: str) -> None:
    row = BUCKETS[name]
    end = server(**row.limits)
    script = row.script(end)

    def send(pieces: int) -> None:
        for piece in islice(script, pieces):
            end.receive(piece)

    send(row.allowed)
    end.time += 1.5  # at two a second
    send(3)
    end.time += 1e6
    brim = int(row.limits[f"{row.limit}_burst"])
    send(brim)
    assert not end.faults
    send(1)
    assert_calmed(end, row.limit)


def test_bucket_counts_parts() -> None:
    bucket = Bucket(1, 0.5, now=10.0)
    assert bucket.take(10.0)
    assert not bucket.take(11.0)
    assert bucket.take(12.0)  # the refusal before cost nothing
    assert bucket.level == 0


def test_counters_see_what_stays_below_the_limits() -> None:
    end = server(**PATIENT)
    end.receive(
        PING * 3 + settings_frame() * 2 + window_update(0, 1) + frame(frames.PRIORITY, 0, 9, bytes(5))
    )
    end.receive(end.headers(1, flags=0) + frame(frames.CONTINUATION, frames.END_HEADERS, 1, b""))
    end.receive(data_frame(1, b"") + reset_frame(1, ErrorCode.CANCEL))
    assert end.counters.seen == {
        "pings": 3,
        "settings": 3,
        "window_updates": 1,
        "priority_frames": 1,
        "glitches": 1,
        "continuation_frames": 1,
        "empty_frames": 1,
        "resets": 1,
    }
    assert not end.counters.exceeded
    assert "'pings': 3" in repr(end.counters)


# Resets, CVE-2023-44487


def serve(end: Scripted, stream_id: int) -> None:
    """A call that ends well."""
    end.receive(end.headers(stream_id, end=True))
    end.engine.send_headers(end.opened[stream_id], None, (*RESPONSE, *TRAILERS), True)


def test_a_stream_that_ends_well_earns_a_reset_back() -> None:
    """A client that cancels every other call is welcome."""
    end = server(resets_burst=5, resets_rate=0.0)
    for n in range(100):
        serve(end, 4 * n + 1)
        end.receive(end.headers(4 * n + 3) + reset_frame(4 * n + 3, ErrorCode.CANCEL))
    assert not end.faults
    assert end.counters.seen["resets"] == 100


def test_resets_are_not_earned_beyond_the_burst() -> None:
    end = server(resets_burst=5, resets_rate=0.0)
    for n in range(100):
        serve(end, 2 * n + 1)
    ids = count(201, 2)
    for _ in range(5):
        end.receive(end.headers(n := next(ids)) + reset_frame(n, ErrorCode.CANCEL))
    assert not end.faults
    end.receive(end.headers(n := next(ids)) + reset_frame(n, ErrorCode.CANCEL))
    assert_calmed(end, "resets")


def test_opening_streams_first_and_resetting_them_later_earns_nothing() -> None:
    """S1: the same flood in batches."""
    end = server(resets_burst=20, resets_rate=0.0)
    ids = odd()
    for _ in range(100):
        batch = list(islice(ids, 10))
        for n in batch:
            end.receive(end.headers(n))
        for n in batch:
            end.receive(reset_frame(n, ErrorCode.CANCEL))
        end.engine.take()
    assert end.faults
    assert end.counters.seen["resets"] == 21


def test_passing_over_stream_ids_earns_no_resets() -> None:
    """S1: an id that was left out is no stream that ended well."""
    end = server(resets_burst=20, resets_rate=0.0, glitches_burst=10_000)
    for n in range(1, 4000, 20):
        end.receive(end.headers(n) + reset_frame(n, ErrorCode.CANCEL))
    assert end.faults
    assert end.counters.seen["resets"] == 21


def test_passing_over_stream_ids_earns_no_window_updates() -> None:
    """S6."""
    end = server()
    end.receive(end.headers(2001))
    for _ in range(8):
        end.receive(window_update(0, 1))
    assert end.counters.exceeded == {"window_updates": 1}


def test_a_server_may_reset_every_call_of_its_client() -> None:
    """C27: it gains nothing, and the client's calls would only be lost faster. It is counted."""
    end = Scripted(client=True, limits=Limits(resets_burst=5, resets_rate=0.0))
    for _ in range(20):
        end.receive(reset_frame(end.open().id, ErrorCode.INTERNAL_ERROR))
    assert not end.faults
    assert end.counters.seen["resets"] == 20
    assert not end.counters.exceeded


# PING, gRFC A8


def test_pings_that_come_seldom_cost_nothing() -> None:
    end = server(ping_strikes=0, ping_interval_s=10.0, idle_ping_interval_s=100.0)
    end.receive(PING)
    end.time += 100.0
    end.receive(PING + end.headers(1))
    end.time += 10.0  # with a stream open the shorter time holds
    end.receive(PING)
    assert not end.faults
    end.time += 9.9
    end.receive(PING)
    assert_calmed(end, "ping_strikes")


def test_idle_connections_are_pinged_less_often() -> None:
    end = server(ping_strikes=0, ping_interval_s=10.0, idle_ping_interval_s=100.0)
    end.receive(PING)
    end.time += 99.0
    end.receive(PING)
    assert_calmed(end, "ping_strikes")
    assert end.faults[0].text == "too_many_pings"  # what gRPC clients compare with


def test_answers_in_between_forgive_ping_strikes() -> None:
    """Peers measure the path while they receive."""
    end = server(ping_strikes=2)
    for n in range(20):
        end.receive(PING * 3)
        serve(end, 2 * n + 1)
        end.engine.take()
    assert not end.faults


def test_a_clients_answers_to_pings_are_no_messages() -> None:
    """Only HEADERS and DATA forgive strikes: else each ACK would allow for the next PING."""
    end = server(ping_strikes=2)
    for _ in range(3):
        end.receive(PING)
        assert end.sent()
    end.receive(PING)
    assert_calmed(end, "ping_strikes")


def test_servers_may_ping_clients_at_the_buckets_rate() -> None:
    end = Scripted(client=True, limits=Limits(pings_burst=5, pings_rate=1.0, ping_strikes=0))
    end.receive(PING)  # measures the path for what opened the connection
    end.receive(PING * 5)
    end.time += 1.0
    end.receive(PING)
    assert not end.faults
    end.receive(PING)
    assert_calmed(end, "pings")


# Others


@pytest.mark.parametrize(
    "between",
    [lambda end: data_frame(1, b"x"), lambda end: end.headers(3, end=True)],
    ids=["DATA", "HEADERS"],
)
def test_frames_that_carry_something_allow_for_empty_ones(between: Callable[[Scripted], bytes]) -> None:
    end = server(empty_frames=3)
    end.receive(end.headers(1) + data_frame(1, b"") * 3)
    end.receive(between(end))
    end.receive(data_frame(1, b"") * 3)
    assert not end.faults
    end.receive(data_frame(1, b""))
    assert_calmed(end, "empty_frames")


def test_control_frames_in_between_do_not_hide_empty_ones() -> None:
    end = server(empty_frames=3, **PATIENT)
    end.receive(end.headers(1) + (data_frame(1, b"") + PING) * 4)
    assert_calmed(end, "empty_frames")


def test_an_empty_frame_that_ends_its_stream_is_not_counted() -> None:
    end = server(empty_frames=0)
    end.receive(end.headers(1) + data_frame(1, b"", end=True))
    assert not end.faults
    assert "empty_frames" not in end.counters.seen


def test_each_frame_sent_allows_for_window_updates() -> None:
    end = server()
    end.receive(end.headers(1))
    for _ in range(5):
        end.engine.send_data(end.opened[1], b"x", False)
    end.receive(window_update(1, 1) * (5 + 2 + 5 * 20))
    assert not end.faults
    end.receive(window_update(1, 1))
    assert_calmed(end, "window_updates")


@pytest.mark.parametrize("answered", ["PING", "refused streams"])
def test_answers_are_counted_until_they_are_taken(answered: str) -> None:
    """S4: the layer above reads no more from a peer that does not read them, and gives up in the end."""
    end = server(max_concurrent_streams=0, **PATIENT)
    for n in range(1, 21):
        end.receive(PING if answered == "PING" else end.headers(2 * n - 1))
        assert end.engine.queued_control == n
    assert len(end.sent()) == 20
    assert end.engine.queued_control == 0


def test_default_limits_let_a_lively_client_be() -> None:
    """200 cancelled calls at once, 100 SETTINGS, 500 oddities: and no more."""
    end = server()
    for piece in islice(cancelled_requests(end), 200):
        end.receive(piece)
    end.receive(settings_frame((Setting.MAX_CONCURRENT_STREAMS, 1)) * 99)
    end.receive(frame(0xFA, 0, 0, b"?") * 500)
    assert not end.faults
