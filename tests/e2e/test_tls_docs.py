"""The code blocks of docs/tls.md do what the text says."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lbkit
from tests.support.certificates import certificates
from tests.support.servers import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/tls.md").read_text()
BLOCKS: list[str] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FIRST, MUTUAL, CREDENTIALS = BLOCKS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the generated module and the certificates under the names that the page gives them."""
    (tmp_path / "helloworld_pb2.py").write_text(
        "from tests.support.protos.helloworld_pb2 import *\n"
        "from tests.support.protos.helloworld_pb2 import DESCRIPTOR\n"
    )
    known = certificates()
    for source, name in (
        (known.ca, "ca.pem"),
        (known.cert, "server.pem"),
        (known.key, "server.key"),
        (known.client_cert, "client.pem"),
        (known.client_key, "client.key"),
    ):
        shutil.copy(source, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "printed"),
    [(FIRST, "Hello, ann\n"), (MUTUAL, "x509_subject_alternative_name: ['client.example', ")],
    ids=["first", "mutual"],
)
def test_block_prints_what_the_page_says(folder: Path, code: str, printed: str) -> None:
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}:{folder}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert process.stderr == ""
    assert process.stdout.startswith(printed)


def test_block_about_credentials() -> None:
    names: dict[str, Any] = {}
    exec(CREDENTIALS, names)
    context = lbkit.CredentialsContext("https://payments.example/shop.Payments", "Pay")
    assert asyncio.run(names["fresh_token"](context)) == {"authorization": "Bearer token-for-Pay"}
    assert names["channel"].secure
