"""The grpc-timeout header: one to eight digits and a unit (PROTOCOL-HTTP2)."""

from __future__ import annotations

from math import ceil

from lbkit.status import StatusCode
from lbkit.wire.faults import WireFault

_LARGEST = 99_999_999
# Finest first; what a caller passes nearly always fits microseconds (up to 99 s).
_UNITS = ((b"n", 1e-9), (b"u", 1e-6), (b"m", 1e-3), (b"S", 1.0), (b"M", 60.0), (b"H", 3600.0))
_SECONDS = {unit[0]: seconds for unit, seconds in _UNITS}

_MEMO_MAX = 256
_memo: dict[float, bytes] = {}


def encode_timeout(seconds: float) -> bytes:
    """Return the header value: the finest unit whose rounded-up count has at most eight digits."""
    value = _memo.get(seconds)
    if value is None:
        value = _encode(seconds)
        if len(_memo) < _MEMO_MAX:  # programs use a handful of constants; computed ones must not pile up
            _memo[seconds] = value
    return value


def _encode(seconds: float) -> bytes:
    if seconds <= 0:  # minus infinity too
        return b"0n"
    for unit, size in _UNITS:
        count = seconds / size
        if count <= _LARGEST:
            # Rounding up must not turn 0.1 s into 100000001 ns because 0.1 has no exact binary form.
            return b"%d%s" % (ceil(count - 1e-6), unit)
    return b"%dH" % _LARGEST


def decode_timeout(value: bytes) -> float:
    """Return seconds.

    Raises:
        WireFault: INTERNAL, the value is malformed.
    """
    digits = value[:-1]
    seconds = _SECONDS.get(value[-1]) if value else None
    if seconds is None or not digits.isdigit() or len(digits) > 8:
        raise WireFault(StatusCode.INTERNAL, f"malformed grpc-timeout {value!r}")
    return int(digits) * seconds
