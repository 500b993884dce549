"""The checker finds each kind of mistake, and none where there is none."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lbkit import StatusCode
from tests.faults.uids import Findings, Journal, Ledger, check, read

ROOT = Path(__file__).parents[2]
NOTHING = Findings((), (), (), (), (), ())


def test_calls_that_went_well_are_found_good() -> None:
    found = check(Ledger(answers={"a": "a", "b": "b"}), {"a": 1, "b": 1})
    assert found == NOTHING
    assert found.good


@pytest.mark.parametrize(
    ("kind", "ledger", "entries"),
    [
        ("lost", Ledger(answers={"x": "x"}), {}),
        ("duplicated", Ledger(answers={"x": "x"}), {"x": 2}),
        ("duplicated", Ledger(failures={"x": StatusCode.UNIMPLEMENTED}), {"x": 2}),
        ("wrong", Ledger(answers={"x": "y"}), {"x": 1}),
        ("denied", Ledger(failures={"x": StatusCode.UNIMPLEMENTED}), {"x": 1}),
        ("strange", Ledger(), {"x": 1}),
    ],
)
def test_each_mistake_is_found(kind: str, ledger: Ledger, entries: dict[str, int]) -> None:
    ledger.answers["good"] = "good"
    found = check(ledger, {**entries, "good": 1})
    assert getattr(found, kind) == ("x",)
    assert not found.good
    assert f"1 {kind}" in str(found)


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED])
def test_codes_that_leave_it_open_deny_nothing(code: StatusCode) -> None:
    found = check(Ledger(failures={"begun": code, "not begun": code}), {"begun": 1})
    assert found.good
    assert found.unknown == ("begun",)


def test_failed_calls_that_nobody_began_are_no_loss() -> None:
    assert check(Ledger(failures={"x": StatusCode.INTERNAL}), {}) == NOTHING


def test_journals_are_read_together_whoever_wrote_them(tmp_path: Path) -> None:
    """A backend that is started again goes on in the journal of the one before."""
    for name, uids in (("one", "ab"), ("other", "bc"), ("one", "d")):
        journal = Journal(tmp_path / name)
        for uid in uids:
            journal.enter(uid)
        journal.close()
    assert read([tmp_path / "one", tmp_path / "other", tmp_path / "never"]) == {
        "a": 1,
        "b": 2,
        "c": 1,
        "d": 1,
    }


def test_entries_survive_the_process(tmp_path: Path) -> None:
    """A kill -9 right after the handler began: nothing waits in a buffer."""
    program = "import os, sys; from tests.faults.uids import *; Journal(Path(sys.argv[1])).enter('last'); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", program, tmp_path / "killed"], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert read([tmp_path / "killed"]) == {"last": 1}
