"""The code of docs/dns.md runs, and what it says about parameters and times is what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lbkit
from lbkit.resolver import make_resolver
from lbkit_resolvers.dns import DnsResolver, System
from lbkit_resolvers.dns.choices import choose
from tests.support.servers import PATIENCE_S, Item, serving, unary

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/dns.md").read_text()


async def test_block_runs() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}

    async def call(channel: lbkit.Channel) -> None:
        await unary(channel)(Item(), timeout=PATIENCE_S)

    async with serving() as backend:
        exec(
            compile(code.replace("50051", str(backend.port)), "docs/dns.md", "exec", dont_inherit=True), names
        )
        await names["test_a_call_survives_its_name_server"](call)


def test_table_names_every_parameter_with_its_default() -> None:
    table = re.findall(r"^\| `([a-z]+)=(\S+)` \|", PAGE, re.MULTILINE)
    assert {name for name, _ in table} == DnsResolver.parameters
    given = {name: value for name, value in table if name not in {"srv", "priority"}}
    text = "greeter.example?" + "&".join(f"{name}={value}" for name, value in given.items())
    assert make_resolver(text)._options == make_resolver("greeter.example")._options  # type: ignore[attr-defined]


def test_targets_of_the_page_are_good() -> None:
    for target in re.findall(r"`(dns://[^`<]+)`", PAGE):
        assert isinstance(make_resolver(target), DnsResolver)


def test_record_of_the_page_is_good() -> None:
    (text,) = re.findall(r'^_grpc_config\S+ TXT "(.*)"$', PAGE, re.MULTILINE)
    assert choose([text.replace(r"\"", '"')], "", 10) == {}
    assert choose([text.replace(r"\"", '"')], "", 11) is None


def test_times_are_those_of_the_code() -> None:
    system = System()
    assert (system.try_s, system.again_s, system.whole_s, system.grace_s) == (1.0, 0.5, 10.0, 2.0)


def test_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 120
