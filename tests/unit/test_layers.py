"""The import contracts of pyproject.toml hold, and each of them bites."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"lbkit": ".", "lbkit_resolvers": "resolvers", "lbkit_balancers": "balancers"}
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS: dict[str, str] = {contract["id"]: contract["name"] for contract in LINTER["contracts"]}
VALUES = [name.strip(" ()") for name in LINTER["contracts"][0]["layers"][-1].split(":")]

# Per contract: the module that breaks it, and the line that it gets.
VIOLATIONS = [
    ("layers", "lbkit.errors", "import lbkit.plugins"),
    ("layers", "lbkit.http2.planted", "from lbkit.wire import planted"),
    ("layers", "lbkit.resolver", "import lbkit.balancer"),
    ("layers", "lbkit.transport.planted", "import lbkit.subchannel"),
    ("layers", "lbkit.planted", "import lbkit.status"),
    ("server-without-client", "lbkit.dispatch", "import lbkit.call"),
    ("client-without-server", "lbkit.stub", "import lbkit.service"),
    ("pure", "lbkit.wire.planted", "import asyncio.events"),
    ("pure", "lbkit.protos.planted", "from threading import Lock"),
    ("core-without-packs", "lbkit.balancing", "import lbkit_balancers.round_robin"),
    ("core-without-packs", "lbkit_resolvers.planted", "import lbkit_balancers"),
    ("packs-on-contracts", "lbkit_resolvers.planted", "from lbkit.transport import planted"),
    ("packs-on-contracts", "lbkit_balancers.planted", "import lbkit.subchannel"),
    ("front-door", "lbkit.transport.planted", "from lbkit import Channel"),
    ("no-tests", "lbkit_balancers.planted", "from tests.support import protos"),
]


def lint_imports(root: Path) -> str:
    """Run lint-imports on the packages below root; give what it prints."""
    path = os.pathsep.join(str(root / source) for source in PACKAGES.values())
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "500", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def module_file(root: Path, module: str) -> Path:
    """The file of a module in the copy, made (with the packages above it) when it is not written yet."""
    package, *inner = module.split(".")
    folder = root / PACKAGES[package] / package
    for name in inner[:-1]:
        folder /= name
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
    if inner and (folder / inner[-1]).is_dir():
        return folder / inner[-1] / "__init__.py"
    return folder / f"{inner[-1]}.py" if inner else folder / "__init__.py"


def imported_module(line: str) -> str:
    """The module that an import statement names; of `from package import module`, the module."""
    statement = ast.parse(line).body[0]
    if isinstance(statement, ast.ImportFrom):
        return f"{statement.module}.{statement.names[0].name}"
    assert isinstance(statement, ast.Import)
    return statement.names[0].name


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package, source in PACKAGES.items():
        target = tmp_path / source / package
        shutil.copytree(ROOT / source / package, target, ignore=shutil.ignore_patterns("__pycache__"))
        (target / "__init__.py").touch()
    return tmp_path


def test_contracts_hold() -> None:
    output = lint_imports(ROOT)
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in output, output


@pytest.mark.parametrize(("contract", "importer", "line"), VIOLATIONS)
def test_planted_import_breaks(copy: Path, contract: str, importer: str, line: str) -> None:
    imported = imported_module(line)
    if imported.split(".")[0] in PACKAGES and not imported.endswith(".Channel"):
        module_file(copy, imported).touch()
    with module_file(copy, importer).open("a") as file:
        file.write(f"\n{line}\n")
    output = lint_imports(copy)
    assert f"{CONTRACTS[contract]} BROKEN" in output, output
    assert importer in output.partition("Broken contracts")[2], output


def test_every_contract_is_planted_against() -> None:
    assert {contract for contract, _, _ in VIOLATIONS} == set(CONTRACTS)


def foreign_imports(source: str) -> set[str]:
    """The top-level packages outside the standard library and lbkit that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names - sys.stdlib_module_names - {"lbkit"}


@pytest.mark.parametrize("value", VALUES)
def test_values_import_stdlib_only(value: str) -> None:
    path = ROOT / "lbkit" / f"{value}.py"
    assert foreign_imports(path.read_text()) == set()


def test_foreign_import_is_seen() -> None:
    assert foreign_imports("def late():\n    import h2.events\nfrom google import protobuf\nimport time") == {
        "h2",
        "google",
    }


def test_core_imports_from_modules() -> None:
    """`from lbkit import balancer` gives the decorator of that name, not the module; import-linter cannot tell."""
    front_door = next(contract for contract in LINTER["contracts"] if contract["id"] == "front-door")
    users = {line.split(" ->")[0].split(".")[1] for line in front_door["ignore_imports"]}
    offenders = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "lbkit").rglob("*.py")
        if path.relative_to(ROOT / "lbkit").parts[0].removesuffix(".py") not in users
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "lbkit"
    ]
    assert offenders == []
