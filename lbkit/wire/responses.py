"""Response headers of a gRPC call, as the client reads them (PROTOCOL-HTTP2, "Responses")."""

from __future__ import annotations

from lbkit.status import Status
from lbkit.wire.faults import WireFault
from lbkit.wire.metadata import Field, decode_metadata


def head_fault(fields: tuple[Field, ...]) -> Status | None:
    """Return the status that a call ends with for its response headers; None if they are good.

    An unknown grpc-encoding is none: a message that is compressed with it says so itself, and others can be read.
    """
    if any(name[-4:] == b"-bin" for name, _ in fields):
        try:
            decode_metadata(fields)
        except WireFault as fault:
            return Status(fault.code, fault.details)
    return None
