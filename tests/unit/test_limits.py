"""Limits that cannot be kept are refused where they are made."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

import lbkit


def test_defaults_are_good_and_do_not_change() -> None:
    limits = lbkit.Limits()
    assert limits.max_concurrent_streams == 100
    with pytest.raises(FrozenInstanceError):
        limits.max_concurrent_streams = 5  # type: ignore[misc]


@pytest.mark.parametrize("name", [field.name for field in fields(lbkit.Limits)])
def test_no_limit_is_negative(name: str) -> None:
    with pytest.raises(ValueError, match=rf"Limits\({name}=-1\): it must be (at least|from) "):
        lbkit.Limits(**{name: -1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_frame_size", 16383),
        ("max_frame_size", 2**24),
        ("stream_window", 0),
        ("stream_window", 2**31),
        ("connection_window", 2**31),
        ("max_concurrent_streams", 2**31),
        ("send_buffer", 0),
    ],
)
def test_what_http2_does_not_allow_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        lbkit.Limits(**{name: value})


def test_counters_tell_what_they_counted() -> None:
    counters = lbkit.Counters()
    counters.seen["pings"] += 2
    counters.exceeded["pings"] += 1
    assert repr(counters) == "Counters(seen={'pings': 2}, exceeded={'pings': 1})"


def test_limits_are_compared_by_value_and_say_what_is_not_the_default() -> None:
    one, other = lbkit.Limits(settings_burst=3), lbkit.Limits(settings_burst=3)
    assert one == other
    assert hash(one) == hash(other)
    assert one != lbkit.Limits()
    assert one != 3
    assert repr(one) == "Limits(settings_burst=3)"
    assert repr(lbkit.Limits()) == "Limits()"
