"""docs/registry.md runs, and names what there is."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

from lbkit.testing import EmbeddedRegistry
from tests.e2e.test_docs import ROOT, blocks, run

PAGE = "docs/registry.md"


def test_the_test_of_the_page_passes(tmp_path: Path) -> None:
    (code,) = blocks(PAGE)
    process = run(tmp_path, "outage.py", code)
    out, errors = process.communicate(timeout=30)
    assert (out, process.returncode) == ("", 0)
    assert re.fullmatch(r"(resolver of etcd://.*\n)*", errors), errors  # it tells of the outage


def test_the_page_names_all_that_a_test_can_do() -> None:
    (table,) = re.findall(r"^\| \| \|\n.*?\n\n", (ROOT / PAGE).read_text(), re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`(?:await )?([a-z_]+)[`(]", table)) - {"hasleader"}
    there = {name for name, _ in inspect.getmembers(EmbeddedRegistry) if not name.startswith("_")} | {
        "address"
    }
    assert named == there - {"free"}


def test_the_page_is_short() -> None:
    assert len((ROOT / PAGE).read_text().splitlines()) <= 80


def test_options_of_the_command_are_those_of_the_page() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "lbkit", "registry", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r"--[a-z]+", said)) == {"--listen", "--history", "--help"}
    page = (ROOT / PAGE).read_text()
    assert "--listen 127.0.0.1:2379" in page
    assert "--history 10000" in page
