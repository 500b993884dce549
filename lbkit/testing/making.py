"""How plug-ins with targets are made: what the checks for resolvers and for registrars look at alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from lbkit.errors import AddressError, TargetError
from lbkit.testing.leaks import noting_io, without_loop

RULES: Mapping[str, str] = {
    "constructor": "making one needs no event loop, does no I/O and is quick",
    "parameters": "a query parameter that it does not know is refused with a TargetError or an AddressError",
}

UNKNOWN = "no-such-parameter=1"

_QUICK_S = 0.1


def check_constructor(make: Callable[[str], object], text: str, broken: Callable[[str, str], None]) -> None:
    """Make one, three times, and look at how.

    Args:
        make: makes it of a target; has been called once, as the first time imports what it needs.
        text: the target.
        broken: takes the name of a broken rule, and what was seen.
    """
    took: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        done: list[str] = []
        try:
            with noting_io(done):
                without_loop(lambda: make(text))
        except Exception as error:  # a stranger's code
            broken("constructor", f"outside an event loop it raised {error!r}")
        took.append(time.perf_counter() - began)
        if done:
            broken("constructor", f"it did {done[0]}")
    if min(took) > _QUICK_S:
        broken("constructor", f"it took {min(took):.2f} s")


def check_parameters_of(
    make: Callable[[str], object], text: str, parameter: str, broken: Callable[[str, str], None]
) -> None:
    """Make one with a parameter that nobody knows; arguments as for ``check_constructor``.

    Args:
        make: makes it of a target.
        text: the target.
        parameter: what must be refused; nothing is looked at if it is empty.
        broken: takes the name of a broken rule, and what was seen.
    """
    if not parameter:
        return
    text = f"{text}{'&' if '?' in text else '?'}{parameter}"
    try:
        make(text)
    except (TargetError, AddressError):
        return
    except Exception as error:  # a stranger's code
        broken("parameters", f"for {text} it raised {error!r}")
    else:
        broken("parameters", f"{text} was accepted")
