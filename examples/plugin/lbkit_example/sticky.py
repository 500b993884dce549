"""sticky: the calls of one user go to one backend."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import lbkit


class Sticky(lbkit.EndpointBalancer):
    """Sends calls whose metadata have the same value of a key to the same backend, for as long as it is READY.

    Config: ``{"key": "user"}`` names the key, ``user`` by default. A backend that comes or goes moves only the
    users that it gets or had (rendezvous hashing).
    """

    name = "sticky"

    def make_picker(self, ready: Sequence[lbkit.Subchannel]) -> lbkit.Picker:
        """Close over the READY backends."""
        return _StickyPicker(self.config.get("key", "user"), ready)


class _StickyPicker(lbkit.Picker):
    def __init__(self, key: str, ready: Sequence[lbkit.Subchannel]) -> None:
        self._key = key
        self._ready = [(str(subchannel.endpoint).encode(), subchannel) for subchannel in ready]

    def pick(self, call: lbkit.CallInfo) -> lbkit.Picked:
        """Take the backend whose name and the user's have the largest hash together."""
        user = call.metadata.get(self._key) or ""
        user = user if isinstance(user, bytes) else user.encode()
        _, chosen = max(self._ready, key=lambda named: blake2b(named[0], key=user[:64]).digest())
        return chosen.picked
