"""A mutator that knows nothing of the code it tests: what runs where atheris is not installed, and in the suite."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

_MOST = 4096
# Lengths, ids and windows on the edge of what is allowed.
_NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x3FFF,
    0x4000,
    0x4001,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of the seeds, changed in a few places."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 2, 4, 9, 16, 64))
        what = rng.randrange(7)
        if what == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif what == 2:
            data[at:at] = rng.randbytes(length)
        elif what == 3:
            del data[at : at + length]
        elif what == 4:  # a part of it again, for floods
            data[at:at] = data[at : at + length] * rng.choice((1, 2, 20))
        elif what == 5:
            other = rng.choice(seeds)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        else:
            size = rng.choice((1, 2, 3, 4))
            data[at : at + size] = (rng.choice(_NUMBERS) & (1 << 8 * size) - 1).to_bytes(size, "big")
    return bytes(data[:_MOST])


def breaks(target: Callable[[bytes], object], data: bytes) -> BaseException | None:
    """Return what a target raises."""
    try:
        target(data)
    except Exception as error:
        return error
    return None


def shrink(target: Callable[[bytes], object], data: bytes) -> bytes:
    """Leave out what is not needed to make a target raise."""
    size = max(1, len(data) // 2)
    while True:
        at = 0
        while at < len(data):
            shorter = data[:at] + data[at + size :]
            if breaks(target, shorter):
                data = shorter
            else:
                at += size
        if size == 1:
            return data
        size //= 2
