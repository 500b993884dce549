"""env: the addresses stand in an environment variable."""

from __future__ import annotations

import os

import lbkit


class EnvResolver(lbkit.Resolver):
    """Serves ``env:///GREETER_BACKENDS``: addresses between commas or blanks, in that environment variable.

    Raises:
        TargetError: the target names no variable.
    """

    def __init__(self, target: lbkit.Target) -> None:
        super().__init__(target)
        if not target.path:
            raise lbkit.TargetError(f"target {target.text!r} names no variable; write env:///NAME")

    async def run(self, sink: lbkit.Sink) -> None:
        """Read the variable now, and once more whenever a connection breaks."""
        while True:
            addresses = os.environ.get(self.target.path, "").replace(",", " ").split()
            if not addresses:
                raise lbkit.ResolverError(f"the environment variable {self.target.path} is empty or not set")
            endpoints = dict.fromkeys(map(lbkit.Endpoint, addresses))
            sink.update(lbkit.Resolution(tuple(endpoints)))
            await sink.wanted()
