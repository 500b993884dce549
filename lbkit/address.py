"""Addresses (where something listens) and endpoints (one backend, with what is known about it)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from math import inf
from types import MappingProxyType
from typing import NamedTuple

from lbkit.errors import AddressError
from lbkit.frozen import Frozen

_NOTHING: Mapping[str, str] = MappingProxyType({})


# Not regular expressions: compiling them would take longer than the rest of this module's import.
_NO_HOST = set(" !\"#$%&'()*+,/:;<=>?@[\\]^`{|}~")
_V6_CHARACTERS = set("0123456789abcdefABCDEF:.")


def _is_host(text: str) -> bool:
    """Whether this may be a name or an IPv4 address. Containers have underscores; Unicode names are IDNA's."""
    return not set(text) & _NO_HOST and text.isprintable() and text != ""


def _is_ipv6(text: str) -> bool:
    """Whether this looks like an IPv6 address, with a zone or without; the system's look-up knows the rest."""
    address, _, zone = text.partition("%")
    return ":" in address and set(address) <= _V6_CHARACTERS and (not zone or _is_host(zone))


class Address(NamedTuple):
    """One place to connect to: a host and a TCP port, or the path of a Unix socket (``port`` is None).

    ``host`` is a name or an IP literal without brackets. A path that begins with a zero byte is a name in
    Linux's abstract namespace, as the system itself has it. A named tuple, because address lists are long and
    are hashed and compared on every update.
    """

    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``, ``[v6]:port``, ``unix:path`` or ``unix-abstract:name``.

        Raises:
            AddressError: no port, a port outside 0..65535, an empty host, or an IPv6 literal without brackets.
        """
        if text.startswith("unix"):  # names may, too
            if text.startswith("unix:"):
                return cls(_unix_path(text, "path; write unix:/run/app.sock"), None)
            if text.startswith("unix-abstract:"):
                return cls("\0" + _unix_path(text, "name; write unix-abstract:name"), None)
        host, _, port = text.rpartition(":")
        if not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
            raise AddressError(f"{text!r} has no valid port; write host:port with a port of 0 to 65535")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if not _is_ipv6(host):
                raise AddressError(f"{text!r}: what is in brackets is no IPv6 address")
        elif not _is_host(host):
            if host.count(":") > 1:
                raise AddressError(f"{text!r}: put an IPv6 address in brackets, like [::1]:50051")
            raise AddressError(f"{text!r} has no valid host; write host:port, like 127.0.0.1:50051")
        return cls(host, int(port))

    def __str__(self) -> str:
        if self.port is None:
            abstract = self.host.startswith("\0")
            path = self.host[1:] if abstract else self.host
            slashes = "//" if path.startswith("//") else ""  # else they would be taken for those of a URI
            return f"{'unix-abstract' if abstract else 'unix'}:{slashes}{path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _unix_path(text: str, missing: str) -> str:
    """Return what follows the scheme, without the two slashes of a URI that has no authority."""
    path = text.partition(":")[2]
    if path.startswith("//"):
        path = path[2:]
        if path and not path.startswith("/"):
            raise AddressError(f"{text!r} has two slashes; write one, or three")
    if not path or "\0" in path:
        raise AddressError(f"{text!r} has no {missing}")
    return path


class Endpoint(Frozen):
    """One backend: the addresses that reach it, and attributes that policies use.

    Immutable. Attributes are not part of ``identity``: an update that only changes a weight keeps the
    connection. ``==`` compares everything, so that equal updates can be recognised.

    Args:
        addresses: where the backend listens, as text or Address; several if it has several (IPv4 and IPv6, say),
            in order of preference.
        weight: relative share for weighted policies; > 0.
        zone: locality, for zone-aware policies.
        hash_key: stands for this backend in consistent hashing; the first address if empty.
        metadata: anything else a policy or a person may want, as text.
        draining: it is about to stop: connections to it are kept, and calls sent there only if there is nobody else.

    Raises:
        AddressError: no address, one that cannot be read, or a weight that is not positive and finite.
    """

    __slots__ = ("addresses", "draining", "hash_key", "identity", "metadata", "weight", "zone")

    addresses: tuple[Address, ...]
    identity: Hashable  # the unordered set of addresses; the address itself when there is only one
    weight: float
    zone: str
    hash_key: str
    metadata: Mapping[str, str]
    draining: bool

    def __init__(
        self,
        addresses: str | Address | Iterable[str | Address],
        *,
        weight: float = 1.0,
        zone: str = "",
        hash_key: str = "",
        metadata: Mapping[str, str] | None = None,
        draining: bool = False,
    ) -> None:
        several = (addresses,) if isinstance(addresses, str | Address) else tuple(addresses)
        known = tuple([item if isinstance(item, Address) else Address.parse(item) for item in several])
        if not known:
            raise AddressError("an endpoint needs at least one address")
        if not 0 < weight < inf:
            raise AddressError(f"{known[0]}: weight must be positive and finite, not {weight!r}")
        set_ = self._set
        set_("addresses", known)
        set_("identity", known[0] if len(known) == 1 or len(set(known)) == 1 else frozenset(known))
        set_("weight", weight)
        set_("zone", zone)
        set_("hash_key", hash_key)
        set_("metadata", MappingProxyType(dict(metadata)) if metadata else _NOTHING)
        set_("draining", draining)

    def __reduce__(self) -> tuple[Callable[..., Endpoint], tuple[object, ...]]:
        return _rebuild, (
            self.addresses,
            self.weight,
            self.zone,
            self.hash_key,
            dict(self.metadata),
            self.draining,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Endpoint):
            return NotImplemented
        return self is other or (
            self.addresses == other.addresses
            and self.weight == other.weight
            and self.zone == other.zone
            and self.hash_key == other.hash_key
            and self.metadata == other.metadata
            and self.draining == other.draining
        )

    def __hash__(self) -> int:
        return hash(self.identity)

    def __str__(self) -> str:
        return "+".join(map(str, self.addresses))

    def __repr__(self) -> str:
        extra = f", weight={self.weight:g}" if self.weight != 1 else ""
        extra += f", zone={self.zone!r}" if self.zone else ""
        extra += ", draining" if self.draining else ""
        return f"Endpoint({self}{extra})"


def _rebuild(
    addresses: tuple[Address, ...],
    weight: float,
    zone: str,
    hash_key: str,
    metadata: dict[str, str],
    draining: bool,
) -> Endpoint:
    """Make an Endpoint of what ``pickle`` and ``copy`` kept."""
    return Endpoint(
        addresses, weight=weight, zone=zone, hash_key=hash_key, metadata=metadata, draining=draining
    )
