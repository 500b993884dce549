"""The combinators as targets: how they are read, and what is refused."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from lbkit.errors import TargetError, UnknownPluginError
from lbkit.resolver import make_resolver
from lbkit.testing import check_resolver
from lbkit_resolvers.manual import Manual


def made(text: str) -> Any:
    return make_resolver(text)


def test_fallback_names_its_parts_in_order() -> None:
    fallback = made("fallback:///?b=dns:///two:2?refresh=5s%26family=4&a=static:///one:1&wait=5s&empty=final")
    assert [each.target.text for each in fallback.parts] == [
        "static:///one:1",
        "dns:///two:2?refresh=5s&family=4",
    ]
    assert (fallback.wait_s, fallback.hold_s, fallback.back_s, fallback.empty) == (5, 60, 10, "final")
    assert fallback.authority == "one:1"
    assert made("fallback:///?a=static:///a:1&b=static:///b:1&hold=off&back=1m").hold_s == inf
    assert made("fallback:///?a=static:///a:1&b=static:///b:1&hold=2m").hold_s == 120


def test_merge_takes_many() -> None:
    merge = made(
        "merge:///?" + "&".join(f"{name}=static:///{name}:1" for name in "abcdefghij") + "&wait=500ms"
    )
    assert len(merge.parts) == 10
    assert merge.wait_s == 0.5


def test_what_is_behind_of_is_the_inner_target_as_it_is() -> None:
    inner = "dns:///two%2Dx:2?refresh=5s&family=4"
    assert made(f"filter:///?zone=eu&of={inner}").parts[0].target.text == inner


def test_filter_has_conditions() -> None:
    conditions = made("filter:///?zone=eu-1,eu-2&version!=6&empty=all&without=x&of=static:///a:1").conditions
    assert list(map(str, conditions)) == ["zone=eu-1,eu-2", "metadata.without=x", "version!=6"]


def test_the_others_have_parameters() -> None:
    debounce = made("debounce:///?quiet=5s&of=static:///a:1")
    assert (debounce.quiet_s, debounce.at_most_s, debounce.additions) == (5, 5, True)
    debounce = made("debounce:///?quiet=500ms&max=1s&additions=late&of=static:///a:1")
    assert (debounce.quiet_s, debounce.at_most_s, debounce.additions) == (0.5, 1, False)
    guard = made("guard:///?max_loss=30&hold=2m&least=1&of=static:///a:1")
    assert (guard.max_loss, guard.hold_s, guard.least) == (0.3, 120, 1)
    kept = made("last-good:///?file=/tmp/x.json&wait=1s&max_age=7d&of=static:///a:1")
    assert (kept.store.path, kept.wait_s, kept.max_age_s) == ("/tmp/x.json", 1, 7 * 86400)
    assert made("last-good:///?dir=/tmp&max_age=90m&of=static:///a:1").max_age_s == 5400


def test_they_nest() -> None:
    text = "last-good:///?file=/tmp/x&of=guard:///?hold=5s&of=fallback:///?a=static:///a:1&b=filter:///?zone=eu%26of=dns:///b:1"
    fallback = made(text).parts[0].parts[0]
    assert [str(each.target) for each in fallback.parts] == [
        "static:///a:1",
        "filter:///?zone=eu&of=dns:///b:1",
    ]


def test_a_target_is_shown_as_it_was_written_but_for_passwords() -> None:
    text = "guard:///?hold=5s&of=merge:///?wait=1s&a=dns:///a:1&b=static:///b:1"
    assert str(made(text).target) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fallback:///?a=static:///a:1", "must name its inner targets a, b and so on"),
        ("merge:///?a=static:///a:1&c=static:///c:1", "leave none out"),
        ("merge:///?a=static:///a:1&b=", "leave none out"),
        ("merge:///?a=static:///a:1&b=static:///b:1&wiat=1s", "Did you mean 'wait'"),
        ("merge:///?a=static:///a:1&b=static:///b:1&wait=1", "wait=1 is no duration"),
        ("fallback:///?a=static:///a:1&b=static:///b:1&empty=nxt", "Did you mean 'next'"),
        ("fallback:///?a=static:///a:1&a=static:///b:1", "gives a parameter twice"),
        ("guard:///static:///a:1", "takes three slashes and a question mark"),
        ("guard://host/?of=static:///a:1", "takes three slashes and a question mark"),
        ("guard:///?hold=5s", "names no inner target; write guard:///"),
        ("guard:///?hold=5s&of=", "names no inner target"),
        ("guard:///?hodl=5s&of=static:///a:1", "has no parameter 'hodl'. Did you mean 'hold'"),
        ("guard:///?max_loss=101&of=static:///a:1", "no whole number from 0 to 100"),
        ("guard:///?least=-1&of=static:///a:1", "no whole number from 0 to 10000"),
        ("guard:///?of=static:///a:1?wieght=3", "Did you mean 'weight'"),
        ("guard:///?of=" * 17 + "static:///a:1", "more than 16 targets inside each other"),
        ("debounce:///?quiet=0s&of=static:///a:1", r"quiet_s must be 0\.001 or more"),
        ("debounce:///?additions=soon&of=static:///a:1", "Known: now, late"),
        ("filter:///?of=static:///a:1", "needs a condition"),
        ("filter:///?zones=eu&of=static:///a:1", "did you mean 'zone'"),
        ("filter:///?zon!=eu&of=static:///a:1", "did you mean 'zone'"),
        ("filter:///?zone=eu&empty=nothing&of=static:///a:1", "Known: none, all, keep"),
        ("last-good:///?of=static:///a:1", "needs either file= or dir="),
        ("last-good:///?file=x&dir=y&of=static:///a:1", "needs either file= or dir="),
        ("last-good:///?file=x&max_age=xd&of=static:///a:1", "no whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, problem: str) -> None:
    with pytest.raises(TargetError, match=problem):
        made(text)


def test_an_unknown_inner_scheme_is_named() -> None:
    with pytest.raises(UnknownPluginError, match=r"'ectd'. Did you mean 'etcd'"):
        made("guard:///?of=ectd://10.0.0.1:2379/x")


@pytest.mark.parametrize(
    "text",
    [
        "fallback:///?a=manual:///combined&b=static:///10.0.0.9:1",
        "merge:///?a=manual:///combined&b=static:///10.0.0.1:1",
        "filter:///?zone=&of=manual:///combined",
        "debounce:///?quiet=200ms&of=manual:///combined",
        "guard:///?max_loss=50&of=manual:///combined",
        "last-good:///?file={folder}/x.json&of=manual:///combined",
        "last-good:///?dir={folder}&of=guard:///?of=filter:///?version!=6&of=manual:///combined",
    ],
)
async def test_they_keep_the_contract_of_resolvers(text: str, tmp_path: Any) -> None:
    handle = Manual("combined")
    handle.update(["10.0.0.1:1", "10.0.0.2:1"])
    await check_resolver(text.format(folder=tmp_path), expect=["10.0.0.1:1", "10.0.0.2:1"])
