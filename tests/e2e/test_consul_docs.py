"""The code blocks of docs/consul.md do what the text says, and its tables name every parameter."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit.testing import fake_consul
from lbkit_resolvers.consul.target import OF_REGISTRARS, OF_RESOLVERS, query_of, readable, record_of
from tests.e2e.test_docs import (
    block_with,
    run,
    scripts,  # noqa: F401  # pyright: ignore[reportUnusedImport]  # a fixture
)

PAGE = "docs/consul.md"
TEXT = (Path(__file__).parents[2] / PAGE).read_text()


def parameters(heading: str) -> dict[str, str]:
    """The parameters of the table below a heading, with what the page gives as their value unless given."""
    section = TEXT.partition(heading)[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    return {name: row[2] for row in rows for name in re.findall(r"`([a-z-]+)=", row[1])}


async def test_program_of_the_page_serves_and_calls(scripts: Path) -> None:  # noqa: F811
    async with fake_consul() as consul:
        code = block_with(PAGE, "register=TARGET").replace("127.0.0.1:8500", consul.address)
        program = run(scripts, "program.py", code)
        try:
            out, errors = await asyncio.to_thread(program.communicate, timeout=50)
        finally:
            program.kill()
            program.wait()
        assert (out, errors) == ('message: "hello ann"\n\n', "")
        assert any("/service/deregister/greeter-" in request.path for request in consul.requests)


async def test_channel_of_a_client_of_ones_own() -> None:
    namespace: dict[str, Any] = {}
    exec(block_with(PAGE, "client=client"), namespace)
    await namespace["channel"].close()
    namespace["client"].http.session.close()


async def test_test_of_the_page_passes() -> None:
    namespace: dict[str, Any] = {"lbkit": lbkit}
    exec(block_with(PAGE, "async def test_"), namespace)
    await namespace["test_service_is_found_and_survives_its_registry"]()


def test_every_parameter_of_channels_is_in_the_table() -> None:
    assert parameters("## The target of a channel").keys() == OF_RESOLVERS


def test_every_parameter_of_registrations_is_in_the_table() -> None:
    assert parameters("## Registration").keys() - {"token", "timeout", "tls"} == (
        OF_REGISTRARS - OF_RESOLVERS
    ) | {"tag"}


@pytest.mark.parametrize("heading", ["## The target of a channel", "## Registration"])
def test_values_that_the_page_names_are_those_of_the_code(heading: str) -> None:
    known, read = (OF_RESOLVERS, query_of) if "channel" in heading else (OF_REGISTRARS, record_of)
    named = {
        name: found.group(1)
        for name, cell in parameters(heading).items()
        if (found := re.match(r" `([^`]+)`", cell))
    }
    assert len(named) >= 3
    text = "&".join(f"{name}={value}" for name, value in named.items() if name != "require-consistent")
    given = lbkit.Target.parse(f"consul:///greeter?{text}", {"consul"})
    bare = lbkit.Target.parse("consul:///greeter", {"consul"})
    assert read(readable(given, known, "")) == read(readable(bare, known, ""))
