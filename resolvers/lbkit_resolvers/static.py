"""static: the addresses stand in the target."""

from __future__ import annotations

from typing import NoReturn

from lbkit.address import Endpoint
from lbkit.errors import AddressError, TargetError
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver, Sink, Target


class StaticResolver(Resolver):
    """Serves ``static:///10.0.0.1:50051,[::1]:50051``: one answer that never changes.

    Raises:
        TargetError: the target names no address, has an empty item, or asks for more than addresses.
        AddressError: an item is not an address.
    """

    parameters = None  # refused here, with a better text

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        if target.authority:
            self._refuse(f"takes three slashes: static:///{target.authority}")
        if target.query:
            self._refuse(f"takes no parameters yet, not even a weight per address: {target.query!r}")
        if not target.path:
            self._refuse("names no address; write static:///host:port,host:port")
        items = target.path.split(",")
        if "" in items:
            self._refuse(f"has nothing between two commas, or at the end, of {target.path!r}")
        try:
            self.resolution = Resolution(tuple(map(Endpoint, items)))
        except AddressError as error:
            raise AddressError(f"target {target.text!r}: {error}") from None

    def _refuse(self, why: str) -> NoReturn:
        raise TargetError(f"target {self.target.text!r} {why}")

    async def run(self, sink: Sink) -> None:
        """Give the one answer."""
        sink.update(self.resolution)
