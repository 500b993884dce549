from __future__ import annotations

import http
from typing import Any

import grpc
import pytest

from lbkit.status import BY_NUMBER, Status, StatusCode

PAIRS = [pytest.param(code, getattr(grpc.StatusCode, code.name), id=code.name) for code in StatusCode]


def test_every_code_of_grpc_exists() -> None:
    assert [code.name for code in StatusCode] == [code.name for code in grpc.StatusCode]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_equal_in_both_directions(ours: StatusCode, theirs: Any) -> None:
    assert ours == theirs
    assert theirs == ours
    assert ours == StatusCode[ours.name]
    assert not ours != theirs  # noqa: SIM202  # the operator is what is tested
    assert ours is not theirs
    assert ours.value == theirs.value


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_each_finds_the_other_in_dicts_and_sets(ours: StatusCode, theirs: Any) -> None:
    assert hash(ours) == hash(theirs)
    assert {ours: 1}[theirs] == 1
    assert {theirs: 1}[ours] == 1
    assert len({ours, theirs}) == 1


def test_other_codes_differ() -> None:
    assert StatusCode.OK != grpc.StatusCode.CANCELLED
    assert grpc.StatusCode.CANCELLED != StatusCode.OK


@pytest.mark.parametrize(
    "other", [0, "OK", (0, "ok"), None, http.HTTPStatus.OK, grpc.ChannelConnectivity.IDLE]
)
def test_nothing_else_is_equal(other: object) -> None:
    assert all(code != other for code in StatusCode)


def test_match_takes_codes_of_grpc_and_ours() -> None:
    def who(code: Any) -> str:
        match code:
            case grpc.StatusCode.NOT_FOUND:
                return "theirs"
            case StatusCode.ABORTED:
                return "ours"
            case _:
                return "none"

    assert who(StatusCode.NOT_FOUND) == "theirs"
    assert who(grpc.StatusCode.ABORTED) == "ours"
    assert who(StatusCode.OK) == "none"


def test_number_is_the_one_on_the_wire() -> None:
    assert [code.number for code in BY_NUMBER] == list(range(17))


@pytest.mark.parametrize("given", [StatusCode.NOT_FOUND, grpc.StatusCode.NOT_FOUND, 5])
def test_of_takes_ours_theirs_and_numbers(given: object) -> None:
    assert StatusCode.of(given) is StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "given", [17, -1, "NOT_FOUND", None, http.HTTPStatus.OK, grpc.ChannelConnectivity.READY]
)
def test_of_refuses_what_is_no_code(given: object) -> None:
    with pytest.raises(TypeError, match=r"is not a status code; use a member of lbkit\.StatusCode"):
        StatusCode.of(given)


def test_status_is_a_code_and_a_text() -> None:
    assert Status(StatusCode.OK) == (StatusCode.OK, "")
