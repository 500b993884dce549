"""file: the backends stand in a JSON file, which may change at any time."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from lbkit.address import Endpoint
from lbkit.errors import ResolverError, TargetError
from lbkit.resolution import Resolution
from lbkit.resolver import Resolver, Sink
from lbkit.target import Target
from lbkit_resolvers.file.format import MAX_BYTES, FileFormatError, parse
from lbkit_resolvers.parameters import seconds
from lbkit_resolvers.watched import Stamp, stamp_of

_SECOND_LOOKS = 3  # at something bad, which may be half written
_SECOND_LOOK_S = 0.1  # between those


class _Look(NamedTuple):
    """What one look at the file showed.

    Attributes:
        stamp: what can be told without reading; None if there is no file.
        settled: the content was read twice under that stamp: a write just behind the first reading may have left
            no trace in it, as the system's clock for files ticks every few milliseconds.
        digest: of the content, good or bad.
        endpoints: what it says, if it is good.
        problem: else what is wrong with it.
    """

    stamp: Stamp | None = None
    settled: bool = False
    digest: bytes = b""
    endpoints: tuple[Endpoint, ...] = ()
    problem: str = ""


class FileResolver(Resolver):
    """Serves ``file:///absolute/path.json`` and ``file:relative/path.json``.

    The file holds ``{"endpoints": [{"address": "10.0.0.1:50051", "weight": 2, "zone": "eu", "metadata": {}}]}``, with
    ``"addresses": [...]`` instead for a backend that has several, or just ``["10.0.0.1:50051", ...]``.

    It is looked at every second (``poll=1s``), by its path: writing it, replacing it by a rename and swapping
    the symbolic link of a Kubernetes ConfigMap all work. What is bad or missing changes nothing but the log.

    Raises:
        TargetError: the target names no file.
    """

    parameters = frozenset({"poll"})

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        if target.authority or not target.path:
            raise TargetError(
                f"target {target.text!r} names no file; write file:///absolute/path.json or file:path.json"
            )
        self._path = target.file_path
        self._poll_s = seconds(target, "poll", target.parameters().get("poll", "1s"), minimum=0.1)

    @property
    def authority(self) -> str:
        """Nothing that servers need to know."""
        return "localhost"

    async def run(self, sink: Sink) -> None:
        """Look at the file again and again."""
        seen = _Look()
        published = b""
        complaint = ""
        while True:
            seen = await self._look(seen)
            for _ in range(_SECOND_LOOKS):
                if not seen.problem or seen.problem == complaint:
                    break
                await asyncio.sleep(_SECOND_LOOK_S)
                seen = await self._look(seen)
            if seen.problem and seen.problem != complaint:
                sink.fail(ResolverError(f"{self._path}: {seen.problem}"))
            elif not seen.problem and (complaint or seen.digest != published):  # good again is news, too
                sink.update(Resolution(seen.endpoints))  # if rejected: asking again would change nothing
                published = seen.digest
            complaint = seen.problem
            await asyncio.sleep(self._poll_s)

    async def _look(self, last: _Look) -> _Look:
        # In a thread even when it is a glance: the file may be on a network, and a long list takes its time to read.
        return await asyncio.to_thread(_look, self._path, last)


def _look(path: str, last: _Look) -> _Look:
    try:
        stamp = stamp_of(path)
        if stamp == last.stamp and last.settled:
            return last
        settled = stamp == last.stamp
        data = _read(path, stamp)
    except (OSError, ResolverError) as error:
        return _Look(problem=getattr(error, "strerror", None) or str(error))
    digest = sha256(data).digest()
    if digest == last.digest:
        return last._replace(stamp=stamp, settled=settled)
    try:
        return _Look(stamp, settled, digest, parse(data))
    except FileFormatError as error:
        return _Look(stamp, settled, digest, problem=str(error))


def _read(path: str, stamp: Stamp | None) -> bytes:
    """Return the content.

    Raises:
        OSError, ResolverError: there is none that can be read.
    """
    if stamp is None:
        raise ResolverError("there is no such file; it is read as soon as there is")
    if not Path(path).is_file():  # opening a pipe would wait for its writer
        raise ResolverError("this is no regular file")
    if stamp.size > MAX_BYTES:
        raise ResolverError(f"{stamp.size} bytes are more than the {MAX_BYTES} that lbkit reads")
    return Path(path).read_bytes()
