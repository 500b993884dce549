"""The same frames for an engine and for plain h2, and what each makes of them, in words that both share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from lbkit.http2 import frames
from lbkit.http2.stream import CLOSED, HALF_CLOSED_LOCAL
from lbkit.limits import Limits
from tests.support.reference import use_h2
from tests.support.wire import REQUEST, RESPONSE, TRAILERS, End, Frame, settings_frame, split_frames

WINDOW = 65535
PLENTY = 1 << 30
# Floods are another matter, and so is the connection's window, which each end gives back when it likes.
WIDE = Limits(
    stream_window=WINDOW,
    connection_window=PLENTY,
    max_window=PLENTY,
    max_header_list=1 << 16,
    abusive_header_list=1 << 17,
    continuation_frames=50,
    resets_burst=10**6,
    glitches_burst=10**6,
    empty_frames=10**6,
    priority_frames=10**6,
    settings_burst=10**6,
    pings_burst=10**6,
    ping_strikes=10**6,
)
OPENED = ((1, True), (3, False), (5, True))  # by clients before the first frame comes: id, and END_STREAM


@dataclass(frozen=True)
class Outcome:
    """What one frame led to.

    Attributes:
        events: what the layer above is told of streams.
        resets: RST_STREAM sent: stream and code.
        answers: SETTINGS and PING acknowledgements sent.
        fault: the code of the GOAWAY that ended the connection, if one did.
    """

    events: tuple[tuple[Any, ...], ...]
    resets: tuple[tuple[int, int], ...]
    answers: tuple[bytes, ...]
    fault: int | None


class EngineSubject:
    """An engine of ours."""

    def __init__(self, *, client: bool, h2: bool) -> None:
        self.end = End(client=client, limits=WIDE, greedy=False)
        if h2:
            use_h2(self.end)
        self.end.receive(opening(client=client))
        if client:
            for _, end in OPENED:
                self.end.open(end=end)
        self.end.engine.take()
        self.end.events.clear()

    def receive(self, data: bytes) -> Outcome:
        """Process frames."""
        self.end.receive(data)
        events, self.end.events = self.end.events, []
        told = tuple(
            ("headers" if event[0] == "request" else event[0], *event[1:4])
            if event[0] != "reset"
            else event[:3]  # the reason is for people
            for event in events
            if event[0] in {"request", "headers", "data", "reset", "goaway", "oversized"}
        )
        fault = self.end.faults[0].code if self.end.faults else None
        return summary(told, self.end.sent(), fault)

    def can(self, action: str, stream_id: int) -> bool:
        """Whether an action of the layer above makes sense now."""
        stream = self.end.engine.streams.get(stream_id)
        return stream is not None and (action == "reset" or stream.state != HALF_CLOSED_LOCAL)

    def act(self, action: str, stream_id: int) -> None:
        """Do what the layer above might do."""
        engine, stream = self.end.engine, self.end.opened[stream_id]
        assert stream.state != CLOSED
        if action == "reset":
            engine.reset(stream, frames.ErrorCode.CANCEL)
        elif self.end.engine.client:
            engine.send_data(stream, b"", True)
        else:
            engine.send_headers(stream, None, (*RESPONSE, *TRAILERS), True)
        engine.take()


class PlainH2:
    """h2 with the settings nearest to ours, and nothing of ours round it."""

    def __init__(self, *, client: bool) -> None:
        self.client = client
        config = H2Configuration(client_side=client, header_encoding=None, normalize_inbound_headers=False)
        self.h2 = H2Connection(config)
        self.h2.local_settings = Settings(
            client=client,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: 100,
                SettingCodes.MAX_HEADER_LIST_SIZE: 1 << 16,
            },
        )
        self.h2.max_inbound_frame_size = 16_384
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(PLENTY - WINDOW)
        self.h2.receive_data(opening(client=client))
        if client:
            for stream_id, end in OPENED:
                self.h2.send_headers(stream_id, list(REQUEST), end_stream=end)
        self.h2.data_to_send()

    def receive(self, data: bytes) -> Outcome:
        """Process frames."""
        events: list[Event] = []
        fault = None
        try:
            events = self.h2.receive_data(data)
        except ProtocolError as error:
            fault = int(error.error_code)
        told = tuple(each for event in events if (each := in_our_words(event)) is not None)
        return summary(told, split_frames(self.h2.data_to_send()), fault)

    def act(self, action: str, stream_id: int) -> None:
        """Do what the layer above might do."""
        if action == "reset":
            self.h2.reset_stream(stream_id, int(frames.ErrorCode.CANCEL))
        elif self.client:
            self.h2.end_stream(stream_id)
        else:
            self.h2.send_headers(stream_id, [*RESPONSE, *TRAILERS], end_stream=True)
        self.h2.data_to_send()


def opening(*, client: bool) -> bytes:
    """What the peer of a client, or of a server, begins with."""
    return (b"" if client else frames.PREFACE) + settings_frame() + settings_frame(ack=True)


def summary(events: tuple[tuple[Any, ...], ...], sent: Sequence[Frame], fault: int | None) -> Outcome:
    """Put an outcome together; of a connection's end only the code counts."""
    if fault is not None:
        return Outcome(events, (), (), int(fault))
    resets = [
        (each.stream_id, int.from_bytes(each.payload, "big"))
        for each in sent
        if each.kind == frames.RST_STREAM
    ]
    acks = [
        bytes((each.kind,)) + each.payload for each in sent if each.kind in {frames.SETTINGS, frames.PING}
    ]
    return Outcome(events, tuple(resets), tuple(acks), None)


def in_our_words(event: Event) -> tuple[Any, ...] | None:
    """Return what h2 tells as an engine of ours would, or None if it would not."""
    if isinstance(event, RequestReceived | ResponseReceived | TrailersReceived):
        fields = tuple((bytes(name), bytes(value)) for name, value in event.headers or ())
        return ("headers", event.stream_id, fields, event.stream_ended is not None)
    if isinstance(event, DataReceived):
        return ("data", event.stream_id, event.data, event.stream_ended is not None)
    if isinstance(event, StreamReset):
        return ("reset", event.stream_id, int(event.error_code or 0))
    if isinstance(event, ConnectionTerminated):
        last = (event.last_stream_id or 0) & frames.STREAM_ID_MASK
        return ("goaway", last, int(event.error_code or 0), event.additional_data or b"")
    return None
