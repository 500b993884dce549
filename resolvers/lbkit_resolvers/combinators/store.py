"""A file that keeps an answer: its format, and how it is written so that readers never see half of one."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from lbkit.address import Endpoint
from lbkit.errors import AddressError, ResolverError
from lbkit.resolution import Resolution
from lbkit_resolvers.records import MAX_ENDPOINTS, shown

FORMAT = "lbkit-last-good"
VERSION = 1
MAX_BYTES = 16 * 1024 * 1024


class StoreError(ResolverError):
    """The file cannot be read or written, or holds something else; the text says what."""


class Saved(NamedTuple):
    """What a file holds.

    Attributes:
        answer: endpoints, service config and source; attributes and call selectors are not kept.
        at: when it was last known to be good, in seconds since 1970.
    """

    answer: Resolution
    at: float


class FileStore:
    """Keeps the answer of one target in a file.

    Args:
        path: the file; its directory must exist.
        target: whose answer; that of another is not taken.
    """

    def __init__(self, path: str, target: str) -> None:
        self.path = path
        self._target = target

    async def load(self) -> Saved | None:
        """Read it, in a thread: the disk may be slow.

        Returns:
            None if there is no such file.

        Raises:
            StoreError: it cannot be read, or makes no sense.
        """
        return await asyncio.to_thread(self._load)

    async def save(self, saved: Saved) -> None:
        """Replace it, in a thread.

        Raises:
            StoreError: it cannot be written.
        """
        await asyncio.to_thread(self._save, saved)

    def _load(self) -> Saved | None:
        try:
            data = _read(self.path)
            return None if data is None else decode(data, self._target)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error.strerror or error}") from None
        except StoreError as error:
            raise StoreError(f"{self.path} is not used: {error}") from None

    def _save(self, saved: Saved) -> None:
        try:
            _replace(Path(self.path), encode(saved, self._target))
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error.strerror or error}") from None
        except StoreError as error:
            raise StoreError(f"{self.path} is not written: {error}") from None


def _read(path: str) -> bytes | None:
    try:
        # Opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(descriptor)
        if not S_ISREG(found.st_mode):
            raise StoreError("this is no regular file")
        if found.st_size > MAX_BYTES:
            raise StoreError(f"{found.st_size} bytes are more than the {MAX_BYTES} that lbkit reads")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes) -> None:
    """Write a new file beside the old one and rename it: who reads meanwhile, or after a crash, sees one of the two."""
    import tempfile  # 5 ms to import, and few keep a file

    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:  # whatever it was: no half-written file is left behind
        with suppress(OSError):
            Path(name).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # the new name, too, where file systems can
            os.fsync(directory)
    finally:
        os.close(directory)


def encode(saved: Saved, target: str) -> bytes:
    """Write an answer as JSON.

    Raises:
        StoreError: its service config is nothing that JSON could hold.
    """
    answer = saved.answer
    document = {
        "format": FORMAT,
        "version": VERSION,
        "target": _public(target),
        "digest": _digest(target),
        "saved": saved.at,
        "source": answer.source,
        "service_config": answer.service_config,
        "endpoints": [_written(endpoint) for endpoint in answer.endpoints],
    }
    try:
        return json.dumps(document, default=_plain).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"the service config is no JSON: {error}") from None


def _public(target: str) -> str:
    """The target for people: parameters may hold secrets, and stand in no file."""
    return target.partition("?")[0]


def _digest(target: str) -> str:
    return sha256(target.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r:.80}")


def _written(endpoint: Endpoint) -> dict[str, Any]:
    written: dict[str, Any] = {"addresses": [str(address) for address in endpoint.addresses]}
    if endpoint.weight != 1:
        written["weight"] = endpoint.weight
    if endpoint.zone:
        written["zone"] = endpoint.zone
    if endpoint.hash_key:
        written["hash_key"] = endpoint.hash_key
    if endpoint.metadata:
        written["metadata"] = dict(endpoint.metadata)
    if endpoint.draining:
        written["draining"] = True
    return written


def decode(data: bytes, target: str) -> Saved:
    """Read what ``encode`` wrote: whoever wrote it, nothing is taken that is not as it should be.

    Raises:
        StoreError: something is not; says what.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"no JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StoreError('this is no file of "last-good"')
    if document.get("version") != VERSION:
        raise StoreError(
            f"it is of version {shown(str(document.get('version')))}; this lbkit reads {VERSION}"
        )
    if document.get("digest") != _digest(target):
        raise StoreError(
            f"it is about another target ({shown(str(document.get('target')))}); give each a file of its own"
        )
    at, source = document.get("saved"), document.get("source")
    config, items = document.get("service_config"), document.get("endpoints")
    if not isinstance(at, int | float) or isinstance(at, bool) or not 0 <= at < 1e11:
        raise StoreError(f"saved must be seconds since 1970, not {shown(str(at))}")
    if not isinstance(source, str) or not source.isprintable():
        raise StoreError("source must be printable text")
    if not isinstance(config, str | dict | None):
        raise StoreError("service_config must be text or an object")
    if not isinstance(items, list) or not 0 < len(items) <= MAX_ENDPOINTS:
        raise StoreError(f"endpoints must be a list of 1 to {MAX_ENDPOINTS}")
    return Saved(Resolution(tuple(map(_endpoint, items)), config, source=source), float(at))


def _endpoint(item: Any) -> Endpoint:
    if not isinstance(item, dict):
        raise StoreError(f"an endpoint is an object, not {shown(str(item))}")
    addresses, weight = item.get("addresses"), item.get("weight", 1)
    zone, hash_key, metadata = item.get("zone", ""), item.get("hash_key", ""), item.get("metadata", {})
    if not isinstance(addresses, list) or not all(isinstance(each, str) for each in addresses):
        raise StoreError("addresses must be a list of texts")
    if not isinstance(weight, int | float) or isinstance(weight, bool):
        raise StoreError(f"weight must be a number, not {shown(str(weight))}")
    if not isinstance(metadata, dict) or not all(
        isinstance(each, str) for each in (zone, hash_key, *metadata.values())
    ):
        raise StoreError("zone, hash_key and metadata must be text")
    try:
        return Endpoint(
            addresses,
            weight=float(weight),
            zone=zone,
            hash_key=hash_key,
            metadata=metadata,
            draining=item.get("draining") is True,
        )
    except (AddressError, OverflowError) as error:
        raise StoreError(shown(str(error), 200)) from None
