"""Metadata as header fields: what may be sent, and how ``-bin`` values travel (PROTOCOL-HTTP2, Custom-Metadata)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from lbkit.errors import MetadataError
from lbkit.metadata import EMPTY, Metadata, MetadataLike, Pair, pairs
from lbkit.status import StatusCode
from lbkit.wire.faults import WireFault

Field = tuple[bytes, bytes]

_KEY_CHARACTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyz_.-")

# Not the application's to send: the protocol sets them itself, or HTTP/2 forbids them.
_NOT_SENT = frozenset(
    [
        "content-type",
        "content-length",
        "te",
        "user-agent",
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ]
)
# Of the protocol's own names, those that applications send all the same: rich statuses, traces, push-back (gRFC A6).
_SENT = frozenset(["grpc-status-details-bin", "grpc-trace-bin", "grpc-tags-bin", "grpc-retry-pushback-ms"])
# Not shown to the application: they are the protocol's own.
_NOT_SHOWN = frozenset(
    b"content-type content-length te host date grpc-encoding grpc-accept-encoding grpc-message grpc-status"
    b" grpc-timeout grpc-message-type".split()
)

_KEYS_MAX = 1024
_keys: dict[str, tuple[bytes, bool]] = {}  # checked keys: (as bytes, whether the value is binary)


def _check_key(key: object) -> tuple[bytes, bool]:
    if not isinstance(key, str) or not key or not set(key) <= _KEY_CHARACTERS:
        raise MetadataError(f"metadata key {key!r}: use lower-case letters, digits, '_', '-' and '.'")
    if key in _NOT_SENT or (key.startswith("grpc-") and key not in _SENT):
        raise MetadataError(f"metadata key {key!r} belongs to the protocol; choose another one")
    known = key.encode(), key.endswith("-bin")
    if len(_keys) < _KEYS_MAX:
        _keys[key] = known
    return known


def encode_metadata(metadata: MetadataLike) -> list[Field]:
    """Return the header fields of metadata given by the application.

    Raises:
        MetadataError: a key or value that must not go on the wire; says which and why.
    """
    fields: list[Field] = []
    try:
        for key, value in pairs(metadata):
            name, binary = _keys.get(key) or _check_key(key)
            if binary:
                if not isinstance(value, bytes):
                    raise MetadataError(
                        f"metadata {key!r}: a key that ends in -bin takes bytes, not {value!r}"
                    )
                fields.append((name, base64.b64encode(value).rstrip(b"=")))
            else:
                text = value if isinstance(value, str) else _ascii(key, value)
                if not (text.isascii() and text.isprintable()):
                    raise MetadataError(
                        f"metadata {key!r}: {value!r} is not printable ASCII; name the key {key}-bin to send bytes"
                    )
                # RFC 9113 8.2.1 wants none at the ends.
                fields.append((name, text.strip(" ").encode("ascii")))
    except (TypeError, ValueError) as error:
        if isinstance(error, MetadataError):
            raise
        raise MetadataError(f"metadata must be pairs of (key, value), not {metadata!r}") from error
    return fields


def _ascii(key: str, value: object) -> str:
    if not isinstance(value, bytes):
        raise MetadataError(f"metadata {key!r}: the value must be str or bytes, not {value!r}")
    return value.decode("latin-1")


def decode_metadata(fields: Iterable[Field]) -> Metadata:
    """Return what the application gets to see of received header fields.

    Values outside ASCII are kept, one character a byte: the protocol says that they must not be an error.

    Raises:
        WireFault: INTERNAL, a ``-bin`` value is not base64.
    """
    found: list[Pair] = []
    for name, value in fields:
        if name[:1] == b":" or name in _NOT_SHOWN:
            continue
        if name.endswith(b"-bin"):
            key = name.decode()
            found.extend((key, _decode_binary(key, part)) for part in value.split(b","))
        else:
            found.append((name.decode(), value.decode("latin-1")))
    return Metadata(found) if found else EMPTY


def _decode_binary(key: str, value: bytes) -> bytes:
    value = value.strip()
    try:
        # Both padded and unpadded forms must be accepted.
        return base64.b64decode(value.rstrip(b"=") + b"=" * (-len(value.rstrip(b"=")) % 4), validate=True)
    except binascii.Error:
        raise WireFault(StatusCode.INTERNAL, f"metadata {key!r} is not base64") from None
