"""What a call takes over from the call being served, if it is made in a handler: the deadline, and the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbkit.status import Status, StatusCode

if TYPE_CHECKING:
    from lbkit.ambient import Served
    from lbkit.call.base import Call


def inherit(
    call: Call, served: Served, timeout: float | None, refusal: Status | None
) -> tuple[float | None, Status | None]:
    """Bind a call to the one that it is made for, which is over when its handler has returned.

    Args:
        call: begins now.
        served: what a server runs a handler for, here and now.
        timeout: seconds that the application gives the call.
        refusal: why it must not begin, if there is a reason already.

    Returns:
        The timeout and the refusal that apply: those passed, or those that follow from the call being served.
    """
    if served.done():
        if served.cancelled():
            refusal = refusal or Status(StatusCode.CANCELLED, "the call being served was cancelled before")
        return timeout, refusal  # one that ended well has nothing to say any more
    left = served.time_remaining()
    bites = left is not None and (timeout is None or left < timeout)
    if bites:
        timeout = left
        if left == 0:
            text = "the deadline of the call being served had passed before"
            refusal = refusal or Status(StatusCode.DEADLINE_EXCEEDED, text)
    call.bind_to(served, bites)
    return timeout, refusal
