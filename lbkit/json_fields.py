"""Reads JSON objects field by field; what is wrong is noted with its place, and reading goes on.

Durations and whole numbers are those of proto3's JSON mapping
(https://protobuf.dev/programming-guides/json/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from lbkit.status import StatusCode

T = TypeVar("T")
U = TypeVar("U")

_LONGEST_S = 315_576_000_000  # of a google.protobuf.Duration: ten thousand years
_DECIMALS = 9  # of its seconds
_DIGITS = 20  # of a whole number that is given as text
_SHOWN = 40  # characters of a value in an error text


class Unfit(ValueError):
    """A value is not what a field takes; the text says what it is not."""


class Fields:
    """One JSON object.

    Args:
        value: the object; anything else is a problem, and then it has no fields.
        place: where it is in the whole, like ``methodConfig[0].``; empty for the whole.
        problems: takes what is wrong, as ``place: what``.
    """

    def __init__(self, value: object, place: str, problems: list[str]) -> None:
        self._place = place
        self._problems = problems
        self._fields: Mapping[str, Any] = {}
        if isinstance(value, Mapping):
            self._fields = value
        else:
            self.complain("", f"{show(value)} is not an object")

    def __contains__(self, key: str) -> bool:
        return self._fields.get(key) is not None  # null is what a field that is absent is, in proto3's JSON

    def complain(self, key: str, what: str) -> None:
        """Note that something is wrong with a field, or with the object itself."""
        self._problems.append(f"{(self._place + key).rstrip('.') or 'the service config'}: {what}")

    def read(self, key: str, read: Callable[[Any], T], default: U) -> T | U:
        """Return what ``read`` makes of a field; the default if it is absent, or if it is ``Unfit``."""
        if key not in self:
            return default
        try:
            return read(self._fields[key])
        except Unfit as error:
            self.complain(key, str(error))
            return default

    def need(self, key: str, read: Callable[[Any], T], default: U) -> T | U:
        """Do as ``read``; that the field is absent is a problem."""
        if key not in self:
            self.complain(key, "is missing")
        return self.read(key, read, default)

    def inner(self, key: str) -> Fields | None:
        """Return the object in a field, None if it is absent, or is none."""
        value = self.read(key, mapping, None)
        return None if value is None else Fields(value, f"{self._place}{key}.", self._problems)

    def items(self, key: str) -> Iterator[tuple[str, Any]]:
        """Return the items of the list in a field, each with the key that ``complain`` takes for it."""
        values = self.read(key, items, ())
        return ((f"{key}[{place}]", value) for place, value in enumerate(values))

    def objects(self, key: str) -> Iterator[Fields]:
        """Return the objects of the list in a field."""
        return (Fields(value, f"{self._place}{at}.", self._problems) for at, value in self.items(key))


def show(value: object) -> str:
    """Return a value for an error text: short, whatever it is."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "null"
    # The digits of the longest would be an error to ask for.
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, int | float | str):
        text = repr(value)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f"a {type(value).__name__}"


def mapping(value: object) -> Mapping[str, Any]:
    """Read an object.

    Raises:
        Unfit: it is none.
    """
    if not isinstance(value, Mapping):
        raise Unfit(f"{show(value)} is not an object")
    return value


def items(value: object) -> Sequence[Any]:
    """Read a list.

    Raises:
        Unfit: it is none.
    """
    if not isinstance(value, list | tuple):
        raise Unfit(f"{show(value)} is not a list")
    return value


def truth(value: object) -> bool:
    """Read true or false.

    Raises:
        Unfit: it is neither.
    """
    if value is not True and value is not False:
        raise Unfit(f"{show(value)} is not true or false")
    return value is True


def text(value: object) -> str:
    """Read a string.

    Raises:
        Unfit: it is none.
    """
    if not isinstance(value, str):
        raise Unfit(f"{show(value)} is not a string")
    return value


def duration(value: object) -> float:
    """Read a duration like ``"1.5s"``, in seconds.

    Raises:
        Unfit: it is none, is negative, or is too long.
    """
    if not isinstance(value, str) or not _is_duration(value):
        raise Unfit(f'{show(value)} is not a duration like "1.5s"')
    seconds = float(value[:-1])
    if seconds > _LONGEST_S:
        raise Unfit(f"{show(value)} is more than {_LONGEST_S} s")
    return seconds


def _is_duration(value: str) -> bool:
    number, unit = value[:-1], value[-1:]
    seconds, point, decimals = number.partition(".")
    return unit == "s" and _is_digits(seconds) and (not point or _is_digits(decimals, _DECIMALS))


def _is_digits(value: str, most: int = _DIGITS) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= most


def longer_than_0(value: object) -> float:
    """Read a duration of which there must be some.

    Raises:
        Unfit: it is none, or 0.
    """
    seconds = duration(value)
    if not seconds:
        raise Unfit(f"{show(value)} is not above 0")
    return seconds


def whole(least: int, most: int) -> Callable[[object], int]:
    """Return what reads a whole number; as text is fine, too, as in proto3's JSON."""

    def read(value: object) -> int:
        number = value
        if isinstance(value, str) and len(value) <= _DIGITS and _is_digits(value.removeprefix("-")):
            number = int(value)
        if isinstance(number, bool) or not isinstance(number, int):
            raise Unfit(f"{show(value)} is not a whole number")
        if number < least:
            raise Unfit(f"{show(value)} is less than {least}")
        if number > most:
            raise Unfit(f"{show(value)} is more than {most}")
        return number

    return read


def above_0(most: float = 1e300) -> Callable[[object], float]:
    """Return what reads a number above 0; as text is fine, too, as in proto3's JSON."""

    def read(value: object) -> float:
        number = value
        if isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                number = None
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise Unfit(f"{show(value)} is not a number")
        if not number > 0:  # nor is NaN
            raise Unfit(f"{show(value)} is not above 0")
        if number > most:
            raise Unfit(f"{show(value)} is more than {most:g}")
        return float(number)

    return read


def codes(value: object) -> frozenset[StatusCode]:
    """Read a list of status codes: numbers, or names in any case (gRFC A6).

    Raises:
        Unfit: it is no list, or something in it is no status code.
    """
    return frozenset(_code(item) for item in items(value))


def some_codes(value: object) -> frozenset[StatusCode]:
    """Read a list of status codes that must not be empty.

    Raises:
        Unfit: it is.
    """
    found = codes(value)
    if not found:
        raise Unfit("is empty")
    return found


def _code(value: object) -> StatusCode:
    for code in StatusCode:
        if value == code.number and not isinstance(value, bool | float):
            return code
        if isinstance(value, str) and value.upper() == code.name:
            return code
    raise Unfit(f"{show(value)} is not a status code")
