"""manual: the program itself says where the backends are, and changes its mind at any time."""

from __future__ import annotations

import asyncio
import difflib
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple
from urllib.parse import quote
from weakref import WeakValueDictionary

from lbkit.address import Endpoint
from lbkit.errors import TargetError
from lbkit.resolution import ACCEPTED, Resolution, Verdict
from lbkit.resolver import Addresses, Resolver, Sink
from lbkit.target import Target


class _News(NamedTuple):
    """What a channel has to know: the last answer, which one it is, and the failure since then, if any."""

    answer: Resolution | None = None
    number: int = 0
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Follower:
    """A channel that follows a handle."""

    sink: Sink
    loop: asyncio.AbstractEventLoop
    seen: _News


_NOTHING = _News()


class Manual:
    """The handle through which a program feeds its own channels.

    Like this::

        backends = Manual("greeter")
        backends.update(["127.0.0.1:50051", "127.0.0.1:50052"])
        channel = lbkit.Channel(backends.target)

    Any number of channels may follow one handle. One that starts later, or again after being idle, gets the
    last answer at once. All methods may be called from any thread.

    A name is free again when its handle and the channels that follow it are gone.

    Raises:
        ValueError: the name is empty, or another handle of that name is alive.
    """

    def __init__(self, name: str) -> None:
        if not name:
            raise ValueError("a Manual needs a name; it becomes the target manual:///name")
        self.name = name
        self._lock = Lock()
        self._news = _NOTHING
        self._followers: list[_Follower] = []
        if _handles.setdefault(name, self) is not self:
            raise ValueError(f"a Manual({name!r}) is alive already; use that one, or choose another name")

    @property
    def target(self) -> str:
        """What to give to ``lbkit.Channel``."""
        return f"manual:///{quote(self.name, safe='')}"

    def update(self, answer: Addresses) -> Verdict:
        """Replace the list of backends: addresses as text, Endpoints, or a whole Resolution.

        Channels of the event loop that this is called on have taken it when this returns. Channels of other
        loops and threads take it in the next turn of theirs; what they say to it is not waited for.

        Returns:
            The first rejection by a channel of the calling loop, else ``ACCEPTED``.

        Raises:
            AddressError: an address cannot be read; nothing changes.
            TypeError: one string was given where a list of them is meant.
        """
        resolution = _resolution(answer)
        with self._lock:
            self._news = _News(resolution, self._news.number + 1)
        return self._tell()

    def fail(self, error: Exception) -> None:
        """Report that the backends cannot be known just now; the last list stays in use."""
        with self._lock:
            self._news = self._news._replace(error=error)
        self._tell()

    def __repr__(self) -> str:
        return f"Manual({self.name!r})"

    def _tell(self) -> Verdict:
        with self._lock:
            followers = tuple(self._followers)
        here = _running_loop()
        verdict = ACCEPTED
        for follower in followers:
            if follower.loop is here:
                said = self._catch_up(follower)
                verdict = said if verdict.accepted else verdict
            else:
                with suppress(RuntimeError):  # a loop that was closed under its channel
                    follower.loop.call_soon_threadsafe(self._catch_up, follower)
        return verdict

    def _catch_up(self, follower: _Follower) -> Verdict:
        """Give a follower the newest news, on its loop. What came in between is of no interest."""
        news = self._news
        verdict = ACCEPTED
        if follower in self._followers and follower.seen is not news:
            seen, follower.seen = follower.seen, news
            if news.answer is not None and news.number != seen.number:
                verdict = follower.sink.update(news.answer)
            if news.error is not None:
                follower.sink.fail(news.error)
        return verdict

    async def follow(self, sink: Sink) -> None:
        """Keep a channel up to date until cancelled. For ``ManualResolver``."""
        follower = _Follower(sink, asyncio.get_running_loop(), _NOTHING)
        with self._lock:
            self._followers.append(follower)
        try:
            self._catch_up(follower)
            await follower.loop.create_future()  # never done: what is left to wait for is the cancellation
        finally:
            with self._lock:
                self._followers.remove(follower)


_handles: WeakValueDictionary[str, Manual] = WeakValueDictionary()


class ManualResolver(Resolver):
    """Serves ``manual:///name``: what the program says through the ``Manual`` handle of that name.

    Raises:
        TargetError: no handle of that name is alive.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        manual = _handles.get(target.path)
        if manual is None:
            known = sorted(_handles)
            near = difflib.get_close_matches(target.path, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TargetError(
                f"target {target.text!r}: there is no Manual({target.path!r}).{hint} Make it first, and keep it: "
                f"backends = Manual({target.path!r}), from lbkit_resolvers.manual"
            )
        self._manual = manual

    async def run(self, sink: Sink) -> None:
        """Pass on what the handle is told."""
        await self._manual.follow(sink)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _resolution(answer: Addresses) -> Resolution:
    if isinstance(answer, Resolution):
        return answer
    if isinstance(answer, str):
        raise TypeError(f"a list of addresses is needed, not the one string {answer!r}")
    return Resolution(tuple(item if isinstance(item, Endpoint) else Endpoint(item) for item in answer))
