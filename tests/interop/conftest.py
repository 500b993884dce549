"""Other gRPC implementations, started once for the whole folder."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.interop.programs import FOREIGN, Process, program


@pytest.fixture(scope="session", params=FOREIGN)
def foreign(request: pytest.FixtureRequest) -> Generator[Process, None, None]:
    """A foreign implementation, ready for orders; ``indirect=True`` chooses one."""
    with program(request.param) as process:
        yield process


@pytest.fixture(scope="session")
def foreign_port(foreign: Process) -> int:
    """Where its server listens."""
    return int(foreign.ask_now("serve")["port"])
