"""Other gRPC implementations, started once for each module."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.support.peers import FOREIGN, PeerProcess, peer


@pytest.fixture(scope="module", params=FOREIGN)
def foreign(request: pytest.FixtureRequest) -> Generator[PeerProcess, None, None]:
    """A foreign implementation, ready for orders; ``indirect=True`` chooses one."""
    with peer(request.param) as process:
        yield process


@pytest.fixture(scope="module")
def foreign_port(foreign: PeerProcess) -> int:
    """Where its server listens."""
    return int(foreign.ask_now("serve")["port"])
