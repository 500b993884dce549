"""Compressed messages on the wire: their flags, and what they are packed into and unpacked from."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit.encoding.compressors import Encoding, known
from lbkit.errors import CorruptDataError
from lbkit.http2 import frames
from lbkit.limits import Limits
from lbkit.status import StatusCode
from lbkit.wire.deframer import Deframer
from lbkit.wire.faults import WireFault
from lbkit.wire.messages import LARGE_BYTES, OneMessage, frame_message, send_message, whole_message
from lbkit.wire.packing import (
    INLINE_BYTES,
    Compressed,
    accepts,
    encoding_for,
    encoding_in,
    pack,
    plain_size,
    unpack,
    unpack_small,
)
from tests.support.wire import Scripted

TEXT = b"the same words again and again, " * 100
NOISE = random.Random(1).randbytes(300_000)


def encoding(name: str = "gzip") -> Encoding:
    found = known(name)
    assert found is not None
    return found


def packed(data: bytes = TEXT, name: str = "gzip") -> Compressed:
    made = pack(data, encoding(name))
    assert isinstance(made, Compressed)
    return made


class Odd:
    """Does what the test says."""

    def __init__(self, work: Callable[[bytes], bytes]) -> None:
        self.work = work

    def compress(self, data: bytes) -> bytes:
        return self.work(data)

    def decompress(self, data: bytes, limit: int) -> bytes:
        return self.work(data)


def odd(work: Callable[[bytes], bytes]) -> Encoding:
    return Encoding("odd", Odd(work), (b"grpc-encoding", b"odd"))


def fail(data: bytes) -> bytes:
    raise ArithmeticError("of its own kind")


def fault(work: Callable[[], object]) -> tuple[StatusCode, str]:
    with pytest.raises(WireFault) as caught:
        work()
    return caught.value.code, caught.value.details


# Packing


@given(st.binary(min_size=1, max_size=300) | st.binary(min_size=1, max_size=3).map(lambda each: each * 500))
def test_packed_payload_is_smaller_or_as_it_was(data: bytes) -> None:
    made = pack(data, encoding())
    if isinstance(made, Compressed):
        assert len(made) < len(data)
        assert unpack(made, len(data)) == data
    else:
        assert made is data
    assert plain_size(made) == len(data)


def test_empty_payload_stays_as_it_is() -> None:
    """As in grpc-go: there is nothing to gain."""
    assert type(pack(b"", odd(fail))) is bytes


def test_payload_that_would_grow_stays_as_it_is() -> None:
    assert pack(NOISE, encoding()) is NOISE
    assert pack(TEXT, odd(lambda data: data)) is TEXT


def test_compressor_that_raises_is_internal() -> None:
    code, details = fault(lambda: pack(TEXT, odd(fail)))
    assert code is StatusCode.INTERNAL
    assert details == "compressor 'odd' raised ArithmeticError: of its own kind"


# Unpacking


def test_unpacked_above_the_limit_is_resource_exhausted() -> None:
    code, details = fault(lambda: unpack(packed(), len(TEXT) - 1))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert "'gzip'" in details
    assert str(len(TEXT) - 1) in details


def test_compressor_that_passes_over_the_limit_is_found_out() -> None:
    made = Compressed.of(b"x", odd(lambda data: TEXT))
    assert fault(lambda: unpack(made, 10))[0] is StatusCode.RESOURCE_EXHAUSTED


def corrupt(data: bytes) -> bytes:
    raise CorruptDataError("no")


@pytest.mark.parametrize("work", [fail, corrupt, lambda data: None])
def test_unpacking_that_makes_no_bytes_is_internal(work: Callable[[bytes], bytes]) -> None:
    code, details = fault(lambda: unpack(Compressed.of(b"x", odd(work)), 10))
    assert code is StatusCode.INTERNAL
    assert "'odd' cannot be decompressed" in details


@pytest.mark.parametrize("size", [0, 1, len(TEXT), INLINE_BYTES])
def test_small_payload_is_unpacked_at_once(size: int) -> None:
    made = Compressed.of(encoding().compressor.compress(bytes(size)), encoding())
    assert unpack_small(made, 1 << 22) == bytes(size)


def test_payload_that_is_large_either_way_is_not() -> None:
    unpacked_large = packed(bytes(INLINE_BYTES + 1))
    assert unpack_small(unpacked_large, 1 << 22) is None
    assert unpack_small(Compressed.of(NOISE, odd(fail)), 1 << 22) is None


def test_small_bomb_is_found_out_at_once_where_the_limit_is_small_as_well() -> None:
    bomb = packed(bytes(INLINE_BYTES + 1))
    assert fault(lambda: unpack_small(bomb, INLINE_BYTES))[0] is StatusCode.RESOURCE_EXHAUSTED


def test_small_payload_that_is_corrupt_is_found_out_at_once() -> None:
    bad = Compressed.of(packed()[:-1], encoding())
    assert fault(lambda: unpack_small(bad, 1 << 22))[0] is StatusCode.INTERNAL


# Flags


def test_flag_goes_with_a_compressed_payload() -> None:
    made = packed()
    assert frame_message(made) == b"\x01" + len(made).to_bytes(4, "big") + made
    assert whole_message(frame_message(made)) is None


@pytest.mark.parametrize("size", [100, LARGE_BYTES])
def test_flag_goes_with_a_compressed_payload_of_any_size(size: int) -> None:
    end = Scripted(client=True, limits=Limits())
    stream = end.open()
    end.engine.take()
    made = Compressed.of(NOISE[:size], encoding())
    assert send_message(end.engine, stream, made, True)
    assert b"".join(each.payload for each in end.sent_kinds(frames.DATA)) == frame_message(made)


@pytest.mark.parametrize("name", [None, b"gzip"])
@pytest.mark.parametrize("flag", [2, 255])
def test_r20_other_flags_mean_nothing(flag: int, name: bytes | None) -> None:
    code, details = fault(lambda: encoding_for(flag, name))
    assert code is StatusCode.INTERNAL
    assert f"flag {flag}" in details


def test_r21_flag_without_an_encoding_is_internal() -> None:
    code, details = fault(lambda: encoding_for(1, None))
    assert code is StatusCode.INTERNAL
    assert "no grpc-encoding was agreed on" in details


def test_c10_flag_with_an_unknown_encoding_is_internal() -> None:
    code, details = fault(lambda: encoding_for(1, b"snappy"))
    assert code is StatusCode.INTERNAL
    assert "'snappy', which is not known here" in details


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_compressed_message_is_collected_as_such(size: int) -> None:
    made = packed()
    data = frame_message(made)
    message = OneMessage(len(made), announced=b"gzip")
    for at in range(0, len(data), size):
        message.feed(data[at : at + size])
    payload = message.finish()
    assert isinstance(payload, Compressed)
    assert payload.encoding.name == "gzip"
    assert unpack(payload, len(TEXT)) == TEXT


def test_limit_holds_for_the_compressed_size_as_well() -> None:
    made = packed()
    message = OneMessage(len(made) - 1, announced=b"gzip")
    assert fault(lambda: message.feed(frame_message(made)[:5]))[0] is StatusCode.RESOURCE_EXHAUSTED


@given(
    st.lists(st.tuples(st.sampled_from([b"", b"a", TEXT, bytes(70_000)]), st.booleans()), max_size=6),
    st.lists(st.integers(0, 100_000), max_size=6),
)
def test_stream_of_both_kinds_comes_in_any_pieces(sent: list[tuple[bytes, bool]], at: list[int]) -> None:
    payloads = [pack(data, encoding()) if compress else data for data, compress in sent]
    data = b"".join(map(frame_message, payloads))
    edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
    into: deque[bytes] = deque()
    cutter = Deframer(1 << 20, into)
    cutter.announced = b"gzip"
    for a, b in pairwise(edges):
        cutter.feed(data[a:b])
    cutter.finish()
    assert list(into) == payloads
    assert list(map(type, into)) == list(map(type, payloads))


def test_messages_before_a_bad_flag_are_delivered() -> None:
    into: deque[bytes] = deque()
    cutter = Deframer(1000, into)
    cutter.announced = b"gzip"
    bad = b"\x02\0\0\0\0"
    assert fault(lambda: cutter.feed(frame_message(packed()) + frame_message(b"b") + bad))[1].startswith(
        "message flag 2"
    )
    assert [type(each) for each in into] == [Compressed, bytes]


# Headers


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (None, None),
        ((), None),
        (((b"x", b"gzip"),), None),
        (((b"x", b""), (b"grpc-encoding", b"gzip")), b"gzip"),
        (((b"grpc-encoding", b"identity"),), None),
    ],
)
def test_encoding_is_read_from_the_headers(
    fields: tuple[tuple[bytes, bytes], ...] | None, found: bytes | None
) -> None:
    assert encoding_in(fields) == found


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (b"identity,deflate,gzip", True),
        (b"identity, deflate, gzip", True),
        (b"gzip", True),
        (b"identity", False),
        (b"xgzip", False),
        (b"", False),
    ],
)
def test_peer_takes_what_it_lists(value: bytes, taken: bool) -> None:
    fields = ((b"x", b"gzip"), (b"grpc-accept-encoding", value))
    assert accepts(fields, encoding()) is taken
    assert not accepts(((b"x", b"gzip"),), encoding())
