"""What the reference engine takes from h2 beyond its documented interface: all of it stands here, with its reason.

tests/wire/test_h2_engine.py fails if a release of h2 changes one of these parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection, H2ConnectionStateMachine
from hpack import Decoder, HPACKError, OversizedHeaderListError

from lbkit.http2.faults import ConnectionFault
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field

# h2 closes the connection, with all its streams, at the first GOAWAY either way. RFC 9113 6.8 has the streams go on
# that the sender of it will serve, so here GOAWAY changes nothing; the engine keeps count of who is leaving.
_OUTLIVING_GOAWAY = {
    **H2ConnectionStateMachine._transitions,
    **{
        (state, event): (None, state)
        for state in (ConnectionState.IDLE, ConnectionState.CLIENT_OPEN, ConnectionState.SERVER_OPEN)
        for event in (ConnectionInputs.SEND_GOAWAY, ConnectionInputs.RECV_GOAWAY)
    },
}


class JudgingDecoder(Decoder):
    """Gives header lists to the engine instead of h2, for which every malformed list is the connection's end.

    Args:
        most: size of a list, as RFC 9113 6.5.2 counts it, that ends the connection.
        too_much: called for such a list; raises.
        judge: called with every other list. What it returns is what h2 gets to see; what it raises goes through h2,
            which has not done anything about the frame then but take it out of its buffer.
    """

    def __init__(
        self,
        most: int,
        too_much: Callable[[str], None],
        judge: Callable[[tuple[Field, ...]], list[Field]],
    ) -> None:
        super().__init__(max_header_list_size=most)
        self._too_much = too_much
        self._judge = judge

    def decode(self, data: bytes, raw: bool = False) -> Iterable[Any]:
        """Decode a block; h2 calls this once for each, before it looks at the stream."""
        fields: tuple[Field, ...] = ()
        try:
            fields = tuple((bytes(name), bytes(value)) for name, value in super().decode(data, raw=True))
        except OversizedHeaderListError as error:
            self._too_much(str(error))
        except HPACKError as error:  # h2 says PROTOCOL_ERROR
            text = f"{error} (RFC 9113 4.3)"
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, text) from None
        return self._judge(fields)


class ReferenceConnection(H2Connection):
    """h2's connection, with what stands in our way taken out."""

    # The engine never shows h2 a frame on a stream that is gone, so this memory only has to be bounded: with its
    # 65,536 entries it would grow to 11 MB.
    MAX_CLOSED_STREAMS = 100

    def __init__(self, decoder: JudgingDecoder, *, client: bool, max_frame_size: int) -> None:
        config = H2Configuration(
            client_side=client,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        super().__init__(config)
        self.decoder = decoder
        self.max_inbound_frame_size = max_frame_size
        self.state_machine._transitions = _OUTLIVING_GOAWAY  # this connection's only

    def discard(self, length: int) -> None:
        """Charge DATA that h2 does not get to the connection's window (RFC 9113 6.9).

        Raises:
            FlowControlError: the peer may not send that much.
        """
        self._inbound_flow_control_window_manager.window_consumed(length)
