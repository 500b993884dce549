"""Addresses (where something listens) and endpoints (one backend, with what is known about it)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from lbkit.errors import AddressError

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Address(NamedTuple):
    """One place to connect to: a host and a TCP port, or the path of a Unix socket (``port`` is None).

    ``host`` is a name or an IP literal without brackets. A named tuple, because address lists are long and are
    hashed and compared on every update.
    """

    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``, ``[v6]:port`` or ``unix:path``.

        Raises:
            AddressError: no port, a port outside 0..65535, an empty host, or an IPv6 literal without brackets.
        """
        host, _, port = text.rpartition(":")
        if host == "unix" or text.startswith("unix:"):
            path = text.removeprefix("unix:").removeprefix("//")
            if not path:
                raise AddressError(f"{text!r} has no path; write unix:/run/app.sock")
            return cls(path, None)
        if not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
            raise AddressError(f"{text!r} has no valid port; write host:port with a port of 0 to 65535")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise AddressError(f"{text!r}: put an IPv6 address in brackets, like [::1]:50051")
        if not host or not host.isprintable() or " " in host:
            raise AddressError(f"{text!r} has no valid host; write host:port, like 127.0.0.1:50051")
        return cls(host, int(port))

    def __str__(self) -> str:
        if self.port is None:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Endpoint:
    """One backend: the addresses that reach it, and attributes that policies use.

    Immutable. Attributes are not part of ``identity``: an update that only changes a weight keeps the
    connection. ``==`` compares everything, so that equal updates can be recognised.

    Args:
        addresses: one or more addresses of the same backend (IPv4 and IPv6, say), in order of preference.
        weight: relative share for weighted policies; > 0.
        zone: locality, for zone-aware policies.
        hash_key: stands for this backend in consistent hashing; the first address if empty.
        metadata: anything else a policy or a person may want, as text.

    Raises:
        AddressError: there is no address, or the weight is not positive.
    """

    __slots__ = ("addresses", "hash_key", "identity", "metadata", "weight", "zone")

    addresses: tuple[Address, ...]
    identity: Hashable  # the unordered set of addresses; the address itself when there is only one

    def __init__(
        self,
        addresses: Iterable[Address],
        *,
        weight: float = 1.0,
        zone: str = "",
        hash_key: str = "",
        metadata: Mapping[str, str] = _NOTHING,
    ) -> None:
        addresses = tuple(addresses)
        if not addresses:
            raise AddressError("an endpoint needs at least one address")
        if not weight > 0:
            raise AddressError(f"{addresses[0]}: weight must be > 0, not {weight!r}")
        set_ = object.__setattr__
        set_(self, "addresses", addresses)
        distinct = frozenset(addresses)
        set_(self, "identity", addresses[0] if len(distinct) == 1 else distinct)
        set_(self, "weight", weight)
        set_(self, "zone", zone)
        set_(self, "hash_key", hash_key)
        set_(self, "metadata", metadata)

    weight: float
    zone: str
    hash_key: str
    metadata: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Make an endpoint of one address; see ``Address.parse`` for the forms and the errors."""
        return cls((Address.parse(text),))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an Endpoint is immutable; make a new one instead of setting {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Endpoint):
            return NotImplemented
        return self is other or (
            self.addresses == other.addresses
            and self.weight == other.weight
            and self.zone == other.zone
            and self.hash_key == other.hash_key
            and self.metadata == other.metadata
        )

    def __hash__(self) -> int:
        return hash(self.identity)

    def __str__(self) -> str:
        return "+".join(map(str, self.addresses))

    def __repr__(self) -> str:
        extra = f", weight={self.weight:g}" if self.weight != 1 else ""
        extra += f", zone={self.zone!r}" if self.zone else ""
        return f"Endpoint({self}{extra})"
