"""What the cases send, what they expect, and how they can be told to run: the same whoever is the peer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.support.protos import grpc_testing_pb2 as pb

LARGE_REQUEST = 271_828
LARGE_RESPONSE = 314_159
INPUT_SIZES = (27_182, 8, 1_828, 45_904)
INPUT_TOTAL = 74_922
OUTPUT_SIZES = (31_415, 9, 2_653, 58_979)
COMPRESSED_INPUT_SIZES = (27_182, 45_904)  # the first is compressed
COMPRESSED_INPUT_TOTAL = 73_086
COMPRESSED_OUTPUT_SIZES = (31_415, 92_653)  # the first is compressed

ECHO_INITIAL = ("x-grpc-test-echo-initial", "test_initial_metadata_value")
ECHO_TRAILING = ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab")
# An EmptyCall with this in its metadata gets the counts of our servers in the trailers; others know nothing of it.
COUNTS = "x-interop-counts"

UNKNOWN = 2
STATUS_MESSAGE = "test status message"
SPECIAL_MESSAGE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"

TINY_TIMEOUT_S = 0.001
PATIENCE_S = 25.0  # for what must happen; only a failing case waits that long
CROWD_S = 120.0  # the same for the last of a thousand large calls
# More than any implementation keeps for a reader that does not read.
PUSHBACK_SIZE = 64 * 1024
PUSHBACK_COUNT = 512
NEVER_US = 600_000_000
STALLED_S = 0.3  # what has not moved for so long waits for the other side
GLANCE_S = 0.02


class CaseFailed(Exception):
    """The peer did not do what the case asks for."""


class Settings(NamedTuple):
    """What the flags say.

    Attributes:
        soak_iterations: calls, or channels with one call each.
        soak_max_failures: so many may fail or take too long.
        soak_latency_s: a call that takes longer counts as failed.
        soak_gap_s: from the start of a call to the start of the next, at least.
        soak_overall_s: all of them together.
        concurrency: calls at the same time.
        streams: what the server lets one connection have at once.
        neighbours: whether one stream that nobody reads may not hold up the others of its connection.
    """

    soak_iterations: int = 200
    soak_max_failures: int = 0
    soak_latency_s: float = 1.0
    soak_gap_s: float = 0.0
    soak_overall_s: float = 120.0
    concurrency: int = 1000
    streams: int = 0
    neighbours: bool = True


class Counts:
    """What has happened to the streams of a server so far.

    Attributes:
        begun: handlers of streaming requests that began.
        ended: those that are over, however they ended.
        streamed: messages that were written, or are being written, to streams.
        known: whether it is a server that counts.
    """

    def __init__(self, begun: int = 0, ended: int = 0, streamed: int = 0, *, known: bool = True) -> None:
        self.begun = begun
        self.ended = ended
        self.streamed = streamed
        self.known = known

    @contextmanager
    def counting(self) -> Generator[None, None, None]:
        """Count a handler."""
        self.begun += 1
        try:
            yield
        finally:
            self.ended += 1

    def pair(self) -> tuple[str, str]:
        """Write them as metadata."""
        return COUNTS, f"{self.begun} {self.ended} {self.streamed}"

    @classmethod
    def of(cls, metadata: Any) -> Counts:
        """Read them."""
        found = dict(metadata or ()).get(COUNTS)
        return cls(*map(int, found.split())) if found else cls(known=False)


class Soak:
    """Keeps the account of a soak case."""

    def __init__(self, settings: Settings, now: float) -> None:
        self.settings = settings
        self.end = now + settings.soak_overall_s
        self.done = 0
        self.failures: list[str] = []

    def goes_on(self, now: float) -> bool:
        """Whether there is another call to make."""
        return self.done < self.settings.soak_iterations and now < self.end

    def note(self, took_s: float, error: str = "") -> float:
        """Count a call; return how long to wait before the next."""
        self.done += 1
        if error:
            self.failures.append(error)
        elif took_s > self.settings.soak_latency_s:
            self.failures.append(f"took {took_s:.3f} s")
        return max(0.0, self.settings.soak_gap_s - took_s)

    def verdict(self) -> None:
        """Fail, or do nothing."""
        equal(self.done, self.settings.soak_iterations, "calls made in time")
        if len(self.failures) > self.settings.soak_max_failures:
            raise CaseFailed(
                f"{len(self.failures)} of {self.done} calls failed, the first: {self.failures[0]}"
            )


class Settling:
    """Waits, by looking again and again, until a count of messages stands still."""

    def __init__(self, now: float) -> None:
        self.since = now
        self.end = now + PATIENCE_S
        self.count = -1

    def settled(self, count: int, now: float) -> bool:
        """Take note of a count; whether it has not changed for long enough."""
        if now > self.end:
            raise CaseFailed(f"the sender did not come to rest, {count} messages so far")
        if count != self.count:
            self.count, self.since = count, now
        return now - self.since >= STALLED_S


def equal(found: object, expected: object, what: str) -> None:
    """Fail unless they are."""
    if found != expected:
        raise CaseFailed(f"{what}: {shown(found)}, not {shown(expected)}")


def shown(value: object) -> str:
    """A value in a line, however large."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def pushed_back(sent: int) -> None:
    """Fail unless a sender came to rest before its last message, and after its first."""
    if not 0 < sent < PUSHBACK_COUNT:
        raise CaseFailed(f"{sent} of {PUSHBACK_COUNT} messages were sent to a side that does not read")


