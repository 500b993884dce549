"""What the checks for plug-in authors say when a plug-in breaks a rule."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

HISTORY = 20  # events that a failure shows


class ConformanceError(AssertionError):
    """A plug-in breaks a rule of its contract.

    Attributes:
        rule: the rule's short name.
        details: what was seen.
    """

    def __init__(self, rule: str, details: str, report: str) -> None:
        super().__init__(report)
        self.rule = rule
        self.details = details

    def __reduce__(self) -> tuple[type[ConformanceError], tuple[str, str, str]]:
        return type(self), (self.rule, self.details, str(self))


class History:
    """The last events of a run, put into words only when they are wanted."""

    def __init__(self) -> None:
        self._events: deque[tuple[str, tuple[object, ...]]] = deque(maxlen=HISTORY)

    def add(self, text: str, *values: object) -> None:
        """Note an event; ``text`` is for ``str.format``. The values must not change later."""
        self._events.append((text, values))

    def lines(self) -> list[str]:
        """Return what happened last, oldest first."""
        return [text.format(*values) for text, values in self._events]


def complain(
    subject: str, rules: Mapping[str, str], rule: str, details: str, facts: list[str], history: History
) -> ConformanceError:
    """Make the error for a broken rule: the rule in a sentence, what was seen, how to see it again."""
    lines = [f"{subject} breaks the rule {rule!r}: {rules[rule]}", f"  seen: {details}"]
    lines += [f"  {fact}" for fact in facts]
    if events := history.lines():
        lines.append("  the last events:")
        lines += [f"    {event}" for event in events]
    return ConformanceError(rule, details, "\n".join(lines))
