"""How the flags of both commands are written."""

from __future__ import annotations


def boolean(text: str) -> bool:
    """Read ``true`` or ``false``.

    Raises:
        ValueError: it is neither.
    """
    if text not in {"true", "false"}:
        raise ValueError(text)
    return text == "true"
