"""Compressors: what ``grpc-encoding`` names (gRPC compression.md), ours and those of applications."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeVar

from lbkit.encoding import zstd
from lbkit.encoding.deflate import Deflate, Gzip
from lbkit.errors import PluginError, UnknownPluginError
from lbkit.plugins import Registry, origin_of

IDENTITY = "identity"  # the name for not at all
ZSTD = "zstd"

C = TypeVar("C", bound="type[Compressor]")


class Compressor(Protocol):
    """Makes one message smaller, and as it was. Called from several threads at once: keep no state."""

    def compress(self, data: bytes, /) -> bytes:
        """Return ``data``, compressed."""
        ...

    def decompress(self, data: bytes, limit: int, /) -> bytes:
        """Return what was compressed into ``data``, all of which must be used up.

        Stop at ``limit`` bytes, before they are made: forty megabytes fit into forty kilobytes.

        Raises:
            OversizedDataError: there are more.
            CorruptDataError: this is not what ``compress`` made; any other exception is taken for it.
        """
        ...


class Compression(StrEnum):
    """The names of the compressors that lbkit brings; those of the first three are grpcio's."""

    NoCompression = IDENTITY
    Deflate = "deflate"
    Gzip = "gzip"
    Zstd = ZSTD


class Encoding(NamedTuple):
    """A compressor with its name.

    Attributes:
        name: the name in ``grpc-encoding``.
        compressor: what does it.
        field: the header that says so.
    """

    name: str
    compressor: Compressor
    field: tuple[bytes, bytes]


def _adapt(plugin: object) -> Compressor:
    """Make a compressor of what an entry point or a decorator names: a class, or an object."""
    made: Any = plugin() if isinstance(plugin, type) else plugin
    for name in ("compress", "decompress"):
        if not callable(getattr(made, name, None)):
            raise TypeError(f"{plugin!r} is no compressor: it has no method {name}()")
    return made  # type: ignore[no-any-return]  # looked at just now


registry: Registry[Compressor] = Registry("compressor", "lbkit.compressors", _adapt)
registry.register("gzip", Gzip())
registry.register("deflate", Deflate())
registry.register(ZSTD, zstd.Zstd())


def compressor(name: str) -> Callable[[C], C]:
    """Register a class, made without arguments, as the compressor called ``name``.

    Peers are told about it with each call from then on, by channels and servers made afterwards.

    Raises:
        ValueError: the name is not one that can be registered.
        TypeError: the class lacks a method of ``Compressor``.
    """

    def register(cls: C) -> C:
        registry.register(name, _adapt(cls), origin=origin_of(cls))
        return cls

    return register


def names() -> list[str]:
    """Return what can be decompressed here, ``identity`` first."""
    return [IDENTITY, *(name for name in registry.names() if name != ZSTD or zstd.available())]


def accepted() -> bytes:
    """Return the value of ``grpc-accept-encoding``; called once for each channel and server."""
    return ",".join(names()).encode()


def known(name: str) -> Encoding | None:
    """Return what a peer names; None if it is not known here. A broken plug-in is none that could be used."""
    if name not in registry or (name == ZSTD and not zstd.available()):
        return None
    try:
        return _encoding(name)
    except PluginError:
        return None


def chosen(choice: object) -> Encoding | None:
    """Return what an application asks for with ``compression=``; None for ``identity``.

    Args:
        choice: a name, of ``Compression`` or not; or one of grpcio's ``grpc.Compression``.

    Raises:
        UnknownPluginError: no such compressor; says the nearest name.
        DuplicatePluginError, BrokenPluginError: it cannot be used.
        TypeError: this is no name.
    """
    name: object = choice
    if isinstance(choice, int) and not isinstance(choice, bool):
        # grpc.Compression is an IntEnum, and its names are those of Compression.
        name = getattr(Compression, str(getattr(choice, "name", "")), choice)
    if not isinstance(name, str):
        raise TypeError(f"compression={choice!r}: give a name, as in lbkit.Compression: {', '.join(names())}")
    if name == IDENTITY:
        return None
    if name == ZSTD and not zstd.available():
        raise UnknownPluginError("compressor 'zstd' needs Python 3.14, or pip install 'lbkit[zstd]'")
    return _encoding(name)


def _encoding(name: str) -> Encoding:
    name = str(name)  # and no longer a Compression
    return Encoding(name, registry.get(name), (b"grpc-encoding", name.encode()))
