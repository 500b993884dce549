"""Resolvers that do what a test says, under a scheme of their own, and files of endpoints."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import lbkit
from lbkit.resolver import registry


class Scripted(lbkit.Resolver):
    """Does what a test says."""

    def __init__(self, script: Callable[[lbkit.Sink], Awaitable[None]]) -> None:
        super().__init__(lbkit.Target.parse("scripted:///x", ("scripted",)))
        self._script = script

    async def run(self, sink: lbkit.Sink) -> None:
        await self._script(sink)


@contextmanager
def scheme(name: str, script: Callable[[lbkit.Sink], Awaitable[None]]) -> Generator[None, None, None]:
    """A scheme for the time of a block."""
    registry.register(name, lambda target: Scripted(script))
    try:
        yield
    finally:
        del registry._registered[name]


def replace(file: Path, document: object) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(document))
    fresh.replace(file)
