"""Rich status, both ways, and with grpcio-status at the other end."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

import lbkit
from lbkit import rich_status
from lbkit.protos import rpc_status as trimmed
from tests.support.servers import Item, calling, failure

WHY = ErrorInfo(reason="CLOSED", domain="shop")
AGAIN = RetryInfo(retry_delay=Duration(seconds=3))
STATUS = rich_status.make(lbkit.StatusCode.FAILED_PRECONDITION, "not now", WHY, AGAIN, WHY)


async def ours(request: Any, context: lbkit.ServicerContext) -> Any:
    await context.abort_with_status(rich_status.to_status(STATUS))


async def theirs(request: Any, context: lbkit.ServicerContext) -> Any:
    await context.abort_with_status(rpc_status.to_status(STATUS))


async def plain(request: Any, context: lbkit.ServicerContext) -> Any:
    await context.abort(lbkit.StatusCode.FAILED_PRECONDITION, "not now")


@pytest.mark.parametrize("behaviour", [ours, theirs])
async def test_details_arrive_whoever_sends_and_reads_them(behaviour: Any) -> None:
    async with calling(behaviour) as call:
        running = call(Item())
        error: Any = await failure(running)
        assert rich_status.from_error(error) == STATUS
        assert await rich_status.from_call(running) == STATUS
        assert rpc_status.from_call(error) == STATUS
        assert rich_status.details(error, ErrorInfo) == [WHY, WHY]
        assert rich_status.details(error, RetryInfo) == [AGAIN]
        assert rich_status.details(error, error_details_pb2.Help) == []


async def test_plain_error_has_none() -> None:
    async with calling(plain) as call:
        error = await failure(call(Item()))
        assert rich_status.from_error(error) is None
        assert rich_status.details(error, ErrorInfo) == []


def error_with(value: bytes, details: str = "not now") -> lbkit.RpcError:
    trailing = lbkit.Metadata(((rich_status.KEY, value),))
    return lbkit.RpcError(lbkit.StatusCode.FAILED_PRECONDITION, details, trailing_metadata=trailing)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (error_with(b"\xff\xff"), "holds no google.rpc.Status"),
        (
            error_with(rich_status.make(5, "not now").SerializeToString()),
            "says code 5, the call ended with FAILED",
        ),
        (
            error_with(rich_status.make(9, "now").SerializeToString()),
            "says 'now', the call ended with 'not now'",
        ),
    ],
)
def test_status_that_contradicts_the_call_is_refused_as_by_grpcio(error: lbkit.RpcError, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        rich_status.from_error(error)


def test_detail_that_cannot_be_parsed_is_an_error_that_names_it() -> None:
    status = rich_status.make(9, "not now", WHY)
    status.details[0].value = b"\xff\xff"
    with pytest.raises(ValueError, match=r"google\.rpc\.ErrorInfo among the details"):
        rich_status.details(error_with(status.SerializeToString()), ErrorInfo)


@pytest.mark.parametrize("code", [lbkit.StatusCode.NOT_FOUND, grpc.StatusCode.NOT_FOUND, 5])
def test_codes_are_anybodys(code: object) -> None:
    assert rich_status.make(code).code == 5
    assert rich_status.to_status(rich_status.make(code)).code is lbkit.StatusCode.NOT_FOUND


@pytest.mark.parametrize("code", [17, -1, "NOT_FOUND"])
def test_what_is_no_code_is_refused(code: object) -> None:
    with pytest.raises(TypeError, match="is not a status code"):
        rich_status.make(code)


def test_status_of_either_class_is_sent() -> None:
    assert rich_status.status_class() is status_pb2.Status
    other = trimmed.Status.FromString(STATUS.SerializeToString())
    assert rich_status.to_status(other) == rich_status.to_status(STATUS)


def test_without_googleapis_the_class_is_lbkits() -> None:
    code = (
        "import sys; sys.modules['google.rpc'] = None\n"
        "from lbkit import rich_status\n"
        "from lbkit.protos import health, rpc_status\n"
        "status = rich_status.make(9, 'no', health.HealthCheckRequest(service='x'))\n"
        "assert type(status) is rpc_status.Status\n"
        "sent = rich_status.to_status(status)\n"
        "import lbkit\n"
        "error = lbkit.RpcError(sent.code, sent.details, trailing_metadata=lbkit.Metadata(sent.trailing_metadata))\n"
        "print(rich_status.details(error, health.HealthCheckRequest)[0].service)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "x\n"
