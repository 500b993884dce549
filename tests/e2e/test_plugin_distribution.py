"""A plug-in that is installed from a wheel of its own is found by its entry points, and works."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.servers import fleet

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "plugin"

CALLS = """
import asyncio
import lbkit
from tests.support.protos import kinds_pb2


async def main():
    async with lbkit.Channel("env:///KINDS_BACKENDS", balancer="sticky") as channel:
        kinds = channel.stub(kinds_pb2, "Kinds")
        await channel.ready(20.0)
        while len(seen := {await name(kinds, user) for user in range(20)}) < 2:
            pass
        print(sorted(seen))
        print(len({await name(kinds, 7) for _ in range(10)}))


async def name(kinds, user):
    return (await kinds.UnaryUnary(kinds_pb2.Item(), timeout=20.0, metadata={"user": str(user)})).text


asyncio.run(main())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the example's wheel, install it into a folder, and give the folder."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    run([*pip, "wheel", *offline, "--wheel-dir", str(folder), str(source)])
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} == {
            "lbkit_example",
            "lbkit_example-0.1.0.dist-info",
        }
    run([*pip, "install", *offline, "--target", str(folder / "site"), str(wheel)])
    return folder / "site"


def run(command: list[str], path: Path | None = None, **variables: str) -> str:
    """Run a program with ``path`` in front of what it can import; give what it prints."""
    folders = [path, *(ROOT / name for name in (".", "resolvers", "balancers"))]
    done = subprocess.run(
        command,
        cwd=path or ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(each) for each in folders if each is not None),
            "COLUMNS": "200",
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_channel_finds_both_by_entry_point_and_makes_calls(installed: Path) -> None:
    async with fleet(2) as backends:
        addresses = ",".join(backend.address for backend in backends)
        printed = await asyncio.to_thread(
            run, [sys.executable, "-W", "error", "-c", CALLS], installed, KINDS_BACKENDS=addresses
        )
    assert printed == "['backend 0', 'backend 1']\n1\n"


def test_plugins_command_says_where_they_come_from(installed: Path) -> None:
    lines = run([sys.executable, "-m", "lbkit", "plugins"], installed).splitlines()
    env = next(number for number, line in enumerate(lines) if line.split()[:1] == ["env://..."])
    assert lines[env].endswith("lbkit_example.env:EnvResolver, lbkit-example 0.1.0")
    assert lines[env + 1].strip().startswith("Serves env:///GREETER_BACKENDS")
    sticky = next(number for number, line in enumerate(lines) if line.split()[:1] == ["sticky"])
    assert lines[sticky].endswith("lbkit_example.sticky:Sticky, lbkit-example 0.1.0")
    assert env < lines.index("balancers") < sticky


def test_example_passes_its_own_tests(installed: Path) -> None:
    tests = str(EXAMPLE / "tests")
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", tests, "-W", "error"]
    assert "3 passed" in run([sys.executable, "-m", "pytest", *options, tests], installed)


def test_nothing_of_it_is_there_without_the_distribution() -> None:
    lines = run([sys.executable, "-m", "lbkit", "plugins"]).splitlines()
    assert not any(line.split()[:1] in (["env://..."], ["sticky"]) for line in lines)
