"""``etcd``: what etcd's own client library writes for gRPC (go.etcd.io/etcd/client/v3/naming)."""

from __future__ import annotations

from typing import Any

from lbkit.address import Endpoint
from lbkit.registrar import Instance
from lbkit_resolvers.etcd.codecs.base import Codec, read_object, write_object
from lbkit_resolvers.records import RecordError, endpoint_of, shown


class NamingCodec(Codec):
    """``<name>/<anything>`` is ``{"Op":0,"Addr":"10.0.0.1:50051","Metadata":{"weight":3,"zone":"a"}}``.

    The ``Update`` of ``naming/endpoints/internal/update.go``: keys begin with capitals, readers do not look at ``Op``
    (the record is there, so it was added), and ``Metadata`` is any JSON. Of an object we take weight, zone, and what
    else is no list or object; other types mean nothing to us.
    """

    def decode(self, key: bytes, value: bytes, name: str = "") -> Endpoint:
        """Read ``Addr`` and ``Metadata``."""
        record = read_object(value)
        address = record.get("Addr")
        if not isinstance(address, str) or not address:
            raise RecordError(f'no "Addr" with host:port: {shown(value)}')
        metadata = record.get("Metadata")
        return endpoint_of(address, metadata if isinstance(metadata, dict) else None)

    def encode(self, name: str, instance: Instance) -> bytes:
        """Write what differs from the defaults; ``Metadata`` is null if that is nothing."""
        metadata: dict[str, Any] = dict(instance.metadata)
        if instance.weight != 1:
            metadata["weight"] = int(instance.weight) if instance.weight.is_integer() else instance.weight
        if instance.zone:
            metadata["zone"] = instance.zone
        if instance.secure:
            metadata["secure"] = True
        return write_object({"Op": 0, "Addr": instance.address, "Metadata": metadata or None})
