"""The cases are complete, and the judge of them is strict."""

from __future__ import annotations

from collections import Counter

import pytest

from lbkit.http2.frames import ErrorCode
from tests.conformance.cases import ALIVE, Outcome, answered, connection_error, either, stream_error
from tests.conformance.client_cases import H2SPEC
from tests.conformance.rfc_cases import CLIENT, SERVER
from tests.conformance.server_cases import CASES

RESET = stream_error(ErrorCode.STREAM_CLOSED)
END = connection_error(ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize(
    ("outcome", "seen", "h2spec", "rfc"),
    [
        (END, "goaway PROTOCOL_ERROR, closed", True, True),
        (END, "closed", True, False),  # SHOULD send GOAWAY first
        (END, "goaway PROTOCOL_ERROR, alive", True, False),  # MUST close after it
        (END, "goaway INTERNAL_ERROR, closed", True, False),
        (END, "alive", False, False),
        (RESET, "reset 1 STREAM_CLOSED, any reset STREAM_CLOSED, alive", True, True),
        (RESET, "goaway STREAM_CLOSED, closed", True, True),  # MAY be taken for a connection error
        (RESET, "reset 3 STREAM_CLOSED, any reset STREAM_CLOSED, alive", True, False),
        (RESET, "reset 1 CANCEL, any reset CANCEL, alive", False, False),
        (RESET, "reset 1 STREAM_CLOSED, any reset STREAM_CLOSED, closed", True, False),
        (RESET, "alive", False, False),
        (answered(), "headers 1, status 1, ended 1, alive", True, True),
        (answered(), "headers 1, status 1, ended 1, reset 1 NO_ERROR, alive", True, True),
        (answered(), "headers 1, status 1, ended 1, reset 1 CANCEL, alive", True, False),
        (answered(), "headers 1, status 1, reset 1 NO_ERROR, alive", True, False),
        (answered(), "headers 1, ended 1, alive", True, False),  # no valid :status
        (ALIVE, "alive, pong b'invalid'", True, False),
        (either(ALIVE, END), "alive", True, True),
    ],
)
def test_judgement(outcome: Outcome, seen: str, h2spec: bool, rfc: bool) -> None:
    facts = seen.split(", ")
    assert (outcome.pleases_h2spec(facts), outcome.pleases_rfc(facts)) == (h2spec, rfc)


def test_reading_goes_on_while_an_answer_may_still_come() -> None:
    assert not answered().settled(["alive", "headers 1", "status 1"])
    assert answered().settled(["alive", "headers 1", "status 1", "ended 1"])
    assert RESET.settled(["alive"])  # faults are found on receipt: none comes after the PONG
    assert not ALIVE.settled([])


def test_all_cases_of_h2spec_are_here() -> None:
    """h2spec 2.6 has 147 for servers (5.4.1/2 shows only with ``--strict``), and 57 for clients.

    ``http2/3.5/2`` is a test of its own, and ``http2/5.1.1/3`` is only on h2spec's main branch.
    """
    numbers = [case.id.split()[0] for case in [*CASES, *H2SPEC]]
    assert Counter(number.split("/")[0] for number in numbers) == {
        "generic": 44,
        "http2": 95,
        "hpack": 8,
        "client": 57,
    }
    assert len(set(numbers)) == len(numbers)
    assert len({case.id for case in SERVER}) == len(SERVER)
    assert len({case.id for case in CLIENT}) == len(CLIENT)
