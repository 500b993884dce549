"""mypy says of the files beside this one what they say themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IGNORED = re.compile(r"  # type: ignore\[(.*)\]$", re.MULTILINE)
FOUND = re.compile(r"^([^:]+):(\d+): error: .*\[([a-z-]+)\]$", re.MULTILINE)


@pytest.mark.timeout(240)  # mypy without a cache, on a busy machine
@pytest.mark.parametrize("name", ["generated_stubs.py", "blocking_stubs.py", "untyped_stubs.py"])
def test_what_is_ignored_is_all_that_mypy_finds(name: str, tmp_path: Path) -> None:
    path = f"tests/typing/{name}"
    text = (ROOT / path).read_text()
    bare = tmp_path / name
    bare.write_text(IGNORED.sub("", text))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-pretty", "--shadow-file", path, bare, path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = {(int(line), code) for where, line, code in FOUND.findall(done.stdout) if where == path}
    meant = {
        (number, ignored[1])
        for number, line in enumerate(text.splitlines(), 1)
        if (ignored := IGNORED.search(line))
    }
    assert meant
    assert found == meant, done.stdout + done.stderr
