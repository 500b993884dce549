"""What the resolvers' query parameters share: durations, choices, and how an error is worded."""

from __future__ import annotations

from lbkit.errors import TargetError
from lbkit.suggest import did_you_mean
from lbkit.target import Target

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}


def seconds(target: Target, name: str, text: str, *, minimum: float) -> float:
    """Read a duration like ``30s``, ``500ms`` or ``1.5m``.

    Raises:
        TargetError: no number, no unit, or less than ``minimum`` seconds.
    """
    unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
    number = text.removesuffix(unit)
    if not unit or not number.isascii() or not number.replace(".", "", 1).isdigit():
        raise TargetError(
            f"target {str(target)!r}: {name}={text} is no duration; write a number and ms, s or m, like {name}=30s"
        )
    value = float(number) * _UNITS[unit]
    if not minimum <= value <= 86400:
        raise TargetError(f"target {str(target)!r}: {name}={text} is not between {minimum:g} s and a day")
    return value


def choice(target: Target, name: str, text: str, known: tuple[str, ...]) -> str:
    """Return ``text`` if it is one of the known words.

    Raises:
        TargetError: it is not; says the nearest and all of them.
    """
    if text not in known:
        raise TargetError(
            f"target {str(target)!r}: {name}={text} is not known.{did_you_mean(text, known)} Known: {', '.join(known)}"
        )
    return text
