"""Programs that are not Python's: scripts/peers brings them to .cache, and tests that need one name it when it is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "peers"
CURE = "run scripts/peers, which says why if it cannot bring it"


class Missing(Exception):
    """A program is not there; says which, and what brings it."""


def grpc_js() -> list[str]:
    """The command of the peer on grpc-js.

    Raises:
        Missing: node or the packages are not there.
    """
    node, modules = shutil.which("node"), CACHE / "grpc-js" / "node_modules"
    if node is None:
        raise Missing("grpc-js needs node and npm: apt-get install nodejs npm")
    if not (modules / "@grpc" / "grpc-js").exists():
        raise Missing(f"grpc-js is not in {modules.parent}: {CURE}")
    return ["env", f"NODE_PATH={modules}", node, str(ROOT / "tests" / "interop" / "js" / "peer.js")]


def nghttp2(program: str) -> list[str]:
    """The command of ``nghttp`` or ``h2load``, wherever it is.

    Raises:
        Missing: it is nowhere.
    """
    if found := shutil.which(program):
        return [found]
    unpacked = CACHE / "nghttp2"
    if not (binary := unpacked / "usr" / "bin" / program).exists():
        raise Missing(f"{program} is neither on the PATH nor in {unpacked}: {CURE}")
    libraries = ":".join(str(each) for each in sorted((unpacked / "usr" / "lib").glob("*-linux-*")))
    return ["env", f"LD_LIBRARY_PATH={libraries}", str(binary)]


def server(program: str) -> list[str]:
    """The command of ``etcd``, ``etcdctl``, ``consul``, ``kubectl``, ``knotd``, ``knotc``, ``knsupdate`` or ``kdig``: the one in .cache, whose version is known.

    Raises:
        Missing: it is not there.
    """
    folder = {"etcdctl": "etcd", "knotd": "knot", "knotc": "knot", "knsupdate": "knot", "kdig": "knot"}.get(
        program, program
    )
    unpacked = CACHE / folder
    for binaries in ("usr/bin", "usr/sbin"):
        if (binary := unpacked / binaries / program).exists():
            libraries = ":".join(str(each) for each in sorted((unpacked / "usr" / "lib").glob("*-linux-*")))
            return ["env", f"LD_LIBRARY_PATH={libraries}", str(binary)] if libraries else [str(binary)]
    raise Missing(f"{program} is not in {unpacked}: {CURE}")


def needed(find: Callable[[], list[str]]) -> list[str]:
    """A command, for a test: what is missing is a failure in CI, and skips the test elsewhere."""
    import pytest  # the peers, which are no tests, do without it

    try:
        return find()
    except Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
