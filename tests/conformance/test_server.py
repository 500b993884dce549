"""h2spec's cases against ``lbkit.Server``: with the requests of a gRPC call, and with h2spec's own, GET of ``/``.

h2spec's own requests are not gRPC's: they are answered with 405 or 415 and a line of text, when they have ended.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lbkit.http2 import frames
from lbkit.http2.frames import frame
from tests.conformance.cases import (
    GRPC_REQUEST,
    INVALID_PREFACE,
    PING,
    PLAIN_REQUEST,
    Case,
    Dialect,
    Outcome,
    Peer,
)
from tests.conformance.rfc_cases import SERVER
from tests.conformance.server_cases import CASES
from tests.support.servers import serving

# What fails, and what is wrong with it.
FAULTS = {
    "rfc9113/8.2.1 space before a value": "it is served; RFC 9113 8.2.1 has it malformed",
    "rfc9113/8.2.1 tab after a value": "it is served; RFC 9113 8.2.1 has it malformed",
}


def marked(cases: list[Case]) -> list[Any]:
    """Mark the cases that fail."""
    return [
        pytest.param(
            case,
            id=case.id,
            marks=[pytest.mark.xfail(reason=FAULTS[case.id], strict=True)] if case.id in FAULTS else [],
        )
        for case in cases
    ]


@asynccontextmanager
async def connected(port: int, dialect: Dialect) -> AsyncGenerator[Peer, None]:
    """Connect to a server."""
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        yield Peer(sock, dialect)


async def played(case: Case, dialect: Dialect, wanted: Outcome) -> list[str]:
    """Play a case against a server; return what was seen."""
    async with serving() as backend, connected(backend.port, dialect) as peer:
        await peer.send(frames.PREFACE)
        await peer.shake()
        assert peer.seen[0] == "settings", "the server's preface comes first (RFC 9113 3.4)"
        peer.forget()
        await peer.run(case.play(peer), wanted)
        return peer.seen


@pytest.mark.parametrize("case", marked([*CASES, *SERVER]))
async def test_what_comes_of_a_grpc_request(case: Case) -> None:
    seen = await played(case, GRPC_REQUEST, case.outcome)
    assert case.outcome.pleases_h2spec(seen), (seen, case.outcome.h2spec)
    assert case.outcome.pleases_rfc(seen), (seen, case.outcome.rfc)


@pytest.mark.parametrize("case", marked(CASES))
async def test_what_comes_of_h2specs_own_request(case: Case) -> None:
    seen = await played(case, PLAIN_REQUEST, case.outcome)
    assert case.outcome.pleases_h2spec(seen), (seen, case.outcome.h2spec)
    assert case.outcome.pleases_rfc(seen), (seen, case.outcome.rfc)


@pytest.mark.parametrize(
    "first",
    [
        b"INVALID CONNECTION PREFACE\r\n\r\n",  # h2spec's
        frames.PREFACE[:-1] + b"\r",
        frames.PREFACE + frame(frames.PING, 0, 0, PING),
    ],
    ids=["h2spec's", "last byte", "PING first"],
)
async def test_invalid_preface_ends_the_connection(first: bytes) -> None:
    """h2spec http2/3.5/2, RFC 9113 3.4: PROTOCOL_ERROR, and GOAWAY may be left out."""
    async with serving() as backend, connected(backend.port, PLAIN_REQUEST) as peer:
        await peer.send(first)
        await peer.until("closed")
        assert INVALID_PREFACE.pleases_rfc(peer.seen), peer.seen
