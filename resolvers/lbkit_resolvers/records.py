"""What registries hold about a backend is a stranger's word: read with suspicion, and reported by its key.

One bad record spoils only itself: the rest of the list is used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import inf
from typing import Any

from lbkit.address import Address, Endpoint
from lbkit.errors import AddressError, ResolverError

MAX_ENDPOINTS = 10_000
MAX_VALUE_BYTES = 64 * 1024
_SHOWN = 80  # characters of a stranger's text in ours

_log = logging.getLogger("lbkit.resolver")


class RecordError(ResolverError):
    """One record makes no sense; the text says why."""


def endpoint_of(
    address: str | Address | list[str], attributes: Mapping[str, Any] | None = None, *, draining: bool = False
) -> Endpoint:
    """Make an endpoint of what a record says.

    Args:
        address: ``host:port``, or several of the same backend.
        attributes: free; ``weight`` and ``zone`` go where policies look for them, what else is text, a number or a
            boolean into ``metadata``.
        draining: it is about to stop.

    Raises:
        RecordError: no address that can be connected to, a weight that is not one, or control characters.
    """
    metadata: dict[str, str] = {}
    weight, zone = 1.0, ""
    for key, value in (attributes or {}).items():
        # Lists and objects are nothing that policies could compare.
        if not isinstance(value, str | int | float):
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if not key.isprintable() or not text.isprintable():
            raise RecordError(f"attribute {shown(key)} holds control characters")
        if key == "weight":
            weight = _weight(text)
        elif key == "zone":
            zone = text
        else:
            metadata[key] = text
    try:
        endpoint = Endpoint(address, weight=weight, zone=zone, metadata=metadata, draining=draining)
    except AddressError as error:
        raise RecordError(shown(str(error), 200)) from None
    if any(known.port == 0 for known in endpoint.addresses):
        raise RecordError(f"{endpoint} has port 0, which nobody can connect to")
    return endpoint


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight < inf:
        raise RecordError(f"weight must be a number above 0, not {shown(text)}")
    return weight


def shown(text: str | bytes, most: int = _SHOWN) -> str:
    """Return a stranger's text as it may stand in ours: short, and without control characters."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    head = text[: most + 1]  # of 64 MiB too, there is no more to look at
    whole = head if head.isprintable() else repr(head)
    return whole if len(whole) <= most else f"{whole[:most]}... ({len(text)} characters)"


class Complaints:
    """Logs what is wrong with single records: once each, as it may stay so for ever.

    Args:
        who: the target, to begin the line with.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._said: dict[str, str] = {}

    def take(self, problems: Mapping[str, str]) -> None:
        """Take all that is wrong now: by the key of the record, the reason. What is not in it any more is forgotten."""
        new = {key: reason for key, reason in problems.items() if self._said.get(key) != reason}
        for key, reason in list(new.items())[:10]:
            _log.warning("%s: passed over %s: %s", self._who, shown(key), reason)
        if len(new) > 10:
            _log.warning("%s: and %d more records", self._who, len(new) - 10)
        self._said = dict(problems)
