"""The code blocks of docs/compression.md do what the text says."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit.encoding.compressors import registry
from tests.support.protos import helloworld_pb2, kinds_pb2
from tests.support.servers import PATIENCE_S, Item, channel_to, failure, serving

PAGE = (Path(__file__).resolve().parents[2] / "docs/compression.md").read_text()
BLOCKS: list[str] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def block(text: str) -> str:
    (found,) = [code for code in BLOCKS if text in code]
    return found


@pytest.fixture
def forgetting() -> Generator[None, None, None]:
    """Forget the compressor that a block registers."""
    yield
    registry._registered.pop("bzip2", None)


def test_every_block_is_run() -> None:
    assert len(BLOCKS) == 3


async def test_channel_and_stub_are_made_as_shown() -> None:
    names: dict[str, Any] = {"greeter_pb2": helloworld_pb2}
    exec(block("lbkit.Server(compression"), names)  # the project's own page
    exec(block('codec="json"'), names)
    assert "SayHello" in vars(names["stub"])
    await names["channel"].close()


@pytest.mark.usefixtures("forgetting")
async def test_compressor_of_the_page_works_with_small_and_large_messages() -> None:
    exec(block("class Bzip2"), {})
    async with serving() as backend, channel_to(backend, compression="bzip2") as channel:
        call = channel.stub(kinds_pb2, "Kinds").UnaryUnary
        for size in (1000, 1_000_000):
            item = Item(body=bytes(size))
            assert await call(item, timeout=PATIENCE_S) == item
        error = await failure(call(Item(body=bytes(5_000_000)), timeout=PATIENCE_S))
        assert error.code() is lbkit.StatusCode.RESOURCE_EXHAUSTED


def test_what_can_be_chosen_stands_on_the_page() -> None:
    for name in (*lbkit.Compression, "proto", "json", "raw"):
        assert f'"{name}"' in PAGE or f"`{name}`" in PAGE
