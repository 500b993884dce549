"""h2spec's cases for clients against a call of ``lbkit.Channel``: with gRPC's responses, and with h2spec's own."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import frame
from tests.conformance.cases import (
    GRPC_RESPONSE,
    INVALID_PREFACE,
    MESSAGE,
    PING,
    PLAIN_RESPONSE,
    Dialect,
    Outcome,
    Peer,
)
from tests.conformance.client_cases import H2SPEC, ClientCase
from tests.conformance.rfc_cases import CLIENT
from tests.support.servers import PATIENCE_S, channel_to, raw
from tests.support.wire import settings_frame

# What fails, and what is wrong with it.
FAULTS = {
    "rfc9113/8.2.1 space around a value": "it is taken; RFC 9113 8.2.1 has it malformed",
}


def cases(chosen: list[ClientCase]) -> list[Any]:
    """Mark the cases that fail."""
    return [
        pytest.param(
            case,
            id=case.id,
            marks=[pytest.mark.xfail(reason=FAULTS[case.id], strict=True)] if case.id in FAULTS else [],
        )
        for case in chosen
    ]


async def played(case: ClientCase, dialect: Dialect, wanted: Outcome) -> tuple[list[str], str]:
    """Play a case against a channel's call; return what was seen, and the status that the call ended with."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with channel_to(listener.getsockname()[1]) as channel:
            call = raw(channel)(MESSAGE, timeout=PATIENCE_S)
            with (await loop.sock_accept(listener))[0] as sock:
                peer = Peer(sock, dialect)
                await peer.shake()
                await peer.until("ended 1")
                peer.forget()
                await peer.run(case.play(peer), wanted)
                seen = list(peer.seen)
                if not call.done() and not peer.closed:
                    await peer.send(peer.whole())
                code = (await call.code()).name
    return seen, code


@pytest.mark.parametrize("case", cases([*H2SPEC, *CLIENT]))
async def test_what_comes_of_a_grpc_response(case: ClientCase) -> None:
    seen, code = await played(case, GRPC_RESPONSE, case.outcome)
    assert case.outcome.pleases_h2spec(seen), (seen, case.outcome.h2spec)
    assert case.outcome.pleases_rfc(seen), (seen, case.outcome.rfc)
    # A fault of the stream may be taken for one of the connection (RFC 9113 5.4).
    assert code == ("UNAVAILABLE" if case.code == "INTERNAL" and "closed" in seen else case.code), seen


@pytest.mark.parametrize("case", cases(H2SPEC))
async def test_what_comes_of_h2specs_own_response(case: ClientCase) -> None:
    seen, code = await played(case, PLAIN_RESPONSE, case.outcome)
    assert case.outcome.pleases_h2spec(seen), (seen, case.outcome.h2spec)
    # That a response which is not gRPC's is cancelled in the end is beside the point.
    seen = [fact for fact in seen if fact not in {"any reset CANCEL", "reset 1 CANCEL"}]
    assert case.outcome.pleases_rfc(seen), (seen, case.outcome.rfc)
    assert code != "OK"


@pytest.mark.parametrize(
    "first",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", frame(frames.PING, 0, 0, PING), settings_frame(ack=True)],
    ids=["HTTP/1.1", "PING", "SETTINGS ACK"],
)
async def test_invalid_preface_of_a_server_ends_the_connection(first: bytes) -> None:
    """RFC 9113 3.4: PROTOCOL_ERROR, and GOAWAY may be left out."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with channel_to(listener.getsockname()[1]) as channel:
            call = raw(channel)(MESSAGE, timeout=PATIENCE_S)
            with (await asyncio.get_running_loop().sock_accept(listener))[0] as sock:
                peer = Peer(sock, GRPC_RESPONSE)
                await peer.send(first)
                await peer.until("closed")
                assert INVALID_PREFACE.pleases_rfc(peer.seen), peer.seen
            assert (await call.code()).name == "UNAVAILABLE"
