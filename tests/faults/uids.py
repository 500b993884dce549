"""The checker of the fault figures: what callers were told, against what backends were asked to do.

Each call has an id of its own. A backend writes it to its journal when the handler begins, before anything else, so
that a kill -9 loses no entry; the caller notes how the call ended. ``check`` compares the two.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lbkit import StatusCode

# Codes that leave open whether the call was executed; any other one tells something about it that must be true.
UNKNOWN = frozenset((StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED))


class Journal:
    """What one backend was asked to do: one line to an id, appended by the kernel in one piece."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def enter(self, uid: str) -> None:
        """Note that a handler began."""
        os.write(self._fd, f"{uid}\n".encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read(paths: Iterable[Path]) -> Counter[str]:
    """Return how often each id was entered, over all journals; one that no call came to may be missing."""
    return Counter(uid for path in paths if path.exists() for uid in path.read_text().splitlines())


@dataclass
class Ledger:
    """What the callers were told.

    Attributes:
        answers: by the id of each call that ended well, the id in its answer.
        failures: by the id of each that did not, its code.
    """

    answers: dict[str, str] = field(default_factory=dict)
    failures: dict[str, StatusCode] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """How many calls have ended."""
        return len(self.answers) + len(self.failures)


@dataclass(frozen=True)
class Findings:
    """What is wrong, by id; all but ``unknown`` must be empty.

    Attributes:
        lost: it ended well, but no backend has begun with it.
        duplicated: begun more than once. Nothing that was begun may be tried again unless a policy says so.
        wrong: the answer is another call's.
        denied: it was begun, though its code says that it was not, or that something else came of it.
        strange: begun, but nobody made such a call.
        unknown: it was begun and its code leaves that open: nothing wrong, only to be counted.
    """

    lost: tuple[str, ...]
    duplicated: tuple[str, ...]
    wrong: tuple[str, ...]
    denied: tuple[str, ...]
    strange: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.duplicated or self.wrong or self.denied or self.strange)

    def __str__(self) -> str:
        counts = {name: len(ids) for name, ids in vars(self).items()}
        return ", ".join(f"{count} {name}" for name, count in counts.items())


def check(ledger: Ledger, entries: Mapping[str, int]) -> Findings:
    """Compare what callers were told with what backends have entered."""
    answers, failures = ledger.answers, ledger.failures
    begun_but_failed = [uid for uid in failures if uid in entries]
    return Findings(
        lost=tuple(uid for uid in answers if uid not in entries),
        duplicated=tuple(uid for uid, times in entries.items() if times > 1),
        wrong=tuple(uid for uid, answer in answers.items() if answer != uid),
        denied=tuple(uid for uid in begun_but_failed if failures[uid] not in UNKNOWN),
        strange=tuple(uid for uid in entries if uid not in answers and uid not in failures),
        unknown=tuple(uid for uid in begun_but_failed if failures[uid] in UNKNOWN),
    )
