"""What a policy can be configured with: named options in JSON, as in service configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any, NamedTuple

from lbkit.suggest import did_you_mean


class Option(NamedTuple):
    """One key of a policy's configuration.

    Attributes:
        default: what the policy gets when the key is absent.
        read: turns the JSON value into what the policy works with, or raises a ValueError that says what the value
            must be, like ``must be true or false``. ``flag`` and ``seconds`` are two of these.
    """

    default: Any
    read: Callable[[Any], Any]


# What a policy's ``options`` are that takes whatever it is given; told from "no options" by being this one object.
ANYTHING: Mapping[str, Option] = MappingProxyType({})


def flag(value: object) -> bool:
    """Read true or false.

    Raises:
        ValueError: it is neither.
    """
    if value is not True and value is not False:
        raise ValueError("must be true or false")
    return value is True


def seconds(value: object) -> float:
    """Read a duration: text as in service configs (``"0.25s"``), or a number of seconds.

    Raises:
        ValueError: it is neither, or negative.
    """
    number = value
    if isinstance(value, str) and value.endswith("s"):
        try:
            number = float(value[:-1])
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, int | float) or not isfinite(number) or number < 0:
        raise ValueError('must be a duration, like "0.25s" or 0.25')
    return float(number)


def read_option(policy: str, options: Mapping[str, Option], key: str, config: Mapping[str, Any]) -> Any:
    """Return the value of one declared option.

    Raises:
        ValueError: the configured value is not what the option takes; names the policy, the key and the value.
    """
    default, read = options[key]
    if key not in config:
        return default
    try:
        return read(config[key])
    except ValueError as error:
        raise ValueError(f"{policy}: {key} {error}, not {config[key]!r}") from None


def check_options(policy: str, options: Mapping[str, Option], config: Mapping[str, Any]) -> None:
    """See that a whole configuration can be read.

    Raises:
        ValueError: a key that the policy does not have, with the nearest one that it has; or a wrong value.
    """
    for key in config:
        if key not in options:
            known = f"Known: {', '.join(sorted(options))}" if options else "It takes no configuration"
            raise ValueError(f"{policy} has no option {key!r}.{did_you_mean(str(key), options)} {known}")
        read_option(policy, options, key, config)
