"""static, ipv4 and ipv6: the addresses stand in the target."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NoReturn

from lbkit.address import Address, Endpoint
from lbkit.errors import AddressError, TargetError
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver, Sink, authority_of
from lbkit.suggest import did_you_mean
from lbkit.target import Target

_DEFAULT_PORT = 443  # the naming document's, as for dns
_ITEM_PARAMETERS = ("weight", "zone")


class _FixedResolver(Resolver):
    """One answer that never changes, from a list in the target."""

    form: ClassVar[str]  # how it is written

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        if target.authority:
            self._refuse(f"takes three slashes: {target.scheme}:///{target.authority}")
        if not target.path:
            self._refuse(f"names no address; write {self.form}")
        items = self._items()
        if any(not address for address, _ in items):
            self._refuse(f"has nothing between two commas, or at the end, of {target.path!r}")
        try:
            self.resolution = Resolution(tuple(self._endpoint(*item) for item in items))
        except AddressError as error:
            raise AddressError(f"target {target.text!r}: {error}") from None

    @property
    def authority(self) -> str:
        """The first address."""
        return authority_of(self.resolution.endpoints[0].addresses[0])

    def _items(self) -> list[tuple[str, str]]:
        """Return each item's address, and what stands behind its question mark."""
        return [(item, "") for item in self.target.path.split(",")]

    @abstractmethod
    def _endpoint(self, text: str, query: str) -> Endpoint:
        """Read one item."""

    def _refuse(self, why: str) -> NoReturn:
        raise TargetError(f"target {self.target.text!r} {why}")

    async def run(self, sink: Sink) -> None:
        """Give the one answer."""
        sink.update(self.resolution)


class StaticResolver(_FixedResolver):
    """Serves ``static:///10.0.0.1:50051?weight=3&zone=eu,[::1]:50051``.

    A weight or zone belongs to the one address that it stands behind.

    Raises:
        TargetError: the target names no address, has an empty item, or a parameter that there is not.
        AddressError: an item is not an address, or its weight is not positive and finite.
    """

    parameters = None  # each item has its own
    form = "static:///host:port,host:port"

    def _items(self) -> list[tuple[str, str]]:
        # The target ends at the first question mark: behind it come the first parameters, and what is left of the
        # items, which nobody has decoded yet.
        from urllib.parse import unquote  # 3 ms to import, and few have parameters

        items = super()._items()
        query, *rest = self.target.query.split(",")
        items[-1] = (items[-1][0], query)
        for item in rest:
            address, _, query = item.partition("?")
            items.append((unquote(address), query))
        return items

    def _endpoint(self, text: str, query: str) -> Endpoint:
        given = self.target._replace(query=query).parameters() if query else {}
        for name in given:
            if name not in _ITEM_PARAMETERS:
                self._refuse(
                    f"gives {text} the parameter {name!r}.{did_you_mean(name, _ITEM_PARAMETERS)} "
                    f"Known: {', '.join(_ITEM_PARAMETERS)}"
                )
        try:
            weight = float(given.get("weight", "1"))
        except ValueError:
            self._refuse(f"gives {text} weight={given['weight']}, which is no number")
        return Endpoint(text, weight=weight, zone=given.get("zone", ""))


class Ipv4Resolver(_FixedResolver):
    """Serves ``ipv4:10.0.0.1:50051,10.0.0.2``: literals, with 443 where no port is given.

    Raises:
        TargetError: the target names no address, or has an empty item.
        AddressError: an item is not an IPv4 literal with or without a port.
    """

    form = "ipv4:10.0.0.1:50051,10.0.0.2:50051"

    def _endpoint(self, text: str, query: str) -> Endpoint:
        host, colon, _ = text.partition(":")
        address = Address.parse(text if colon else f"{text}:{_DEFAULT_PORT}")
        if ip_version(address.host) != 4:
            raise AddressError(f"{host!r} is no IPv4 address; for names use dns:///{text}")
        return Endpoint(address)


class Ipv6Resolver(_FixedResolver):
    """Serves ``ipv6:[2001:db8::1]:50051,[2001:db8::2],2001:db8::3``: literals, with 443 where no port is given.

    Raises:
        TargetError: the target names no address, or has an empty item.
        AddressError: an item is not an IPv6 literal with or without a port.
    """

    form = "ipv6:[::1]:50051,[::2]:50051"

    def _endpoint(self, text: str, query: str) -> Endpoint:
        bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        if ip_version(bare) == 6:
            return Endpoint(Address(bare, _DEFAULT_PORT))
        address = Address.parse(text)
        if ip_version(address.host) != 6:
            raise AddressError(f"{address.host!r} is no IPv6 address; for names use dns:///{text}")
        return Endpoint(address)


def ip_version(text: str) -> int:
    """Return 4 or 6 for an IP literal, 0 for anything else."""
    from ipaddress import ip_address  # 5 ms to import, for who asks only

    try:
        return ip_address(text).version
    except ValueError:
        return 0
