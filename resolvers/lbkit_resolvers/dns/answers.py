"""What name servers say, for who asks them and for who is told."""

from __future__ import annotations

from typing import NamedTuple

from lbkit.errors import ResolverError


class NoSuchNameError(ResolverError):
    """The name servers say that there is no such name, which asking again will not soon change."""


class Found(NamedTuple):
    """What a name server said.

    Attributes:
        records: the data of the records as text; empty if the name has none of that kind.
        ttl_s: seconds that this holds, those of the shortest-lived record on the way to it.
    """

    records: tuple[str, ...]
    ttl_s: float
