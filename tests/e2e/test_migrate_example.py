"""examples/migrate: a program for grpc.aio runs on lbkit after its import line was changed, and nothing else."""

from __future__ import annotations

import difflib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.certificates import certificates
from tests.support.tied import tied

pytestmark = pytest.mark.interop

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/migrate"
PROGRAMS = ("client.py", "server.py")
PATIENCE_S = 40.0

PRINTED = """\
  asked for health: OK
True
  asked for bolt: OK
120 3 True
  asked for gold: NOT_FOUND
NOT_FOUND no gold here 7
  asked for elephant: DEADLINE_EXCEEDED
True
['nut']
60
4
8
True OK
True True
UNAUTHENTICATED what is the word?
"""


def start(module: str, *arguments: str | Path) -> subprocess.Popen[str]:
    path = os.pathsep.join(str(ROOT / source) for source in (".", "resolvers", "balancers"))
    return subprocess.Popen(
        tied([sys.executable, "-W", "error", "-m", module, *map(str, arguments)]),
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def serving(version: str) -> Iterator[str]:
    """Run a server, and give its address; it must stop well."""
    known = certificates()
    process = start(f"{version}.server", "127.0.0.1:0", known.cert, known.key)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("listening on port "), process.communicate()
        yield f"localhost:{int(said.split()[-1])}"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=PATIENCE_S) == ("stopped\n", "")
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("server", ["before", "after"])
@pytest.mark.parametrize("client", ["before", "after"])
def test_every_client_prints_the_same_with_every_server(client: str, server: str) -> None:
    with serving(server) as address:
        process = start(f"{client}.client", address, certificates().ca)
        try:
            assert process.communicate(timeout=PATIENCE_S) == (PRINTED, "")
            assert process.returncode == 0
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("program", PROGRAMS)
def test_only_the_import_line_differs(program: str) -> None:
    before, after = (
        (EXAMPLE / version / program).read_text().splitlines() for version in ("before", "after")
    )
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert changed == [("import grpc", "import lbkit.compat as grpc")]


def test_diff_file_is_the_difference() -> None:
    found = ""
    for program in PROGRAMS:
        texts = [(EXAMPLE / version / program).read_text() for version in ("before", "after")]
        before, after = (text.splitlines(keepends=True) for text in texts)
        found += "".join(difflib.unified_diff(before, after, f"before/{program}", f"after/{program}"))
    assert (EXAMPLE / "migrate.diff").read_text() == found


def test_page_is_short_and_shows_the_change() -> None:
    page = (EXAMPLE / "README.md").read_text()
    assert "-import grpc\n+import lbkit.compat as grpc\n" in page
    assert len(page.splitlines()) <= 60
