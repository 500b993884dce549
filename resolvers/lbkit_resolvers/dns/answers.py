"""What name servers say, for who asks them and for who is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeAlias

from lbkit.address import Endpoint
from lbkit.errors import ResolverError


class NoSuchNameError(ResolverError):
    """The name servers say that there is no such name, which asking again will not soon change."""


class Found(NamedTuple):
    """What a name server said.

    Attributes:
        records: the data of the records as text; empty if the name has none of that kind.
        ttl_s: seconds that this holds, those of the shortest-lived record on the way to it.
        server: who said so, ``host:port``.
    """

    records: tuple[str, ...]
    ttl_s: float
    server: str = ""


class Listed(NamedTuple):
    """The backends that come of it.

    Attributes:
        endpoints: all of them.
        ttl_s: seconds that this holds.
        server: who said so, ``host:port``.
    """

    endpoints: tuple[Endpoint, ...]
    ttl_s: float
    server: str


# Looks up the records of one kind of a name.
Ask: TypeAlias = Callable[[str, str], Awaitable[Found]]
