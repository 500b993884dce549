"""In which order and how far apart several addresses of one thing are tried (Happy Eyeballs, gRFC A61)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from lbkit.address import Address

ATTEMPT_DELAY_S = 0.25  # from one attempt to the next while none has failed or connected (RFC 8305 section 5)


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """Return each address once, the families in turn, beginning with the family of the first.

    So a host whose IPv6 (or IPv4) leads nowhere costs one delay, not one for each of its addresses. Within a
    family the order stays. Host names, of which nothing is known before they are looked up, and Unix sockets are
    families of their own.
    """
    families: dict[str, list[Address]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(_family(address), []).append(address)
    if len(families) == 1:
        return families.popitem()[1]
    return [address for row in zip_longest(*families.values()) for address in row if address is not None]


def _family(address: Address) -> str:
    if address.port is None:
        return "unix"
    if ":" in address.host:
        return "IPv6"
    return "IPv4" if address.host.replace(".", "").isdecimal() else "name"
