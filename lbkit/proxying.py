"""What a channel does differently when there is a proxy (gRFC A1)."""

from __future__ import annotations

import logging
import os

from lbkit.address import Address, Endpoint
from lbkit.errors import AddressError
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver, Sink
from lbkit.target import DEFAULT_SCHEME
from lbkit.transport.connector import Connector
from lbkit.transport.proxy import Proxy, ProxyConnector, ProxyRules

_HTTPS_PORT = 443  # of dns targets, as the naming document has it

_log = logging.getLogger("lbkit.channel")


class Unresolved(Resolver):
    """Gives the name of a ``dns`` target itself as the only address: the proxy looks it up.

    Behind a proxy a program often cannot: the look-up is what the proxy is there for.
    """

    def __init__(self, instead_of: Resolver, address: Address) -> None:
        super().__init__(instead_of.target)
        self._authority = instead_of.authority
        self._address = address

    @property
    def authority(self) -> str:
        """What it would be without the proxy."""
        return self._authority

    async def run(self, sink: Sink) -> None:
        """Give the one answer."""
        sink.update(Resolution((Endpoint(self._address),)))


def through_proxy(
    resolver: Resolver, connector: Connector, proxy: str | None, *, by_name: bool
) -> tuple[Resolver, Connector]:
    """Return what to resolve and connect with. Called by the channel's constructor.

    Args:
        resolver: the channel's, as it would be without a proxy.
        connector: the same.
        proxy: the proxy for everything; None for what the environment says, which may be that there is none.
        by_name: whether the proxy may look the name of a ``dns`` target up, instead of the resolver.

    Raises:
        ValueError: ``proxy`` cannot be read.
        TypeError: it is no text.
    """
    if proxy is not None:
        if not isinstance(proxy, str):
            raise TypeError(
                f"proxy={proxy!r}: it takes http://host:port, None for the environment's, or False"
            )
        rules = ProxyRules(Proxy.parse(proxy))
    else:
        try:
            found = ProxyRules.of_environment(os.environ)
        except ValueError as error:  # the environment is not the program's to answer for
            _log.warning("no proxy is used: %s", error)
            found = None
        if found is None:
            return resolver, connector
        rules = found
    name = _name_of(resolver) if by_name else None
    if name is None:
        return resolver, ProxyConnector(connector, rules)
    if rules.proxy_for(name) is None:  # the exceptions are about the name, not about what it stands for
        return resolver, connector
    return Unresolved(resolver, name), ProxyConnector(connector, rules)


def _name_of(resolver: Resolver) -> Address | None:
    """Return what a proxy is to look up instead of a ``dns`` target; None for others, and those with parameters."""
    target = resolver.target
    if target.scheme != DEFAULT_SCHEME or target.query:
        return None
    if target.path.count(":") > 1 and not target.path.startswith("["):
        return Address(target.path, _HTTPS_PORT)
    for text in (target.path, f"{target.path}:{_HTTPS_PORT}"):
        try:
            return Address.parse(text)
        except AddressError:
            continue
    return None
