"""``zstd`` (RFC 8878), where there is an implementation: Python 3.14's own, or the ``zstandard`` package."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from typing import Any

from lbkit.encoding.faults import behind_the_end, cut_short, oversized
from lbkit.errors import CorruptDataError

# The most that is kept to look back on while decompressing; frames that want more are refused. RFC 9659 has the same
# figure for HTTP, as the format would let a few bytes of a peer claim gigabytes.
_WINDOW_LOG = 23
_MAGIC_BYTES = 4
_PIECE_BYTES = 64 * 1024


def available() -> bool:
    """Whether there is one."""
    return _in_python() or _installed("zstandard")


def _in_python() -> bool:
    return sys.version_info >= (3, 14) and _installed("compression.zstd")


@cache
def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


class Zstd:
    """One frame for one message."""

    def compress(self, data: bytes) -> bytes:
        """Compress at the default level."""
        compressed: bytes = _module().compress(data)
        return compressed

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Decompress, and check the checksum if there is one; errors as ``Compressor.decompress``."""
        module = _module()
        if len(data) < _MAGIC_BYTES:
            raise cut_short()
        return (_by_python if _in_python() else _by_package)(module, data, limit)


@cache
def _module() -> Any:
    return importlib.import_module("compression.zstd" if _in_python() else "zstandard")


def _by_python(module: Any, data: bytes, limit: int) -> bytes:
    stream = module.ZstdDecompressor(options={module.DecompressionParameter.window_log_max: _WINDOW_LOG})
    try:
        plain: bytes = stream.decompress(data, limit + 1)
    except module.ZstdError as error:
        raise CorruptDataError(str(error)) from None
    if len(plain) > limit:
        raise oversized(limit)
    if not stream.eof:
        raise cut_short()
    if stream.unused_data:
        raise behind_the_end(len(stream.unused_data))
    return plain


def _by_package(module: Any, data: bytes, limit: int) -> bytes:
    frames = module.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
    try:
        # What can be read in pieces does not tell a whole frame from a part, and what does makes all of it at once.
        reader, size = frames.stream_reader(data), 0
        while piece := reader.read(_PIECE_BYTES):
            size += len(piece)
            if size > limit:
                raise oversized(limit)
        stream = frames.decompressobj()
        plain: bytes = stream.decompress(data)
    except module.ZstdError as error:
        raise CorruptDataError(str(error)) from None
    if not stream.eof:
        raise cut_short()
    if stream.unused_data:
        raise behind_the_end(len(stream.unused_data))
    return plain
