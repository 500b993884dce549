"""Compressors: what they make, what they refuse, and how they are named."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import sys
import tracemalloc
import zlib
from collections.abc import Generator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lbkit
from lbkit.encoding import compressors, zstd
from lbkit.encoding.compressors import accepted, chosen, known, names, registry

NAMES = ["gzip", "deflate", "zstd"]
TEXT = b"the same words again and again, " * 100
NOISE = random.Random(1).randbytes(5000)
MIB = 1 << 20


def compressor(name: str) -> compressors.Compressor:
    found = known(name)
    assert found is not None
    return found.compressor


@pytest.fixture
def forgetting() -> Generator[None, None, None]:
    """Let a test register what it likes."""
    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)


@pytest.mark.parametrize("name", NAMES)
@given(st.binary(max_size=2000) | st.binary(min_size=1, max_size=4).map(lambda each: each * 700))
def test_what_was_compressed_comes_back(name: str, data: bytes) -> None:
    made = compressor(name)
    assert made.decompress(made.compress(data), len(data)) == data


def test_formats_are_those_of_other_implementations() -> None:
    assert gzip.decompress(compressor("gzip").compress(TEXT)) == TEXT
    assert compressor("gzip").decompress(gzip.compress(TEXT), len(TEXT)) == TEXT
    assert zlib.decompress(compressor("deflate").compress(TEXT)) == TEXT  # RFC 1950, not 1951
    assert compressor("deflate").decompress(zlib.compress(TEXT), len(TEXT)) == TEXT


@pytest.mark.parametrize("name", NAMES)
def test_exactly_the_limit_passes_and_one_byte_more_does_not(name: str) -> None:
    data = compressor(name).compress(TEXT)
    assert compressor(name).decompress(data, len(TEXT)) == TEXT
    with pytest.raises(lbkit.OversizedDataError, match=f"limit of {len(TEXT) - 1} bytes"):
        compressor(name).decompress(data, len(TEXT) - 1)


@pytest.mark.parametrize("name", NAMES)
def test_empty_message_passes_a_limit_of_nothing(name: str) -> None:
    assert compressor(name).decompress(compressor(name).compress(b""), 0) == b""


@pytest.mark.parametrize("name", NAMES)
def test_bomb_takes_no_more_memory_than_the_limit(name: str) -> None:
    """R24: forty megabytes in forty kilobytes."""
    bomb = compressor(name).compress(bytes(40 * MIB))
    assert len(bomb) < 50_000
    tracemalloc.start()
    try:
        with pytest.raises(lbkit.OversizedDataError):
            compressor(name).decompress(bomb, 1 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", [TEXT, NOISE])
def test_every_way_to_cut_it_short_is_corrupt(name: str, data: bytes) -> None:
    whole = compressor(name).compress(data)
    for size in {*range(12), *range(len(whole) - 12, len(whole)), len(whole) // 2}:
        with pytest.raises(lbkit.CorruptDataError):
            compressor(name).decompress(whole[:size], len(data))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("more", [b"\0", b"garbage", b"\x1f\x8b"])
def test_anything_behind_the_end_is_corrupt(name: str, more: bytes) -> None:
    with pytest.raises(lbkit.CorruptDataError):
        compressor(name).decompress(compressor(name).compress(TEXT) + more, len(TEXT))


@pytest.mark.parametrize("name", NAMES)
def test_second_member_is_not_a_part_of_the_message(name: str) -> None:
    with pytest.raises(lbkit.CorruptDataError, match="behind the end"):
        compressor(name).decompress(compressor(name).compress(TEXT) * 2, 2 * len(TEXT))


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_wrong_checksum_is_corrupt(name: str) -> None:
    data = bytearray(compressor(name).compress(TEXT))
    data[-1 if name == "deflate" else -8] ^= 1
    with pytest.raises(lbkit.CorruptDataError, match="incorrect data check"):
        compressor(name).decompress(bytes(data), len(TEXT))


@pytest.mark.parametrize("name", NAMES)
@given(st.binary(max_size=200))
def test_no_bytes_make_anything_else_be_raised(name: str, data: bytes) -> None:
    with contextlib.suppress(lbkit.CompressionError):
        compressor(name).decompress(data, 1000)


def test_zstd_frame_that_wants_a_large_window_is_refused() -> None:
    """A few bytes could make us keep gigabytes, for the frame to look back on."""
    import zstandard

    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    # Of unknown length: the window is claimed as it is.
    data = stream.compress(os.urandom(100)) + stream.flush()
    with pytest.raises(lbkit.CorruptDataError):
        compressor("zstd").decompress(data, MIB)


# Names


def test_what_is_known_is_told_to_peers() -> None:
    assert names() == ["identity", "deflate", "gzip", "zstd"]
    assert accepted() == b"identity,deflate,gzip,zstd"


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        (lbkit.Compression.Gzip, "gzip"),
        (lbkit.Compression.Deflate, "deflate"),
        (grpc.Compression.Gzip, "gzip"),
        (grpc.Compression.Deflate, "deflate"),
    ],
)
def test_compressor_is_chosen_by_either_kind_of_name(choice: object, name: str) -> None:
    found = chosen(choice)
    assert found is not None
    assert type(found.name) is str
    assert (found.name, found.field) == (name, (b"grpc-encoding", name.encode()))


@pytest.mark.parametrize(
    "choice", ["identity", lbkit.Compression.NoCompression, grpc.Compression.NoCompression]
)
def test_no_compression_is_a_choice(choice: object) -> None:
    assert chosen(choice) is None


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(lbkit.UnknownPluginError, match=r"no compressor 'gzp'\. Did you mean 'gzip'\?"):
        chosen("gzp")


@pytest.mark.parametrize("choice", [2, True, object(), b"gzip"])
def test_what_is_no_name_is_a_type_error(choice: object) -> None:
    with pytest.raises(TypeError, match=r"lbkit\.Compression: identity, deflate, gzip"):
        chosen(choice)


def test_peers_name_that_is_unknown_is_none() -> None:
    assert known("snappy") is None
    assert known("identity") is None


def test_without_an_implementation_of_zstd_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd, "available", lambda: False)
    assert accepted() == b"identity,deflate,gzip"
    assert known("zstd") is None
    with pytest.raises(lbkit.UnknownPluginError, match=r"lbkit\[zstd\]"):
        chosen("zstd")


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 has its own zstd")
def test_zstd_of_the_package_and_of_python_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    own = compressor("zstd").compress(TEXT)
    monkeypatch.setattr(zstd, "_in_python", lambda: False)
    zstd._module.cache_clear()
    try:
        assert compressor("zstd").decompress(own, len(TEXT)) == TEXT
        other = compressor("zstd").compress(TEXT)
    finally:
        monkeypatch.undo()
        zstd._module.cache_clear()
    assert compressor("zstd").decompress(other, len(TEXT)) == TEXT


@pytest.mark.usefixtures("forgetting")
def test_decorated_class_is_known_from_then_on() -> None:
    @lbkit.compressor("backwards")
    class Backwards:
        def compress(self, data: bytes) -> bytes:
            return data[::-1]

        def decompress(self, data: bytes, limit: int) -> bytes:
            return data[::-1]

    assert Backwards().compress(b"ab") == b"ba"  # the decorator gives the class back
    assert accepted() == b"identity,backwards,deflate,gzip,zstd"
    assert compressor("backwards").decompress(b"ba", 9) == b"ab"


@pytest.mark.usefixtures("forgetting")
def test_class_that_is_no_compressor_is_refused() -> None:
    class Half:
        def compress(self, data: bytes) -> bytes:
            return data

    with pytest.raises(TypeError, match=r"has no method decompress\(\)"):
        lbkit.compressor("half")(Half)  # type: ignore[type-var]


@pytest.mark.usefixtures("forgetting")
def test_peer_cannot_name_a_compressor_that_two_claim() -> None:
    class Other:
        def compress(self, data: bytes) -> bytes:
            return data

        def decompress(self, data: bytes, limit: int) -> bytes:
            return data

    lbkit.compressor("gzip")(Other)
    assert known("gzip") is None
    with pytest.raises(lbkit.DuplicatePluginError, match="rename or remove one"):
        chosen("gzip")
