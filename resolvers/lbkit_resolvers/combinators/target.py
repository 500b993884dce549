"""The combinators as targets.

Those with one inner target end in ``of=`` and that target as it is; those with several name them ``a``, ``b``, ``c`` and so
on, percent-encoded where they hold ``&``, ``%`` or ``+``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from math import inf
from typing import Any, NamedTuple
from urllib.parse import quote

from lbkit.errors import TargetError
from lbkit.target import Target, check_parameters
from lbkit_resolvers.combinators.cache import LastGood
from lbkit_resolvers.combinators.debounce import Debounce
from lbkit_resolvers.combinators.fallback import EMPTY as FALLBACK_EMPTY
from lbkit_resolvers.combinators.fallback import Fallback
from lbkit_resolvers.combinators.filter import EMPTY as FILTER_EMPTY
from lbkit_resolvers.combinators.filter import METADATA, Filter
from lbkit_resolvers.combinators.guard import Guard
from lbkit_resolvers.combinators.merge import Merge
from lbkit_resolvers.parameters import choice, seconds

_OF = re.compile(r"(?:^|&)of=")
_DEEPEST = 16  # combinators inside each other
_LONG_UNITS = {"h": 3600.0, "d": 86400.0}
_NEAR = 0.8  # how much an attribute's name is like another one to be taken for a mistake


class _Given(NamedTuple):
    """What a target says.

    Attributes:
        parameters: names and values, without those of the inner targets.
        parts: the inner targets.
        written: the parameters as they were written.
    """

    parameters: dict[str, str]
    parts: list[str]
    written: str


def _one(target: Target, known: Iterable[str] | None, example: str) -> _Given:
    """Read a target that ends in ``of=``.

    Raises:
        TargetError: it does not, or has a parameter that is not in ``known``.
    """
    _look(target, example)
    found = _OF.search(target.query)
    if found is None or found.end() == len(target.query):
        raise TargetError(f"target {target.text!r} names no inner target; write {example}")
    written = target.query[: found.start()]
    own = target._replace(query=written)
    if known is not None:
        check_parameters(own, [*known, "of"], "resolver")
    return _Given(own.parameters(), [target.query[found.end() :]], written)


def _several(target: Target, known: Iterable[str], example: str) -> _Given:
    """Read a target with ``a=``, ``b=`` and so on.

    Raises:
        TargetError: fewer than two of them, one left out, or a parameter that is not in ``known``.
    """
    _look(target, example)
    given = target.parameters()
    names = sorted(name for name in given if len(name) == 1 and "a" <= name <= "z")
    check_parameters(target, [*known, *names, *"ab"], "resolver")
    if "".join(names) != "abcdefghijklmnopqrstuvwxyz"[: max(2, len(names))] or not all(map(given.get, names)):
        raise TargetError(
            f"target {target.text!r} must name its inner targets a, b and so on, and leave none out; write {example}"
        )
    own = {name: value for name, value in given.items() if name not in names}
    written = "&".join(f"{name}={quote(value, safe='')}" for name, value in own.items())
    return _Given(own, [given[name] for name in names], written)


def _look(target: Target, example: str) -> None:
    if target.authority or target.path:
        raise TargetError(f"target {target.text!r} takes three slashes and a question mark: write {example}")
    if target.query.count("of=") > _DEEPEST:
        raise TargetError(
            f"target {target.text[:80]!r}... has more than {_DEEPEST} targets inside each other"
        )


def _times(target: Target, given: dict[str, str], **names: str) -> dict[str, Any]:
    """Read the durations that are given; the keywords say how the classes call them."""
    return {
        keyword: seconds(target, name, given[name], minimum=0.0)
        for name, keyword in names.items()
        if name in given
    }


def _made(target: Target, maker: Any, *arguments: Any, **keywords: Any) -> None:
    """Call a constructor that says ValueError."""
    try:
        maker(*arguments, **keywords)
    except TargetError:
        raise
    except ValueError as error:
        raise TargetError(f"target {target.text!r}: {error}") from None


class FallbackTarget(Fallback):
    """Serves ``fallback:///?a=etcd://10.0.0.5:2379/greeter&b=dns:///greeter:50051``.

    Parameters: ``wait``, ``hold`` (``off`` for as long as it fails), ``back``, ``empty``.

    Raises:
        TargetError: it does not name two targets or more, or has a parameter that there is not.
    """

    def __init__(self, target: Target) -> None:
        known = ("wait", "hold", "back", "empty")
        given = _several(target, known, "fallback:///?a=etcd://10.0.0.5:2379/greeter&b=dns:///greeter:50051")
        own = given.parameters
        options = _times(target, own, wait="wait_s", back="back_s")
        if own.get("hold") == "off":
            options["hold_s"] = inf
        else:
            options |= _times(target, own, hold="hold_s")
        if "empty" in own:
            options["empty"] = choice(target, "empty", own["empty"], FALLBACK_EMPTY)
        super().__init__(*given.parts, **options)
        self.target = self._shown(given.written)


class MergeTarget(Merge):
    """Serves ``merge:///?a=etcd://10.0.0.5:2379/greeter&b=static:///10.0.1.1:50051``. Parameter: ``wait``.

    Raises:
        TargetError: it does not name two targets or more, or has a parameter that there is not.
    """

    def __init__(self, target: Target) -> None:
        given = _several(
            target, ("wait",), "merge:///?a=etcd://10.0.0.5:2379/greeter&b=static:///10.0.1.1:50051"
        )
        super().__init__(*given.parts, **_times(target, given.parameters, wait="wait_s"))
        self.target = self._shown(given.written)


class FilterTarget(Filter):
    """Serves ``filter:///?zone=eu-1,eu-2&version!=6&of=etcd://10.0.0.5:2379/greeter``.

    ``empty`` is its only parameter; every other name is that of an attribute.

    Raises:
        TargetError: no inner target, no condition, or the name of one that is nearly another's.
    """

    def __init__(self, target: Target) -> None:
        given = _one(target, None, "filter:///?zone=eu-1&of=etcd://10.0.0.5:2379/greeter")
        own = dict(given.parameters)
        options: dict[str, Any] = {"empty": choice(target, "empty", own.pop("empty", "none"), FILTER_EMPTY)}
        if "without" in own:
            own[METADATA + "without"] = own.pop("without")  # the class has that for something else
        for name in own:
            near = get_close_matches(name.removesuffix("!"), ("zone", "empty"), n=1, cutoff=_NEAR)
            if near and near[0] != name.removesuffix("!"):
                raise TargetError(
                    f"target {target.text!r}: did you mean {near[0]!r}? "
                    f"An attribute of the name {name!r} is written metadata.{name}"
                )
        values = {name: value.split(",") for name, value in own.items()}
        options["without"] = {name[:-1]: each for name, each in values.items() if name.endswith("!")}
        options |= {name: each for name, each in values.items() if not name.endswith("!")}
        _made(target, super().__init__, *given.parts, **options)
        self.target = self._shown(given.written)


class DebounceTarget(Debounce):
    """Serves ``debounce:///?quiet=200ms&max=2s&of=dns:///greeter:50051``. ``additions=late`` makes those wait too.

    Raises:
        TargetError: no inner target, or a parameter that there is not.
    """

    def __init__(self, target: Target) -> None:
        given = _one(
            target, ("quiet", "max", "additions"), "debounce:///?quiet=200ms&of=dns:///greeter:50051"
        )
        own = given.parameters
        options = _times(target, own, quiet="quiet_s", max="at_most_s")
        if "quiet_s" in options and "at_most_s" not in options:
            options["at_most_s"] = max(2.0, options["quiet_s"])
        additions = choice(target, "additions", own.get("additions", "now"), ("now", "late"))
        _made(target, super().__init__, *given.parts, additions=additions == "now", **options)
        self.target = self._shown(given.written)


class LastGoodTarget(LastGood):
    """Serves ``last-good:///?file=/var/lib/app/greeter.json&of=etcd://10.0.0.5:2379/greeter``.

    Parameters: ``file`` or ``dir``, ``wait``, ``max_age`` (``h`` and ``d`` are units too).

    Raises:
        TargetError: no inner target, no file, or a parameter that there is not.
    """

    def __init__(self, target: Target) -> None:
        example = "last-good:///?file=/var/lib/app/greeter.json&of=etcd://10.0.0.5:2379/greeter"
        given = _one(target, ("file", "dir", "wait", "max_age"), example)
        own = given.parameters
        if bool(own.get("file")) == bool(own.get("dir")):
            raise TargetError(f"target {target.text!r} needs either file= or dir=; write {example}")
        options = _times(target, own, wait="wait_s")
        if "max_age" in own:
            options["max_age_s"] = _age(target, "max_age", own["max_age"])
        super().__init__(*given.parts, file=own.get("file", ""), directory=own.get("dir", ""), **options)
        self.target = self._shown(given.written)


class GuardTarget(Guard):
    """Serves ``guard:///?max_loss=50&hold=60s&least=4&of=etcd://10.0.0.5:2379/greeter``; ``max_loss`` is in per cent.

    Raises:
        TargetError: no inner target, a value that makes no sense, or a parameter that there is not.
    """

    def __init__(self, target: Target) -> None:
        given = _one(
            target,
            ("max_loss", "hold", "least"),
            "guard:///?max_loss=50&of=etcd://10.0.0.5:2379/greeter",
        )
        own = given.parameters
        options = _times(target, own, hold="hold_s")
        if "max_loss" in own:
            options["max_loss"] = _number(target, "max_loss", own["max_loss"].removesuffix("%"), 100) / 100
        if "least" in own:
            options["least"] = _number(target, "least", own["least"], 10_000)
        super().__init__(*given.parts, **options)
        self.target = self._shown(given.written)


def _number(target: Target, name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text) <= most):
        raise TargetError(f"target {target.text!r}: {name}={text} is no whole number from 0 to {most}")
    return int(text)


def _age(target: Target, name: str, text: str) -> float:
    unit = _LONG_UNITS.get(text[-1:])
    if unit is None:
        return seconds(target, name, text, minimum=0.0)
    return _number(target, name, text[:-1], 100_000) * unit
