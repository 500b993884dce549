"""A watch's answer: JSON, one event a line, in pieces of any size. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lbkit_resolvers.kubernetes.failures import Failure, refused
from lbkit_resolvers.records import shown

# etcd takes 1.5 MiB for an object, and its JSON may be a little longer.
MAX_LINE_BYTES = 4 * 1024 * 1024
_KINDS = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")


class Event(NamedTuple):
    """One change.

    Attributes:
        kind: ``ADDED``, ``MODIFIED``, ``DELETED`` or ``BOOKMARK``.
        object: what it is about; of a bookmark nothing but the version counts.
        version: the ``resourceVersion`` to go on from; empty if there is none.
    """

    kind: str
    object: Mapping[str, Any]
    version: str


class Lines:
    """Puts lines together."""

    def __init__(self, where: str, most: int = MAX_LINE_BYTES) -> None:
        self._where = where
        self._most = most
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give the lines that are whole now. What a broken connection leaves behind is never one.

        Raises:
            Failure: a line is too long to go on.
        """
        *lines, last = data.split(b"\n")
        for line in lines:
            whole = b"".join([*self._rest, line])
            self._rest.clear()
            self._size = 0
            if whole.strip():
                yield whole
        self._rest.append(last)
        self._size += len(last)
        if self._size > self._most:
            raise Failure(
                f"{self._where}: an event is longer than {self._most} bytes; listing again", expired=True
            )


def event_of(line: bytes, where: str, namespace: str) -> Event:
    """Read one line.

    Raises:
        Failure: it is no event, so that nobody knows what was missed: list again. Or it is one of an error.
    """
    parsed = json_of(line, where)
    kind, about = (parsed.get("type"), parsed.get("object")) if isinstance(parsed, dict) else (None, None)
    if kind == "ERROR" and isinstance(about, dict):
        code = about.get("code")
        raise refused(where, namespace, code if isinstance(code, int) else 500, about)
    if kind not in _KINDS or not isinstance(about, dict):
        raise Failure(f"{where}: {shown(line)} is no event; listing again", expired=True)
    return Event(kind, about, version_of(about))


def json_of(data: bytes, where: str) -> Any:
    """Parse JSON.

    Raises:
        Failure: it is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Failure(
            f"{where}: the API server sent what is no JSON: {shown(data[:400])}", expired=True
        ) from None


def version_of(about: Mapping[str, Any]) -> str:
    """Return the ``resourceVersion`` of an object or a list; empty if it has none."""
    metadata = about.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return version if isinstance(version, str) and version.isprintable() else ""
