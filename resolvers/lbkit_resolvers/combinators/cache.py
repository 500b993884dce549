"""last-good: the last list that was good is kept in a file, for a start while the registry is down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from lbkit.resolution import Resolution, Verdict
from lbkit.resolver import Sink
from lbkit_resolvers.combinators.nested import Combinator, Inner, Run, Source, changed, checked
from lbkit_resolvers.combinators.store import FileStore, Saved, StoreError

SETTLE_S = 5.0  # between two writings
CONFIRM_S = 600.0  # an unchanged list is written again this late, so that its age tells when it was last good


class Store(Protocol):
    """Where the list is kept."""

    async def load(self) -> Saved | None:
        """Return what is kept, or None.

        Raises:
            StoreError: that cannot be said.
        """
        ...

    async def save(self, saved: Saved) -> None:
        """Keep this instead.

        Raises:
            StoreError: it cannot be kept.
        """
        ...


class LastGood(Combinator):
    """Remembers the last good list over restarts: ``LastGood(a, file="/var/lib/app/greeter.json")``.

    The file is read when the resolution begins, and its list published if the inner resolver fails, or has said nothing
    for ``wait_s``; what that says later replaces it. It is written when the list has changed (in a thread, by way of a
    new file and a rename, at most every 5 s), so processes may share it. An answer without endpoints is published, and
    not kept. Attributes and call selectors are not kept either. A file that is damaged, of another target or another
    version is reported and left aside; so is one that cannot be written.

    Args:
        of: whose list.
        file: where to keep it; its directory must exist. It gets mode 0600.
        directory: instead of ``file``: a directory, in which each target has a file of its own.
        wait_s: seconds for which the list of the file is held back.
        max_age_s: a list that was good longer ago than this is not used.
        now: seconds since 1970.

    Raises:
        ValueError: neither or both of ``file`` and ``directory``, or a negative time.
    """

    scheme = "last-good"

    def __init__(
        self,
        of: Source,
        *,
        file: str | Path = "",
        directory: str | Path = "",
        wait_s: float = 2.0,
        max_age_s: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(of)
        if bool(file) == bool(directory):
            raise ValueError("one of file and directory is needed")
        self.wait_s = checked("wait_s", wait_s)
        self.max_age_s = None if max_age_s is None else checked("max_age_s", max_age_s)
        self.now = now
        inner = str(self.parts[0].target)
        if directory:
            file = Path(directory, f"{sha256(inner.encode()).hexdigest()[:32]}.json")
        self.store: Store = FileStore(str(file), inner)

    async def run(self, sink: Sink) -> None:
        """Pass answers on, and keep them."""
        await _Run(self, sink).follow()


class _Run(Run):
    def __init__(self, owner: LastGood, sink: Sink) -> None:
        super().__init__(owner, sink)
        self._owner = owner
        self._kept: Saved | None = None  # what the store holds, as far as this run knows
        self._looked = False  # into the store; or for too long
        self._patient = True  # until the inner resolver has failed, or been silent for too long
        self._error: Exception | None = None  # of the inner resolver, not reported yet
        self._good: Resolution | None = None  # the last answer worth keeping
        self._news = asyncio.Event()
        self._complaint = ""

    async def follow(self) -> None:
        """Run the inner resolver, and look after the store beside it."""
        keeping = asyncio.get_running_loop().create_task(self._keep(), context=Context())
        self.wake_at(self.sink.clock.time() + self._owner.wait_s)
        try:
            await super().follow()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    def update(self, part: Inner, resolution: Resolution) -> Verdict:
        self.wake_at(None)
        self._error = None
        if resolution.endpoints:
            self._good = resolution
            self._news.set()
        return self.publish(resolution)

    def fail(self, part: Inner, error: Exception) -> None:
        self._error = error
        self._patient = False
        self._help()

    def due(self) -> None:
        """Wait no longer for the inner resolver; nor, if that has failed, for the disk."""
        self._patient = False
        self._looked = True
        self._help()

    def _help(self) -> None:
        """Publish the kept list if it is needed, and report what went wrong."""
        if self.published is None and not self._patient:
            if not self._looked:
                return  # it may help in a moment
            if self._kept is not None:
                self.publish(self._dated(self._kept))
        if self._error is not None:
            error, self._error = self._error, None
            self.report(error)

    def _dated(self, kept: Saved) -> Resolution:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(kept.at))
        source = f", from {kept.answer.source}" if kept.answer.source else ""
        age = age_text(self._owner.now() - kept.at)
        return changed(kept.answer, kept.answer.endpoints, f"last good of {when}, {age} old{source}")

    async def _keep(self) -> None:
        await self._look()
        self._looked = True
        self._help()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(CONFIRM_S):
                    await self._news.wait()
            self._news.clear()
            if self._worth_saving():
                await self._save()
                await asyncio.sleep(SETTLE_S)

    async def _look(self) -> None:
        try:
            kept = await self._owner.store.load()
        except StoreError as error:
            self.log(error)
            return
        if kept is not None:
            age = self._owner.now() - kept.at
            most = self._owner.max_age_s
            if most is not None and age > most:
                self.log(f"the last good list is {age_text(age)} old, more than {age_text(most)}: not used")
            else:
                self._kept = kept

    def _worth_saving(self) -> bool:
        """Whether the store lacks the last good list, or does not know that it still is good."""
        if self._good is None:
            return False
        kept = self._kept
        # What the store cannot hold does not make a difference.
        if kept is None or kept.answer != Resolution(self._good.endpoints, self._good.service_config):
            return True
        return self.parts[0].error is None and not 0 <= self._owner.now() - kept.at < CONFIRM_S

    async def _save(self) -> None:
        good = self._good
        assert good is not None, "there is something worth saving"
        saved = Saved(Resolution(good.endpoints, good.service_config, source=good.source), self._owner.now())
        try:
            await self._owner.store.save(saved)
        except StoreError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self.log(error)
        else:
            self._complaint = ""
            self._kept = saved


def age_text(seconds: float) -> str:
    """Return an age in its largest whole unit; one of the future is none."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
