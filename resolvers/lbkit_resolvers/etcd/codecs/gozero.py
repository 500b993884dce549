"""``gozero``: what services of go-zero write (core/discov)."""

from __future__ import annotations

from lbkit.address import Endpoint
from lbkit.registrar import Instance
from lbkit_resolvers.etcd.codecs.base import Codec
from lbkit_resolvers.records import RecordError, endpoint_of, shown


class GoZeroCodec(Codec):
    """``<key>/<lease id>`` is ``10.0.0.1:8080``: the bare address, and the lease in decimal digits.

    There is no place for weights, zones and metadata. As the key has the lease in it, an instance that comes back
    before its old lease has expired is listed twice for a while; the resolver counts it once.
    """

    def key(self, name: str, instance: Instance, lease: int) -> bytes:
        """Return ``<name>/<lease>`` (``makeEtcdKey`` in core/discov/clients.go)."""
        return self.prefix(name) + str(lease).encode()

    def decode(self, key: bytes, value: bytes, name: str = "") -> Endpoint:
        """Read the address."""
        try:
            text = value.decode()
        except UnicodeDecodeError:
            raise RecordError(f"no text: {shown(value)}") from None
        return endpoint_of(text)

    def encode(self, name: str, instance: Instance) -> bytes:
        """Write the address."""
        return instance.address.encode()
