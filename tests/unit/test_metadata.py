from __future__ import annotations

import grpc.aio
import pytest

from lbkit.metadata import EMPTY, Metadata, pairs

SAMPLE = Metadata((("x-id", "1"), ("trace-bin", b"\x00\xff"), ("x-id", "2")))


def test_is_a_tuple_of_pairs_in_order() -> None:
    assert SAMPLE == (("x-id", "1"), ("trace-bin", b"\x00\xff"), ("x-id", "2"))
    assert list(SAMPLE) == [("x-id", "1"), ("trace-bin", b"\x00\xff"), ("x-id", "2")]
    assert len(SAMPLE) == 3


def test_index_gives_a_pair_and_slice_pairs() -> None:
    assert SAMPLE[0] == ("x-id", "1")
    assert SAMPLE[-1] == ("x-id", "2")
    assert SAMPLE[1:] == (("trace-bin", b"\x00\xff"), ("x-id", "2"))


def test_key_gives_the_first_value() -> None:
    assert SAMPLE["x-id"] == "1"
    assert SAMPLE["trace-bin"] == b"\x00\xff"
    with pytest.raises(KeyError):
        SAMPLE["x-other"]


def test_get_has_a_default() -> None:
    assert SAMPLE.get("x-id") == "1"
    assert SAMPLE.get("x-other") is None
    assert SAMPLE.get("x-other", "-") == "-"


def test_get_all_gives_every_value_in_order() -> None:
    assert SAMPLE.get_all("x-id") == ["1", "2"]
    assert SAMPLE.get_all("x-other") == []


def test_contains_keys_and_pairs() -> None:
    assert "x-id" in SAMPLE  # type: ignore[comparison-overlap]  # mypy takes it for a plain tuple
    assert "x-other" not in SAMPLE  # type: ignore[comparison-overlap]
    assert ("x-id", "2") in SAMPLE
    assert ("x-id", "3") not in SAMPLE


def test_empty_is_false() -> None:
    assert not EMPTY
    assert repr(EMPTY) == "Metadata(())"


def test_pairs_of_mapping_iterable_and_ours() -> None:
    assert list(pairs({"a": "1", "b": "2"})) == [("a", "1"), ("b", "2")]
    assert list(pairs([("a", "1"), ("a", "2")])) == [("a", "1"), ("a", "2")]
    assert list(pairs(SAMPLE)) == list(SAMPLE)


def test_pairs_of_grpc_aio_metadata() -> None:
    assert list(pairs(grpc.aio.Metadata(("a", "1"), ("a", "2")))) == [("a", "1"), ("a", "2")]