def payload(size: int) -> Any:
    """Zeros, as the cases demand."""
    return pb.Payload(body=bytes(size))


def large_request() -> Any:
    """What large_unary sends."""
    return pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST))


def status_request(message: str) -> Any:
    """Ask a unary call for a status."""
    return pb.SimpleRequest(response_status=pb.EchoStatus(code=UNKNOWN, message=message))


def streamed_status_request(message: str) -> Any:
    """Ask a stream for a status."""
    return pb.StreamingOutputCallRequest(response_status=pb.EchoStatus(code=UNKNOWN, message=message))


def input_requests() -> list[Any]:
    """What client_streaming sends."""
    return [pb.StreamingInputCallRequest(payload=payload(size)) for size in INPUT_SIZES]


def output_request(*sizes: int, send: int = 0, interval_us: int = 0) -> Any:
    """Ask for responses of these sizes, in a request with so many bytes."""
    parameters = [pb.ResponseParameters(size=size, interval_us=interval_us) for size in sizes]
    return pb.StreamingOutputCallRequest(
        response_parameters=parameters, payload=payload(send) if send else None
    )


def compressed_output_request() -> Any:
    """Ask for two responses, the first of them compressed."""
    request = output_request(*COMPRESSED_OUTPUT_SIZES)
    for each, compressed in zip(request.response_parameters, (True, False), strict=True):
        each.compressed.value = compressed
    return request


def ping_pong_requests() -> list[Any]:
    """What ping_pong sends, one at a time."""
    return [output_request(size, send=send) for size, send in zip(OUTPUT_SIZES, INPUT_SIZES, strict=True)]


def pushback_request() -> Any:
    """Ask for more than can be sent to somebody who does not read."""
    return output_request(*[PUSHBACK_SIZE] * PUSHBACK_COUNT)


def size_of(response: Any) -> int:
    """How many zeros came; fails if they are none."""
    body = response.payload.body
    if body.count(0) != len(body):
        raise CaseFailed("the payload is not of zeros")
    return len(body)


def echoed(metadata: Any) -> list[tuple[str, str | bytes]]:
    """The metadata that a server has to send back, of all that came with a call."""
    return [(key, value) for key, value in metadata or () if key in {ECHO_INITIAL[0], ECHO_TRAILING[0]}]
