"""What a conformance case is, and the peer that plays one, frame by frame, over a real socket.

The cases bear the numbers of h2spec (github.com/summerwind/h2spec) and send what it sends. Each has two columns: what
h2spec accepts, and what RFC 9113 wants, strictly. They are in ``server_cases`` and ``client_cases``; ``rfc_cases`` has
more, which h2spec lacks.

What a peer sees is written down as short facts: ``reset 1 STREAM_CLOSED``, ``goaway PROTOCOL_ERROR``, ``closed``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import hpack

from lbkit.http2 import frames
from lbkit.http2.frames import ErrorCode, frame
from lbkit.http2.hpack import Field
from lbkit.wire.messages import frame_message
from tests.support.servers import PATH, PATIENCE_S, Item
from tests.support.wire import data_frame, settings_frame, split_frames, window_update

PROTOCOL, FLOW, SIZE, STREAM_CLOSED, COMPRESSION, REFUSED = (
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.STREAM_CLOSED,
    ErrorCode.COMPRESSION_ERROR,
    ErrorCode.REFUSED_STREAM,
)

LAST_PING = b"the last"  # answered: the connection is alive, and everything before it was processed
PING = b"h2spec\0\0"
UNASKED_PING = b"invalid\0"
CASE_DATA = b"test"
LONG_VALUE = b"x" * 4000  # h2spec's "dummy" header value; five of them are longer than a frame

MESSAGE = frame_message(Item(text="conformance").SerializeToString())
GRPC: tuple[Field, ...] = ((b"te", b"trailers"), (b"content-type", b"application/grpc"))

Step: TypeAlias = bytes | str  # what to send, or a fact to wait for: "this" or "this or that"
Play: TypeAlias = "Callable[[Peer], Iterable[Step]]"
Facts: TypeAlias = frozenset[str]

# Of these an outcome of RFC 9113's column names all there are; of others, at least some.
_EXACT = ("reset", "goaway", "closed", "alive", "pong")


@dataclass(frozen=True)
class Outcome:
    """What may come of a case.

    Attributes:
        h2spec: any one of these facts satisfies h2spec.
        rfc: the facts of one of these sets, and no other reset, GOAWAY, end or PONG, satisfy RFC 9113.
    """

    h2spec: Facts
    rfc: tuple[Facts, ...]

    def pleases_h2spec(self, seen: Iterable[str]) -> bool:
        """Whether h2spec would say that the case passed."""
        return not self.h2spec.isdisjoint(seen)

    def pleases_rfc(self, seen: Iterable[str]) -> bool:
        """Whether exactly one of the wanted things happened."""
        facts = set(seen)
        # RFC 9113 8.1: who has answered in full may ask with NO_ERROR that no more of the request be sent.
        facts -= {f"reset {fact[6:]} NO_ERROR" for fact in facts if fact.startswith("ended ")}
        judged = {fact for fact in facts if fact.split()[0] in _EXACT}
        return any(wanted <= facts and judged <= wanted for wanted in self.rfc)

    def settled(self, seen: Iterable[str]) -> bool:
        """Whether nothing more can come that matters: only answers of handlers come after the PONG."""
        facts = set(seen)
        missing = [wanted - facts for wanted in self.rfc]
        late = [each for each in missing if all(fact.split()[0] not in _EXACT for fact in each)]
        return "alive" in facts and (not late or frozenset() in late)


def outcome(h2spec: Iterable[str], *rfc: Iterable[str]) -> Outcome:
    """An outcome: the facts that please h2spec, and the sets of facts that please RFC 9113."""
    return Outcome(frozenset(h2spec), tuple(map(frozenset, rfc)))


def connection_error(code: ErrorCode, *lenient: ErrorCode) -> Outcome:
    """GOAWAY and the end (RFC 9113 5.4.1); h2spec takes the end alone for it, and the lenient codes."""
    accepted = {f"goaway {each.name}" for each in (code, *lenient)} | {"closed"}
    return outcome(accepted, {f"goaway {code.name}", "closed"})


def stream_error(code: ErrorCode, *, stream: int = 1, h2spec: Iterable[ErrorCode] = ()) -> Outcome:
    """RST_STREAM (RFC 9113 5.4.2), or the whole connection's end for it (RFC 9113 5.4)."""
    accepted = {f"{what} {each.name}" for what in ("any reset", "goaway") for each in (code, *h2spec)}
    return outcome(
        accepted | {"closed"}, {f"reset {stream} {code.name}", "alive"}, {f"goaway {code.name}", "closed"}
    )


