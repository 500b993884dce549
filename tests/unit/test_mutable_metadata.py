"""Metadata that can be changed do what grpc.aio's do."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest

from lbkit.metadata import MutableMetadata

PAIRS = (("a", "1"), ("b-bin", b"2"), ("a", "3"))


@pytest.fixture(params=[MutableMetadata, grpc.aio.Metadata])
def metadata(request: pytest.FixtureRequest) -> Any:
    return request.param(*PAIRS)


def test_pairs_are_looked_up_by_key(metadata: Any) -> None:
    assert metadata["a"] == metadata.get("a") == "1"
    assert metadata.get_all("a") == ["1", "3"]
    assert metadata.get_all("c") == []
    assert metadata.get("c") is None
    assert metadata.get("c", "other") == "other"
    assert "b-bin" in metadata
    assert "c" not in metadata
    assert 1 not in metadata
    with pytest.raises(KeyError):
        metadata["c"]


def test_pairs_are_counted_and_listed(metadata: Any) -> None:
    assert len(metadata) == 3
    assert sorted(metadata, key=str) == sorted(PAIRS, key=str)
    assert list(metadata.keys()) == ["a", "b-bin"]
    assert list(metadata.values()) == [["1", "3"], [b"2"]]
    assert list(metadata.items()) == [("a", ["1", "3"]), ("b-bin", [b"2"])]
    assert "('a', '1')" in repr(metadata)


def test_pairs_are_changed(metadata: Any) -> None:
    metadata["a"] = "first"
    metadata["new"] = "x"
    metadata.add("new", "y")
    assert metadata.get_all("a") == ["first", "3"]
    assert metadata.get_all("new") == ["x", "y"]
    metadata.set_all("new", ["z"])
    assert metadata.get_all("new") == ["z"]
    del metadata["a"]
    assert metadata.get_all("a") == ["3"]
    del metadata["a"]
    metadata.delete_all("new")
    assert list(metadata) == [("b-bin", b"2")]
    for remove in (metadata.delete_all, metadata.__delitem__):
        with pytest.raises(KeyError):
            remove("a")


def test_pairs_are_compared_and_added(metadata: Any) -> None:
    kind = type(metadata)
    assert metadata == kind(*PAIRS)
    assert metadata != kind(*PAIRS[1:])
    assert metadata != 3
    assert list(metadata + (("c", "4"),)) == [*metadata, ("c", "4")]  # noqa: RUF005  # that is what is tested
    assert list(metadata + kind(("c", "4"))) == [*metadata, ("c", "4")]
    assert kind(("a", "1")) == (("a", "1"),)


def test_they_keep_the_order_of_the_wire() -> None:
    assert tuple(MutableMetadata(*PAIRS)) == PAIRS
    with pytest.raises(TypeError):
        hash(MutableMetadata())
