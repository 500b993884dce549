"""Channels whose resolvers are combined, with real servers; and what docs/combinators.md says about them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import lbkit
from lbkit.resolver import make_resolver
from lbkit.testing import registry
from lbkit_resolvers.combinators import Debounce, Fallback, Filter, Guard, LastGood, Merge
from lbkit_resolvers.combinators import cache as cache_module
from lbkit_resolvers.manual import Manual
from tests.support.servers import (
    PATIENCE_S,
    Item,
    all_connected,
    failure,
    fleet,
    shares,
    target_of,
    unary,
    until,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/combinators.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def manual() -> Iterator[Manual]:
    handle = Manual("combined")
    yield handle
    del handle


async def test_a_client_that_starts_while_etcd_is_down_is_served(tmp_path: Path) -> None:
    path = tmp_path / "greeter.json"
    async with fleet(2) as backends, registry() as etcd:
        for number, backend in enumerate(backends):
            etcd.put(f"greeter/{number}", json.dumps({"Op": 0, "Addr": backend.address}))
        target = f"last-good:///?file={path}&of=guard:///?max_loss=50&of={etcd.target('greeter')}"
        async with lbkit.Channel(target) as channel:
            assert (await shares(unary(channel), 4)).total() == 4
            await until(path.exists)
        await etcd.stop()
        async with lbkit.Channel(target) as channel:
            await all_connected(channel, 2)
            assert await shares(unary(channel), 4) == {"backend 0": 2, "backend 1": 2}
            await etcd.start()


async def test_a_client_without_a_file_says_what_its_registry_said(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[")
    target = f"last-good:///?file={tmp_path}/none.json&of=file://{tmp_path}/list.json"
    async with lbkit.Channel(target) as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
    assert error.code() is lbkit.StatusCode.UNAVAILABLE
    assert "list.json: line 1" in error.details()


async def test_calls_go_to_the_next_registry_when_the_first_has_none(manual: Manual) -> None:
    async with fleet(2) as (one, two):
        target = f"fallback:///?a={manual.target}&b={quote(target_of(two))}"
        async with lbkit.Channel(target) as channel:
            manual.fail(OSError("registry down"))
            assert await shares(unary(channel), 2) == {"backend 1": 2}
            manual.update([])
            manual.update([one.address])
            assert await shares(unary(channel), 2) == {"backend 1": 2}  # until it has been good for a while


async def test_calls_go_to_all_that_are_merged_and_to_those_that_are_left_by_a_filter() -> None:
    async with fleet(3) as (one, two, three):
        zones = f"static:///{one.address}?zone=eu,{two.address}?zone=us"
        async with lbkit.Channel(f"merge:///?a={quote(zones)}&b={target_of(three)}") as channel:
            async with lbkit.Channel(f"filter:///?zone!=us&of={zones}") as near:
                assert await shares(unary(near), 2) == {"backend 0": 2}
            await all_connected(channel, 3)
            assert await shares(unary(channel), 6) == {f"backend {number}": 2 for number in range(3)}
        classes = Merge(Filter(zones, zone="us"), target_of(three))
        async with lbkit.Channel("merged", resolver=classes) as channel:
            await all_connected(channel, 2)
            assert await shares(unary(channel), 4) == {"backend 1": 2, "backend 2": 2}


async def test_a_registry_that_forgets_costs_no_call(manual: Manual) -> None:
    async with fleet(4) as backends:
        manual.update([backend.address for backend in backends])
        async with lbkit.Channel("guarded", resolver=Guard(Debounce(manual.target))) as channel:
            call = unary(channel)
            await shares(call, 8)
            manual.update([])
            await until(lambda: "4 of 4 endpoints are gone at once" in str(channel.discovery().error))
            assert sum((await shares(call, 40)).values()) == 40
            assert len(channel.subchannels()) == 4


async def test_a_combined_resolver_runs_again_when_the_channel_was_idle(
    manual: Manual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "SETTLE_S", 0.01)
    async with fleet(1) as (one,):
        manual.update([one.address])
        resolver = LastGood(Fallback(manual.target, "static:///127.0.0.1:1"), file=tmp_path / "x.json")
        async with lbkit.Channel("combined", resolver=resolver, idle_timeout=0.05) as channel:
            for _ in range(3):
                assert (await unary(channel)(Item(), timeout=PATIENCE_S)).text == "backend 0"
                await until(lambda: channel.get_state() is lbkit.ConnectivityState.IDLE)


# The page


async def test_both_worked_examples_are_the_same_resolver() -> None:
    made: list[Any] = []
    for block in BLOCKS[:2]:
        names: dict[str, Any] = {}
        exec(compile(block, "docs/combinators.md", "exec", dont_inherit=True), names)
        made.append(names.get("resolver") or make_resolver(names["TARGET"]))
        await names["channel"].close()
    for kept in made:
        assert kept.store.path == "/var/lib/app/greeter.json"
        guard = kept.parts[0]
        assert (guard.max_loss, guard.hold_s) == (0.5, 120)
        assert guard.parts[0].target.text == "etcd://127.0.0.1:2379/greeter"


def test_the_other_block_runs() -> None:
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[2], "docs/combinators.md", "exec", dont_inherit=True), names)
    assert [type(part) for part in names["near_first"].parts] == [Filter, Filter]
    assert len(BLOCKS) == 3


def test_forms_of_the_page_can_be_read() -> None:
    forms = re.findall(r"^\| `([a-z-]+:///\?[^`]*)` \| `(\w+)\(", PAGE, re.MULTILINE)
    kinds = {kind.scheme: kind for kind in (Debounce, Fallback, Filter, Guard, LastGood, Merge)}
    assert {form.partition(":")[0] for form, _ in forms} == set(kinds)
    for form, name in forms:
        made = make_resolver(form.replace("TARGET", "dns:///x:1").replace("PATH", "/tmp/x"))
        assert isinstance(made, kinds[form.partition(":")[0]])
        assert kinds[form.partition(":")[0]].__name__ == name


def test_defaults_of_the_page_are_those_of_the_code() -> None:
    part = "static:///a:1"
    written = make_resolver(f"fallback:///?wait=2s&hold=60s&back=10s&empty=next&a={part}&b={part}")
    plain = make_resolver(f"fallback:///?a={part}&b={part}")
    names = ("wait_s", "hold_s", "back_s", "empty")
    assert [getattr(written, name) for name in names] == [getattr(plain, name) for name in names]
    guard = Guard(part)
    assert (guard.max_loss, guard.hold_s, guard.least) == (0.5, 60, 4)
    debounce = Debounce(part)
    assert (debounce.quiet_s, debounce.at_most_s, debounce.additions) == (0.2, 2, True)
    assert (LastGood(part, file="x").wait_s, Merge(part, part).wait_s, Filter(part, zone="x").empty) == (
        2,
        2,
        "none",
    )
    assert (cache_module.SETTLE_S, cache_module.CONFIRM_S) == (5, 600)


def test_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 120
