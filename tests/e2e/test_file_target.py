"""A channel whose backends stand in a file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import lbkit
from tests.support.servers import PATIENCE_S, Item, failure, fleet, shares, unary


async def test_channel_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "backends.json"
    async with fleet(3) as (one, two, three):
        path.write_text(json.dumps([one.address]))
        async with lbkit.Channel(f"file://{path}?poll=100ms") as channel:
            call = unary(channel)
            assert await shares(call, 4) == {"backend 0": 4}
            new = tmp_path / "new.json"
            new.write_text(
                json.dumps({"endpoints": [{"address": two.address}, {"address": three.address, "weight": 2}]})
            )
            new.replace(path)
            async with asyncio.timeout(PATIENCE_S):
                while (await shares(call, 10)).keys() != {"backend 1", "backend 2"}:
                    pass
            path.write_text("[")
            for _ in range(3):
                assert (await shares(call, 10)).keys() == {"backend 1", "backend 2"}


async def test_call_waits_for_a_file_that_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "backends.json"
    async with fleet(1) as (one,), lbkit.Channel(f"file://{path}?poll=100ms") as channel:
        call = asyncio.ensure_future(unary(channel)(Item(), wait_for_ready=True, timeout=PATIENCE_S))
        await asyncio.sleep(0)
        path.write_text(json.dumps([one.address]))
        assert (await call).text == "backend 0"


async def test_call_says_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "backends.json"
    path.write_text('[\n "127.0.0.1"\n]')
    async with lbkit.Channel(f"file://{path}") as channel:
        error = await failure(unary(channel)(Item(), timeout=PATIENCE_S))
    assert error.code() is lbkit.StatusCode.UNAVAILABLE
    assert f"{path}: line 2: '127.0.0.1' has no valid port; write host:port" in error.details()
