"""Our engine against h2, the reference: either end may be ours, and what arrives is the same."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field
from lbkit.http2.stream import Stream
from lbkit.limits import Limits
from tests.support.wire import REQUEST, RESPONSE, TRAILERS, End

LARGE = bytes(range(256)) * 12 * 1024
CHANGING: tuple[Field, ...] = ((b"traceparent", b"00-1f2e-3d4c-01"), (b"x-request-id", b"42"))


class H2End:
    """h2 as the other end: keeps what it is told, and answers as a script says.

    Args:
        client: which end h2 is.
        ours: the engine on the other side.
    """

    def __init__(self, *, client: bool, ours: End) -> None:
        self.ours = ours
        self.h2 = H2Connection(H2Configuration(client_side=client, header_encoding=None))
        self.h2.initiate_connection()
        self.events: list[Event] = []
        self.bodies: dict[int, bytearray] = {}
        self._pending: dict[int, tuple[bytes, tuple[Field, ...]]] = {}
        self.pump()

    def pump(self) -> None:
        """Carry bytes both ways until both ends are quiet."""
        while True:
            self._send_pending()
            to_h2, to_ours = self.ours.engine.take(), self.h2.data_to_send()
            if not to_h2 and not to_ours:
                return
            for event in self.h2.receive_data(to_h2):
                self.events.append(event)
                if isinstance(event, DataReceived):
                    assert event.data is not None
                    assert event.flow_controlled_length is not None
                    self.bodies.setdefault(event.stream_id, bytearray()).extend(event.data)
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.ours.receive(to_ours)

    def send(self, stream_id: int, body: bytes, trailers: tuple[Field, ...] = ()) -> None:
        """Send a body as the windows allow, then trailers, or the end if there are none."""
        self._pending[stream_id] = body, trailers
        self.pump()

    def of(self, kind: type[Event]) -> list[Event]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def fields(self, kind: type[Event], stream_id: int) -> tuple[Field, ...]:
        """The header list of the one event of this kind on a stream."""
        (event,) = [event for event in self.of(kind) if getattr(event, "stream_id", 0) == stream_id]
        return tuple((bytes(name), bytes(value)) for name, value in getattr(event, "headers", ()))

    def _send_pending(self) -> None:
        for stream_id, (body, trailers) in list(self._pending.items()):
            while body and (room := self.h2.local_flow_control_window(stream_id)) > 0:
                size = min(room, self.h2.max_outbound_frame_size)
                self.h2.send_data(stream_id, body[:size])
                body = body[size:]
            self._pending[stream_id] = body, trailers
            if not body:
                del self._pending[stream_id]
                if trailers:
                    self.h2.send_headers(stream_id, list(trailers), end_stream=True)
                else:
                    self.h2.end_stream(stream_id)


def our_client(limits: Limits | None = None) -> tuple[End, H2End]:
    ours = End(client=True, limits=limits)
    return ours, H2End(client=False, ours=ours)


def our_server(limits: Limits | None = None) -> tuple[End, H2End]:
    ours = End(client=False, limits=limits)
    return ours, H2End(client=True, ours=ours)


def request(theirs: H2End, body: bytes = b"", fields: tuple[Field, ...] = REQUEST) -> int:
    """Send a request from h2."""
    stream_id = theirs.h2.get_next_available_stream_id()
    theirs.h2.send_headers(stream_id, list(fields))
    theirs.send(stream_id, body)
    return stream_id


def answer(ours: End, theirs: H2End, stream: Stream, body: bytes) -> None:
    """Answer from our engine: headers, a body, trailers behind it."""
    ours.engine.send_headers(stream, None, RESPONSE, False)
    ours.engine.send_data(stream, body, False)
    theirs.pump()
    ours.engine.send_headers(stream, None, TRAILERS, True)
    theirs.pump()


@pytest.mark.parametrize("body", [b"", b"question", LARGE], ids=["empty", "small", "3 MiB"])
def test_our_client_and_h2_agree_on_an_exchange(body: bytes) -> None:
    ours, theirs = our_client()
    stream = ours.open((*REQUEST, *CHANGING))
    ours.engine.send_data(stream, body, True)
    theirs.pump()
    assert theirs.fields(RequestReceived, stream.id) == (*REQUEST, *CHANGING)
    assert bytes(theirs.bodies.get(stream.id, b"")) == body
    assert len(theirs.of(StreamEnded)) == 1

    theirs.h2.send_headers(stream.id, list(RESPONSE))
    theirs.send(stream.id, body, TRAILERS)
    assert ours.body(stream.id) == body
    assert ours.of("headers") == [
        ("headers", stream.id, RESPONSE, False),
        ("headers", stream.id, TRAILERS, True),
    ]
    assert not ours.engine.streams


@pytest.mark.parametrize("body", [b"", b"question", LARGE], ids=["empty", "small", "3 MiB"])
def test_our_server_and_h2_agree_on_an_exchange(body: bytes) -> None:
    ours, theirs = our_server()
    stream_id = request(theirs, body, (*REQUEST, *CHANGING))
    assert ours.of("request") == [("request", stream_id, (*REQUEST, *CHANGING), False)]
    assert ours.body(stream_id) == body
    assert ours.events[-1][-1] is True

    answer(ours, theirs, ours.opened[stream_id], body)
    assert theirs.fields(ResponseReceived, stream_id) == RESPONSE
    assert theirs.fields(TrailersReceived, stream_id) == TRAILERS
    assert bytes(theirs.bodies.get(stream_id, b"")) == body
    assert not ours.engine.streams


def test_many_interleaved_streams_agree() -> None:
    ours, theirs = our_client()
    streams = [ours.open() for _ in range(20)]
    for stream in streams:
        ours.engine.send_data(stream, bytes((stream.id,)) * 50_000, True)
    theirs.pump()
    for stream in streams:
        assert bytes(theirs.bodies[stream.id]) == bytes((stream.id,)) * 50_000


def test_settings_of_h2_are_obeyed() -> None:
    ours, theirs = our_client()
    stream = ours.open()
    theirs.pump()
    theirs.h2.update_settings(
        {
            SettingCodes.INITIAL_WINDOW_SIZE: 10,
            SettingCodes.MAX_CONCURRENT_STREAMS: 3,
            SettingCodes.HEADER_TABLE_SIZE: 0,
        }
    )
    theirs.pump()
    assert ours.engine.max_streams == 3
    assert not ours.engine.send_data(stream, b"x" * 25, True)
    assert stream.send_window == 10 - 10
    theirs.pump()
    assert bytes(theirs.bodies[stream.id]) == b"x" * 25
    again = ours.open((*REQUEST, *CHANGING), end=True)
    theirs.pump()
    assert theirs.fields(RequestReceived, again.id) == (*REQUEST, *CHANGING)


def test_our_settings_reach_h2() -> None:
    _, theirs = our_server(
        Limits(max_concurrent_streams=5, stream_window=70_000, header_list_advertised=9000)
    )
    assert theirs.of(RemoteSettingsChanged)
    assert theirs.h2.remote_settings.max_concurrent_streams == 5
    assert theirs.h2.remote_settings.initial_window_size == 70_000
    assert theirs.h2.remote_settings.max_header_list_size == 9000


def test_push_is_off_for_h2() -> None:
    _, theirs = our_client()
    assert theirs.h2.remote_settings.enable_push == 0


def test_resets_are_understood_both_ways() -> None:
    ours, theirs = our_client()
    first, second = ours.open(), ours.open()
    theirs.pump()
    ours.engine.reset(first, ErrorCode.CANCEL)
    theirs.h2.reset_stream(second.id, ErrorCodes.REFUSED_STREAM)
    theirs.pump()
    (event,) = theirs.of(StreamReset)
    assert isinstance(event, StreamReset)
    assert (event.stream_id, event.error_code) == (first.id, ErrorCodes.CANCEL)
    assert [event[1:3] for event in ours.of("reset")] == [(second.id, ErrorCode.REFUSED_STREAM)]


def test_pings_are_answered_both_ways() -> None:
    ours, theirs = our_client()
    ours.engine.ping(b"ours....")
    theirs.h2.ping(b"theirs..")
    theirs.pump()
    assert ours.of("pong") == [("pong", b"ours....")]
    (pong,) = theirs.of(PingAckReceived)
    assert isinstance(pong, PingAckReceived)
    assert pong.ping_data == b"theirs.."


def test_our_goaway_is_understood() -> None:
    ours, theirs = our_server()
    stream_id = request(theirs, b"x")
    ours.engine.goaway(None, ErrorCode.ENHANCE_YOUR_CALM, b"slow down")
    theirs.pump()
    (event,) = theirs.of(ConnectionTerminated)
    assert isinstance(event, ConnectionTerminated)
    assert (event.last_stream_id, event.error_code, event.additional_data) == (
        stream_id,
        ErrorCodes.ENHANCE_YOUR_CALM,
        b"slow down",
    )


def test_informational_response_of_h2_is_skipped() -> None:
    ours, theirs = our_client()
    stream = ours.open(end=True)
    theirs.pump()
    theirs.h2.send_headers(stream.id, [(b":status", b"103")])
    theirs.h2.send_headers(stream.id, list(RESPONSE))
    theirs.send(stream.id, b"answer", TRAILERS)
    assert [event[2] for event in ours.of("headers")] == [RESPONSE, TRAILERS]
    assert not theirs.of(InformationalResponseReceived)


def test_padding_and_priority_of_h2_are_stripped() -> None:
    ours, theirs = our_server()
    theirs.h2.send_headers(1, list(REQUEST), priority_weight=7, priority_depends_on=0)
    theirs.h2.send_data(1, b"padded", pad_length=100, end_stream=True)
    theirs.pump()
    assert ours.events[1:] == [("request", 1, REQUEST, False), ("data", 1, b"padded", True)]


def test_header_lists_of_several_frames_agree() -> None:
    wide = Limits(max_header_list=60_000)
    fields = (*REQUEST, *((b"x-%d" % n, b"v" * 3000) for n in range(12)))
    ours, theirs = our_client(wide)
    stream = ours.open(fields, end=True)
    theirs.pump()
    assert theirs.fields(RequestReceived, stream.id) == fields

    ours, theirs = our_server(wide)
    stream_id = request(theirs, b"", fields)
    assert ours.of("request") == [("request", stream_id, fields, False)]


names = st.from_regex(r"x-[a-z0-9_.\-]{1,20}", fullmatch=True).map(str.encode)
# h2 strips blanks around values and refuses them when sending.
values = st.binary(max_size=80).map(
    lambda value: bytes(byte for byte in value if byte not in b"\x00\r\n").strip()
)
blocks = st.lists(st.lists(st.tuples(names, values), max_size=8), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(blocks)
def test_any_headers_of_our_client_arrive_at_h2(lists: list[list[Field]]) -> None:
    ours, theirs = our_client()
    for extra in lists:
        stream = ours.open((*REQUEST, *extra), end=True)
        theirs.pump()
        assert theirs.fields(RequestReceived, stream.id) == (*REQUEST, *extra)


@settings(deadline=None, max_examples=60)
@given(blocks)
def test_any_headers_of_h2_arrive_at_our_server(lists: list[list[Field]]) -> None:
    ours, theirs = our_server()
    for extra in lists:
        stream_id = request(theirs, b"", (*REQUEST, *extra))
        assert ours.of("request")[-1] == ("request", stream_id, (*REQUEST, *extra), False)
        answer(ours, theirs, ours.opened[stream_id], b"")
        assert theirs.fields(TrailersReceived, stream_id) == TRAILERS
