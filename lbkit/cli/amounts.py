"""Numbers on the command line: times and rates. Callbacks of options."""

from __future__ import annotations

from math import isfinite
from typing import TypeVar

import click

Number = TypeVar("Number", float, float | None)


def positive(_ctx: click.Context, _parameter: click.Parameter, value: Number) -> Number:
    """Return what is more than 0 and finite, or not given.

    Raises:
        BadParameter: it is not.
    """
    if value is not None and not (value > 0 and isfinite(value)):
        raise click.BadParameter(f"{value:g} must be more than 0, and finite")
    return value


def not_negative(_ctx: click.Context, _parameter: click.Parameter, value: float) -> float:
    """Return what is 0 or more and finite.

    Raises:
        BadParameter: it is not.
    """
    if not (value >= 0 and isfinite(value)):
        raise click.BadParameter(f"{value:g} must be 0 or more, and finite")
    return value
