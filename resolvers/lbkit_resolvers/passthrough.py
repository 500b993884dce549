"""passthrough: the text goes to the connector as it is, which has the operating system look the name up."""

from __future__ import annotations

from lbkit.address import Address, Endpoint
from lbkit.errors import AddressError, TargetError
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver, Sink, authority_of
from lbkit.target import Target


class PassthroughResolver(Resolver):
    """Serves ``passthrough:///host:port``: one endpoint, whose name is looked up at each connection attempt.

    Raises:
        TargetError: the target has an authority (two slashes instead of three).
        AddressError: what follows is not an address.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        if target.authority:
            raise TargetError(
                f"target {target.text!r} takes three slashes: passthrough:///{target.authority}"
            )
        try:
            self.address = Address.parse(target.path)
        except AddressError as error:
            raise AddressError(f"target {target.text!r}: {error}") from None

    @property
    def authority(self) -> str:
        """The address; a Unix socket's is ``localhost``."""
        return authority_of(self.address)

    async def run(self, sink: Sink) -> None:
        """Give the one answer."""
        sink.update(Resolution((Endpoint(self.address),)))
