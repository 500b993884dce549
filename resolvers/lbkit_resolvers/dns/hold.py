"""How long what is missing from an answer is kept: for name servers that tell a part of what they know, each time another."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Hold(Generic[K, V]):
    """Keeps what was in an answer for a while after the first answer without it. Pure: the time is an argument.

    Args:
        hold_s: seconds; 0 for what is missing to go at once.
    """

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._known: dict[K, V] = {}
        self._until: dict[K, float] = {}  # what was missing last time, and how long it is kept

    def keep(self, seen: Mapping[K, V], now_s: float) -> dict[K, V]:
        """Take an answer; return it with what it lacks and is kept still."""
        for key in self._known.keys() - seen.keys():
            if now_s >= self._until.setdefault(key, now_s + self._hold_s):
                del self._known[key]
        self._known.update(seen)
        self._until = {
            key: until for key, until in self._until.items() if key in self._known and key not in seen
        }
        return dict(self._known)

    @property
    def due_s(self) -> float:
        """When the next of what is missing is to go; infinity if nothing is."""
        return min(self._until.values(), default=inf)
