"""The code of docs/connections.md runs, and the options that it names are there."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import lbkit
from tests.support.servers import PATIENCE_S, Item, failure, serving, unary

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/connections.md").read_text()
BLOCKS: list[str] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


async def test_blocks_run() -> None:
    names: dict[str, Any] = {}
    for code in BLOCKS:
        exec(compile(code, "docs/connections.md", "exec", dont_inherit=True), names)
        for value in list(names.values()):
            if isinstance(value, lbkit.Channel):
                await value.close()

    async def hang(request: Any, context: Any) -> Any:
        await asyncio.Event().wait()

    async def call(channel: lbkit.Channel) -> str:
        return (await failure(unary(channel)(Item(), timeout=PATIENCE_S))).code().name

    async with serving(hang) as backend:
        await names["test_a_partition_ends_calls"](backend.address, call)


@pytest.mark.parametrize("owner", ["Channel", "Server"])
def test_every_option_that_the_page_names_is_there(owner: str) -> None:
    parameters = inspect.signature(getattr(lbkit, owner).__init__).parameters
    for names in re.findall(rf"`{owner}\(([a-z_]+=[^)]*)\)`", PAGE):
        for name in re.findall(r"([a-z_]+)=", names):
            assert name in parameters, f"{owner}({name}=)"


def test_defaults_are_those_of_the_code() -> None:
    channel = inspect.signature(lbkit.Channel.__init__).parameters
    server = inspect.signature(lbkit.Server.__init__).parameters
    assert channel["idle_timeout"].default == 1800.0
    assert (server["keepalive"].default, server["keepalive_timeout"].default) == (7200.0, 20.0)
    assert (channel["keepalive"].default, channel["keepalive_timeout"].default) == (None, 20.0)
    assert lbkit.Limits().ping_interval_s == 300.0


def test_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 110