def either(*outcomes: Outcome) -> Outcome:
    """One or the other."""
    return Outcome(
        frozenset().union(*(each.h2spec for each in outcomes)),
        tuple(wanted for each in outcomes for wanted in each.rfc),
    )


def answered(stream: int = 1) -> Outcome:
    """A whole response (RFC 9113 8.1); h2spec looks at its HEADERS only."""
    return outcome({f"headers {stream}"}, {f"status {stream}", f"ended {stream}", "alive"})


ALIVE = outcome({"alive"}, {"alive"})  # RFC 9113 6.7
CLOSED = outcome({"closed"}, {"closed"})
INVALID_PREFACE = either(CLOSED, connection_error(PROTOCOL))  # GOAWAY may be left out: RFC 9113 3.4


@dataclass(frozen=True)
class Dialect:
    """How requests and responses look.

    Attributes:
        fields: what a header block begins with.
        data: what DATA carries.
        bare: whether a request, or a response, ends with its HEADERS.
    """

    fields: tuple[Field, ...]
    data: bytes
    bare: bool


# h2spec's own request and response, and those of a real gRPC call.
PLAIN_REQUEST = Dialect(
    ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"127.0.0.1")),
    CASE_DATA,
    bare=True,
)
GRPC_REQUEST = Dialect(
    ((b":method", b"POST"), (b":scheme", b"http"), (b":path", PATH), (b":authority", b"127.0.0.1"), *GRPC),
    MESSAGE,
    bare=False,
)
PLAIN_RESPONSE = Dialect(((b":status", b"200"),), CASE_DATA, bare=True)
GRPC_RESPONSE = Dialect(((b":status", b"200"), GRPC[1]), MESSAGE, bare=False)


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        id: h2spec's suite, section and number, and what is sent.
        play: says what to send and what to wait for; a PING follows, to see what has become of the connection.
        outcome: what may come of it.
    """

    id: str
    play: Play = field(repr=False)
    outcome: Outcome


class Peer:
    """One end of a connection, in the test's hand."""

    def __init__(self, sock: socket.socket, dialect: Dialect, stream: int = 1) -> None:
        self.dialect = dialect
        self.stream = stream  # of the call: a server learns it from the request
        self.seen: list[str] = []
        self.settings: dict[int, int] = {}  # what the other end announced
        self.closed = False
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each step by itself, and at once
        self._sock = sock
        self._rest = b""
        self._read_to = 0  # facts that ``until`` has passed
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()

    @property
    def max_frame(self) -> int:
        """The longest frame that the other end takes."""
        return self.settings.get(frames.Setting.MAX_FRAME_SIZE, frames.DEFAULT_FRAME_SIZE)

    # frames to send

    def fields(self, *more: Field, method: bytes = b"") -> list[Field]:
        """The dialect's header fields, with another method, and more at the end."""
        fields = [
            (name, method if method and name == b":method" else value) for name, value in self.dialect.fields
        ]
        return fields + list(more)

    def block(self, fields: Iterable[Field] | None = None) -> bytes:
        """Compress a header list."""
        return self._encoder.encode(list(self.fields() if fields is None else fields))

    def long(self, count: int = 1) -> bytes:
        """Compress ``count`` header fields of 4000 bytes."""
        return self.block((b"x-dummy%d" % number, LONG_VALUE) for number in range(count))

    def head(
        self,
        fields: Iterable[Field] | None = None,
        *,
        stream: int | None = None,
        end: bool | None = None,
        flags: int = frames.END_HEADERS,
        block: bytes | None = None,
    ) -> bytes:
        """Write HEADERS; ``end`` is as the dialect has it."""
        flags |= frames.END_STREAM if (self.dialect.bare if end is None else end) else 0
        block = self.block(fields) if block is None else block
        return frame(frames.HEADERS, flags, self.stream if stream is None else stream, block)

    def rest(self, stream: int | None = None) -> bytes:
        """Write what comes after the HEADERS of a complete request or response."""
        stream = self.stream if stream is None else stream
        if self.dialect.bare:
            return b""
        if self.dialect.fields[0][0] == b":method":
            return data_frame(stream, self.dialect.data, end=True)
        return data_frame(stream, self.dialect.data) + self.trailers(stream=stream)

    def whole(self, stream: int | None = None) -> bytes:
        """Write a complete request or response."""
        return self.head(stream=stream) + self.rest(stream)

    def post(self, *more: Field) -> bytes:
        """Write the HEADERS of a request that DATA follows."""
        return self.head(self.fields(*more, method=b"POST"), end=False)

    def trailers(self, *fields: Field, stream: int | None = None, end: bool = True) -> bytes:
        """Write trailers; a good call's, unless others are given."""
        return self.head(fields or [(b"grpc-status", b"0")], stream=stream, end=end)

    def data(self, payload: bytes | None = None, *, stream: int | None = None, end: bool = True) -> bytes:
        """Write DATA; the dialect's, unless there is another."""
        return data_frame(
            self.stream if stream is None else stream,
            self.dialect.data if payload is None else payload,
            end=end,
        )

    def more(self, block: bytes, *, stream: int | None = None, end: bool = True) -> bytes:
        """Write CONTINUATION."""
        flags = frames.END_HEADERS if end else 0
        return frame(frames.CONTINUATION, flags, self.stream if stream is None else stream, block)

    def reset(self, code: int = ErrorCode.CANCEL, *, stream: int | None = None) -> bytes:
        """Write RST_STREAM."""
        return frame(frames.RST_STREAM, 0, self.stream if stream is None else stream, frames.pack_u32(code))

    def priority(self, *, stream: int | None = None, on: int = 0, weight: int = 255) -> bytes:
        """Write PRIORITY."""
        payload = frames.pack_u32(on) + bytes((weight,))
        return frame(frames.PRIORITY, 0, self.stream if stream is None else stream, payload)

    def window(self, increment: int, *, stream: int | None = None) -> bytes:
        """Write WINDOW_UPDATE."""
        return window_update(self.stream if stream is None else stream, increment)

    # the socket

    async def send(self, data: bytes) -> None:
        """Write; whether the other end still listens shows when it is read from."""
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def until(self, *facts: str) -> None:
        """Read until one of the facts is new, or the connection has ended."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                while self._read_to < len(self.seen):
                    self._read_to += 1
                    if self.seen[self._read_to - 1] in facts:
                        return
                if self.closed:
                    return
                await self._read()

    async def run(self, steps: Iterable[Step], wanted: Outcome) -> None:
        """Play a case: then ping, and read on until nothing more can come that matters."""
        for step in steps:
            if isinstance(step, bytes):
                await self.send(step)
            else:
                await self.until(*step.split(" or "))
        await self.send(frame(frames.PING, 0, 0, LAST_PING))
        async with asyncio.timeout(PATIENCE_S):
            while not self.closed and not wanted.settled(self.seen):
                await self._read()

    async def shake(self) -> None:
        """Exchange SETTINGS and their acknowledgements."""
        await self.send(settings_frame((frames.Setting.INITIAL_WINDOW_SIZE, frames.DEFAULT_WINDOW)))
        await self.until("settings")
        await self.send(settings_frame(ack=True))
        if "settings ack" not in self.seen:
            await self.until("settings ack")

    def forget(self) -> None:
        """Begin a new list of facts."""
        self.seen.clear()
        self._read_to = 0

    async def _read(self) -> None:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._sock, 65536)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            self.seen.append("closed")
            return
        data = (self._rest + data).removeprefix(frames.PREFACE)
        end = _whole(data)
        self._rest = data[end:]
        for each in split_frames(data[:end]):
            self._note(*each)

    def _note(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        seen = self.seen
        if kind == frames.DATA:
            seen.append(f"data {stream} of {len(payload)}")
        elif kind == frames.HEADERS:
            seen.append(f"headers {stream}")
            seen += [
                f"status {stream}"
                for name, value in self._decoder.decode(payload, raw=True)
                if name == b":status" and len(value) == 3 and value.isdigit()
            ]
        elif kind == frames.RST_STREAM:
            name = frames.error_name(int.from_bytes(payload, "big"))
            seen += [f"reset {stream} {name}", f"any reset {name}"]
        elif kind == frames.GOAWAY:
            seen.append(f"goaway {frames.error_name(int.from_bytes(payload[4:8], 'big'))}")
        elif kind == frames.SETTINGS:
            seen.append("settings ack" if flags & frames.ACK else "settings")
            for at in range(0, len(payload), 6):
                key, value = frames.unpack_setting(payload, at)
                self.settings[key] = value
        elif kind == frames.PING and flags & frames.ACK:
            seen.append("alive" if payload == LAST_PING else f"pong {payload!r}")
        if kind in {frames.DATA, frames.HEADERS} and flags & frames.END_STREAM:
            seen.append(f"ended {stream}")


def _whole(data: bytes) -> int:
    """How many bytes of ``data`` are whole frames."""
    at = 0
    while len(data) - at >= 9 and len(data) - at >= 9 + int.from_bytes(data[at : at + 3], "big"):
        at += 9 + int.from_bytes(data[at : at + 3], "big")
    return at
