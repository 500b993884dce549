"""The tests in docs/testing.md are tests: they run, and the report that it shows is what a run prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lbkit.resolver import registry as resolvers
from lbkit.testing import policy_rules

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def restored() -> Iterator[None]:
    """Forget the plug-ins that a block registers."""
    before = dict(resolvers._registered)
    yield
    resolvers._registered = before


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_block_of_the_page_passes(code: str) -> None:
    names: dict[str, Any] = {"__name__": "block"}
    exec(compile(code, "docs/testing.md", "exec", dont_inherit=True), names)  # the project's own page
    for name, value in list(names.items()):
        if name.startswith("test_"):
            value()


def test_page_names_every_rule_of_policies() -> None:
    (table,) = re.findall(r"^\| rule .*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    named = {
        rule
        for row in table.strip().splitlines()[2:]
        for rule in re.findall(r"`([a-z-]+)`", row.split("|")[1])
    }
    assert named == set(policy_rules.RULES)


def test_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 120
