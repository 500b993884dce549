"""The service config in TXT records (gRFC A2): looked up beside the addresses, and never in their way."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from lbkit.errors import ResolverError
from lbkit_resolvers.dns.answers import Ask, NoSuchNameError
from lbkit_resolvers.records import shown

T = TypeVar("T")

_log = logging.getLogger("lbkit.resolver")


class TextConfig:
    """Looks up the service config of one host, and remembers the last good one.

    Args:
        host: whose addresses are looked up; the records are those of ``_grpc_config.<host>``.
        hostname: of this machine.
        grace_s: seconds that the look-up gets once there are addresses.
    """

    def __init__(self, host: str, hostname: str, grace_s: float) -> None:
        self.name = f"_grpc_config.{host}"
        self._hostname = hostname
        self._grace_s = grace_s
        self._draw = 0  # 1 to 100, once for all: a client stays on its side of a percentage
        self._last: Mapping[str, Any] | None = None
        self._complaint = ""

    async def beside(
        self, addresses: Awaitable[T], ask: Ask, source: random.Random
    ) -> tuple[T, Mapping[str, Any] | None]:
        """Return what ``addresses`` gives, and the service config; the last good one where that cannot be had.

        Raises:
            Exception: what ``addresses`` raises, and nothing else.
        """
        self._draw = self._draw or source.randint(1, 100)
        task = asyncio.ensure_future(self._look_up(ask))
        try:
            found = await addresses
            await asyncio.wait({task}, timeout=self._grace_s)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._complain(
            f"no answer, {self._grace_s:g} s after the addresses" if task.cancelled() else task.result()
        )
        return found, self._last

    async def _look_up(self, ask: Ask) -> str:
        """Take what the records say; return what is wrong with them."""
        from lbkit_resolvers.dns.choices import choose  # json, and all that reads service configs

        try:
            records = (await ask(self.name, "TXT")).records
            self._last = choose(records, self._hostname, self._draw)
        except NoSuchNameError:  # there is none, which is how it is with most names
            self._last = None
        except ResolverError as error:
            return str(error)
        return ""

    def _complain(self, complaint: str) -> None:
        """Log it once, as it may stay so for ever."""
        if complaint and complaint != self._complaint:
            kept = "the last good one stays" if self._last is not None else "going on without one"
            _log.warning("service config of TXT %s: %s; %s", self.name, shown(complaint, 300), kept)
        self._complaint = complaint
