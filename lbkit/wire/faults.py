"""What is wrong with a call as it came over the wire."""

from __future__ import annotations

from lbkit.status import StatusCode


class WireFault(Exception):
    """The call cannot be understood; it ends with this status, the connection lives on."""

    def __init__(self, code: StatusCode, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details
