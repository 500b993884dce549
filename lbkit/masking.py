"""Passwords and tokens in targets: to be used, and not to be shown."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re

_NAMES = r"[a-z_-]*(?:token|password|secret)"
# Targets stand in targets, as those that combine others are written: then they are percent-encoded, once per level.
_LEVEL = "%(?P<level>(?:25)*)"
_PATTERNS = (
    r"(?P<before>//[^/?&\s@:]*:)[^/?&\s@]+(?=@)",
    rf"(?P<before>{_LEVEL}2F%(?P=level)2F[a-z0-9._~-]*%(?P=level)3A)[^/?&\s@]+?(?=%(?P=level)40)",
    rf"(?P<before>[?&]{_NAMES}=)[^&\s'\"]+",
    rf"(?P<before>{_LEVEL}(?:3F|26){_NAMES}%(?P=level)3D)(?:(?!%(?P=level)26)[^&\s'\"])+",
)


def masked(text: str) -> str:
    """Return a text with ``***`` in place of each password before an ``@`` and each token in a query.

    Called for what people see of targets: logs, errors, the command's output.
    """
    if "@" in text or "?" in text or "%" in text:
        for secret in _secrets():
            text = secret.sub(r"\g<before>***", text)
    return text


@cache
def _secrets() -> list[re.Pattern[str]]:
    import re  # compiled for those who need it, a millisecond

    return [re.compile(pattern, re.IGNORECASE) for pattern in _PATTERNS]
