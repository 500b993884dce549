"""Codecs: what the content-type of a call names, ``application/grpc+json`` for example; ours and applications'."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from lbkit.plugins import Registry, origin_of

PROTO = "proto"  # what application/grpc alone means
RAW = "raw"

_DEPTH = 100  # of nested messages; protobuf's own limit for its binary format
_NO_OBJECTS = "google.protobuf."

C = TypeVar("C", bound="type[Codec]")


class Codec(Protocol):
    """Makes bytes of messages, and messages of bytes."""

    def encode(self, message: Any, /) -> bytes:
        """Return a message as bytes. What it raises ends the call with INTERNAL."""
        ...

    def decode(self, message_class: Any, data: bytes, /) -> Any:
        """Return the message, of this class, that ``encode`` was given. What it raises ends the call with INTERNAL."""
        ...


class Bound(NamedTuple):
    """A codec for the messages of one method.

    Attributes:
        subtype: what stands behind ``application/grpc+``; empty for nothing.
        encode: makes bytes of what is sent.
        decode: makes a message of what is received.
    """

    subtype: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


class Proto:
    """Protobuf's binary format."""

    def encode(self, message: Any) -> bytes:
        """Serialise."""
        data: bytes = message.SerializeToString()
        return data

    def decode(self, message_class: Any, data: bytes) -> Any:
        """Parse."""
        return message_class.FromString(data)


class Json:
    """Protobuf's JSON mapping. Fields that the message class does not have are passed over, as in the binary format."""

    def encode(self, message: Any) -> bytes:
        """Write it without white space."""
        from google.protobuf.json_format import MessageToJson  # of those who use it

        return MessageToJson(message, indent=None).encode()

    def decode(self, message_class: Any, data: bytes) -> Any:
        """Parse JSON in UTF-8, nested at most a hundred deep."""
        from google.protobuf.json_format import Parse

        # It would take an array for an empty message. Of protobuf's own messages some are no objects in JSON.
        if data.lstrip()[:1] != b"{" and not message_class.DESCRIPTOR.full_name.startswith(_NO_OBJECTS):
            raise ValueError("it is not a JSON object")
        return Parse(data, message_class(), ignore_unknown_fields=True, max_recursion_depth=_DEPTH)


class Raw:
    """Bytes as they are: the application does it. On the wire they pass for protobuf."""

    def encode(self, message: Any) -> bytes:
        """Return the bytes."""
        return bytes(message)

    def decode(self, message_class: Any, data: bytes) -> Any:
        """Return the bytes."""
        return data


def _adapt(plugin: object) -> Codec:
    """Make a codec of what an entry point or a decorator names: a class, or an object."""
    made: Any = plugin() if isinstance(plugin, type) else plugin
    for name in ("encode", "decode"):
        if not callable(getattr(made, name, None)):
            raise TypeError(f"{plugin!r} is no codec: it has no method {name}()")
    return made  # type: ignore[no-any-return]  # looked at just now


registry: Registry[Codec] = Registry("codec", "lbkit.codecs", _adapt)
registry.register(PROTO, Proto())
registry.register("json", Json())
registry.register(RAW, Raw())


def codec(name: str) -> Callable[[C], C]:
    """Register a class, made without arguments, as the codec for ``application/grpc+<name>``.

    Raises:
        ValueError: the name is not one that can be registered.
        TypeError: the class lacks a method of ``Codec``.
    """

    def register(cls: C) -> C:
        registry.register(name, _adapt(cls), origin=origin_of(cls))
        return cls

    return register


def bind(name: str, message_class: Any) -> Bound:
    """Return what a codec does for messages of which those received are of this class.

    Raises:
        UnknownPluginError: no such codec; says the nearest.
        DuplicatePluginError, BrokenPluginError: it cannot be used.
        TypeError: the class is not known, and the codec needs it.
    """
    found = registry.get(name)
    if message_class is None and name != RAW:
        raise TypeError(
            f"codec={name!r} needs the class of the messages: give its FromString as the deserializer, "
            "or use channel.stub() or server.add()"
        )
    return Bound("" if name in {PROTO, RAW} else name, found.encode, partial(found.decode, message_class))


def message_class_of(deserialize: object) -> Any:
    """Return the class whose ``FromString`` this is, or the class if it is one; None if that cannot be seen."""
    owner = getattr(deserialize, "__self__", deserialize)
    return owner if isinstance(owner, type) and hasattr(owner, "DESCRIPTOR") else None


def subtype_of(content_type: bytes) -> str | None:
    """Return what stands behind ``application/grpc+``, of what can be served here; None if it cannot.

    ``proto``, or nothing, means protobuf. Parameters behind a semicolon are passed over.
    """
    kind = content_type.partition(b";")[0]
    if kind == b"application/grpc":
        return ""
    if not kind.startswith(b"application/grpc+"):
        return None
    subtype = kind[len(b"application/grpc+") :].decode("latin-1")
    return subtype if subtype != RAW and subtype in registry else None
