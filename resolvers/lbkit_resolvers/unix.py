"""unix and unix-abstract: one Unix socket of this machine."""

from __future__ import annotations

from lbkit.address import Address, Endpoint
from lbkit.errors import AddressError, TargetError
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver, Sink
from lbkit.target import Target


class UnixResolver(Resolver):
    """Serves ``unix:relative/path``, ``unix:/absolute/path`` and ``unix:///absolute/path``.

    Raises:
        TargetError: there is no path, or two slashes where there must be one or three.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        if target.authority:
            rest = f"{target.authority}/{target.path}".removesuffix("/")
            raise TargetError(
                f"target {target.text!r} has two slashes; write {target.scheme}:{rest}, or {target.scheme}:///{rest}"
            )
        try:
            self.address = self.address_of(target)
        except AddressError as error:
            raise TargetError(f"target {target.text!r}: {error}") from None

    @staticmethod
    def address_of(target: Target) -> Address:
        """Read the path.

        Raises:
            AddressError: there is none.
        """
        return Address.parse(f"unix:{target.file_path}")

    @property
    def authority(self) -> str:
        """What gRPC sends over every Unix socket."""
        return "localhost"

    async def run(self, sink: Sink) -> None:
        """Give the one answer."""
        sink.update(Resolution((Endpoint(self.address),)))


class UnixAbstractResolver(UnixResolver):
    """Serves ``unix-abstract:name``: a socket of Linux that has a name and no file.

    Raises:
        TargetError: there is no name, or two slashes where there must be none or three.
    """

    @staticmethod
    def address_of(target: Target) -> Address:
        """Read the name.

        Raises:
            AddressError: there is none.
        """
        return Address.parse(f"unix-abstract:{target.file_path}")
