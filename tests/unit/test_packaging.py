"""What is installed is what pyproject.toml says."""

from __future__ import annotations

import importlib
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REINSTALL = (
    "pyproject.toml has changed since it was installed; run: .venv/bin/python -m pip install -e '.[all,test]'"
)


def declared() -> set[tuple[str, str, str]]:
    """The entry points of pyproject.toml as (group, name, value)."""
    groups = {"console_scripts": PROJECT["scripts"], **PROJECT["entry-points"]}
    return {(group, name, value) for group, names in groups.items() for name, value in names.items()}


def test_entry_points_are_installed() -> None:
    installed = {(point.group, point.name, point.value) for point in distribution("lbkit").entry_points}
    assert installed == declared(), REINSTALL


def test_version_is_installed() -> None:
    assert distribution("lbkit").version == PROJECT["version"], REINSTALL


@pytest.mark.parametrize("package", ["lbkit", "lbkit_resolvers", "lbkit_balancers"])
def test_packages_are_typed(package: str) -> None:
    folder = Path(str(importlib.import_module(package).__file__)).parent
    assert (folder / "py.typed").exists()
