"""Names that the machine knows by itself: those of its hosts file, and localhost.

DNS libraries do not look there, but everybody expects ``localhost`` and ``docker --add-host`` to work.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from lbkit_resolvers.static import ip_version
from lbkit_resolvers.watched import Stamp, stamp_of

_LOOPBACK = ("127.0.0.1", "::1")


class HostsFile:
    """The names of a hosts file, read again when it has changed.

    Args:
        path: where it is; a missing one has no names.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._stamp: Stamp | None = None
        self._names: dict[str, list[str]] = {}

    async def addresses(self, name: str, versions: tuple[int, ...]) -> list[str]:
        """Return the addresses of those IP versions; empty if it is for DNS to say.

        ``localhost`` and what ends in ``.localhost`` never is (RFC 6761 6.3).
        """
        try:
            stamp = stamp_of(self.path)
            if stamp != self._stamp:
                # Large files exist, with every advertiser in them: not on the event loop.
                self._names = await asyncio.to_thread(_read, self.path) if stamp else {}
                self._stamp = stamp
        except OSError:  # not ours to read: as if it were not there
            self._names, self._stamp = {}, None
        name = name.lower().removesuffix(".")
        found = [each for each in self._names.get(name, ()) if ip_version(each) in versions]
        if not found and (name == "localhost" or name.endswith(".localhost")):
            return [each for each in _LOOPBACK if ip_version(each) in versions]
        return found


def _read(path: str) -> dict[str, list[str]]:
    """Return all addresses of each name; lines that make no sense are passed over, as the system does."""
    names: dict[str, list[str]] = {}
    for line in Path(path).read_text("utf-8", "replace").splitlines():
        address, *rest = line.partition("#")[0].split() or [""]
        if ip_version(address):
            for name in rest:
                known = names.setdefault(name.lower(), [])
                if address not in known:
                    known.append(address)
    return names
