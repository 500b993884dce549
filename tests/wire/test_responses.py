"""Response headers: which of them end a call."""

from __future__ import annotations

import pytest

from lbkit.status import StatusCode
from lbkit.wire.metadata import Field
from lbkit.wire.responses import head_fault
from tests.support.wire import RESPONSE


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ((b"grpc-encoding", b"identity"),),
        ((b"grpc-encoding", b"snappy"),),
        ((b"x-a", b"caf\xc3\xa9"), (b"x-b-bin", b"YQ=="), (b"x-b-bin", b"YQ,YWI")),
    ],
)
def test_good_headers_have_no_fault(extra: tuple[Field, ...]) -> None:
    assert head_fault((*RESPONSE, *extra)) is None


def test_binary_value_that_is_not_base64_is_internal() -> None:
    status = head_fault((*RESPONSE, (b"x-good-bin", b"YQ"), (b"x-bin", b"?")))
    assert status is not None
    assert status == (StatusCode.INTERNAL, "metadata 'x-bin' is not base64")
