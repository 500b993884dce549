"""What a call does about compressed messages: small ones at once, large ones in a thread, after which it goes on."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Protocol

from lbkit.encoding.compressors import Encoding
from lbkit.status import Status, StatusCode
from lbkit.transport.offload import Offload
from lbkit.wire.faults import WireFault
from lbkit.wire.packing import INLINE_BYTES, Compressed, pack, unpack, unpack_small

_CLOSED = Status(StatusCode.CANCELLED, "the channel was closed")


class Packing(Protocol):
    """A call, as this module sees it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it runs on."""
        ...

    @property
    def offload(self) -> Offload:
        """Where large messages go."""
        ...

    def done(self) -> bool:
        """Whether it is over: for its deadline, for example."""
        ...

    def fail(self, status: Status) -> None:
        """End it."""
        ...

    def packed(self, request: bytes) -> None:
        """Go on with the request, which is compressed now."""
        ...

    def unpacked(self, status: Status, response: bytes) -> None:
        """End with this status of the server's, and with the response."""
        ...


def pack_request(call: Packing, request: bytes, encoding: Encoding) -> None:
    """Compress the only request of a call; ``packed`` or ``fail`` is called with what comes of it."""
    if len(request) > INLINE_BYTES:
        later = call.offload.submit(call.loop, pack, request, encoding)
        later.add_done_callback(partial(_go_on, call, call.packed))
        return
    try:
        packed = pack(request, encoding)
    except WireFault as fault:
        call.fail(Status(fault.code, fault.details))
    else:
        call.packed(packed)


def unpack_response(call: Packing, response: Compressed, limit: int) -> bytes | asyncio.Future[bytes]:
    """Decompress the only response of a call; a large one is given later.

    Raises:
        WireFault: what ``wire.packing.unpack`` raises.
    """
    plain = unpack_small(response, limit)
    return call.offload.submit(call.loop, unpack, response, limit) if plain is None else plain


def await_response(call: Packing, status: Status, later: asyncio.Future[bytes]) -> None:
    """Have ``unpacked`` or ``fail`` called when a response is there that ``unpack_response`` promised."""
    later.add_done_callback(partial(_go_on, call, partial(call.unpacked, status)))


def _go_on(call: Packing, then: Any, future: asyncio.Future[bytes]) -> None:
    if future.cancelled():
        call.fail(_CLOSED)
        return
    error = future.exception()
    if isinstance(error, WireFault):
        call.fail(Status(error.code, error.details))
    elif not call.done():
        then(future.result())
