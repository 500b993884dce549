"""Runs a resolver without a channel, for ``lbkit resolve`` and ``lbkit watch``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import click

from lbkit.errors import Error
from lbkit.masking import masked
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolver import Resolver, make_resolver
from lbkit.resolving import ResolverHost


class Follower(ResolverHost):
    """The sink of a resolver that nobody calls through.

    Args:
        resolver: what to run.
        update: takes each answer that is not the one before.
        fail: takes each error, whether there is an answer that stays in use or not.
        again: takes the answer that is still the same after an error.

    Attributes:
        ended: set when the resolver has said all that it will ever say.
    """

    def __init__(
        self,
        resolver: Resolver,
        update: Callable[[Resolution], None],
        fail: Callable[[Exception], None],
        again: Callable[[Resolution], None] = lambda _: None,
    ) -> None:
        def deliver(resolution: Resolution) -> Verdict:
            update(resolution)
            return ACCEPTED

        super().__init__(
            resolver,
            clock=asyncio.get_running_loop(),
            random=random.Random(),
            update=deliver,
            fail=fail,
        )
        self.ended = asyncio.Event()
        self._again = again

    def update(self, resolution: Resolution) -> Verdict:
        """Hand on an answer; one that is equal to the one before, only after an error."""
        generation = self.latest.generation if self.latest is not None else 0
        failed = self.error is not None
        verdict = super().update(resolution)
        if failed and self.latest is not None and self.latest.generation == generation:
            self._again(self.latest)
        return verdict

    def _failed(self, error: Exception) -> None:
        # The log of a channel tells of a new error once, and its calls fail with it; here is one place for each.
        self.error = error
        self._report(error)

    async def _run(self) -> None:
        await super()._run()
        self.ended.set()


@asynccontextmanager
async def following(
    resolver: Resolver,
    update: Callable[[Resolution], None],
    fail: Callable[[Exception], None],
    again: Callable[[Resolution], None] = lambda _: None,
) -> AsyncIterator[Follower]:
    """Run a resolver for as long as the block lasts; see ``Follower``."""
    follower = Follower(resolver, update, fail, again)
    follower.start()
    try:
        yield follower
    finally:
        await follower.close()


def resolver_of(target: str) -> Resolver:
    """Make the resolver of a target.

    Raises:
        UsageError: there is none, the target cannot be understood, or a package is missing.
    """
    try:
        return make_resolver(target)
    except (Error, ImportError) as error:
        raise click.UsageError(masked(str(error))) from None


def text_of(error: Exception) -> str:
    """Return an error as a text."""
    return str(error) or type(error).__name__
