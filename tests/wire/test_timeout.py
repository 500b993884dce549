"""The grpc-timeout header."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit.status import StatusCode
from lbkit.wire.faults import WireFault
from lbkit.wire.timeout import decode_timeout, encode_timeout

UNIT_S = {b"n": 1e-9, b"u": 1e-6, b"m": 1e-3, b"S": 1.0, b"M": 60.0, b"H": 3600.0}


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (0.0, b"0n"),
        (-1.0, b"0n"),
        (1e-9, b"1n"),
        (1.5e-9, b"2n"),
        (0.05, b"50000000n"),
        (0.1, b"100000u"),
        (1.0, b"1000000u"),
        (99.999999, b"99999999u"),
        (100.0, b"100000m"),
        (86400.0, b"86400000m"),
        (100_000.0, b"100000S"),
        (99_999_999.0, b"99999999S"),
        (100_000_000.0, b"1666667M"),
        (1e13, b"99999999H"),
    ],
)
def test_finest_unit_that_fits_eight_digits_is_used(seconds: float, value: bytes) -> None:
    assert encode_timeout(seconds) == value


@given(st.floats(0, 1e12, allow_nan=False))
def test_encoded_timeout_is_well_formed_and_never_shorter(seconds: float) -> None:
    value = encode_timeout(seconds)
    assert re.fullmatch(rb"\d{1,8}[numSMH]", value)
    step = UNIT_S[value[-1:]]
    if value != b"99999999H":
        assert seconds - 2e-6 * step <= decode_timeout(value) <= seconds + step * 1.000001


@given(st.integers(0, 99_999_999), st.sampled_from(sorted(UNIT_S)))
def test_every_well_formed_value_is_read(count: int, unit: bytes) -> None:
    assert decode_timeout(b"%d%s" % (count, unit)) == count * UNIT_S[unit]
    assert decode_timeout(b"%08d%s" % (count, unit)) == count * UNIT_S[unit]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"1",
        b"S",
        b"1x",
        b"-1S",
        b"+1S",
        b"1.5S",
        b"1 S",
        b" 1S",
        b"1s",
        b"123456789S",
        b"1SS",
        b"\xb2S",
        b"1_0S",
    ],
)
def test_malformed_timeout_is_refused(value: bytes) -> None:
    with pytest.raises(WireFault) as caught:
        decode_timeout(value)
    assert caught.value.code is StatusCode.INTERNAL
    assert repr(value) in caught.value.details


@given(st.binary(max_size=12))
def test_any_bytes_give_a_timeout_or_a_fault(value: bytes) -> None:
    try:
        assert decode_timeout(value) >= 0
    except WireFault:
        assert not re.fullmatch(rb"\d{1,8}[numSMH]", value)


def test_computed_timeouts_do_not_pile_up() -> None:
    from lbkit.wire import timeout

    for number in range(2000):
        encode_timeout(1 + number / 7919)
    assert len(timeout._memo) <= timeout._MEMO_MAX
