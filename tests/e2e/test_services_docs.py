"""docs/services.md runs, and docs/status-codes.md says what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.call.attempts import restrict
from lbkit.http2.frames import ErrorCode
from lbkit.status import Status
from lbkit.wire.status import status_of_http, status_of_reset
from tests.e2e.test_docs import (
    block_with,
    blocks,
    free_port,
    reachable,
    run,
    scripts,  # noqa: F401  # pyright: ignore[reportUnusedImport]  # a fixture
)

ROOT = Path(__file__).parents[2]
SERVICES, CODES = "docs/services.md", "docs/status-codes.md"


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the page of codes."""
    text = (ROOT / CODES).read_text().partition(heading)[2].partition("\n## ")[0]
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"
    ]
    return table[2:]


async def test_server_and_client_of_the_page_talk(scripts: Path) -> None:  # noqa: F811
    address = f"127.0.0.1:{free_port()}"
    server = run(
        scripts, "server.py", block_with(SERVICES, "# server.py").replace("127.0.0.1:50051", address)
    )
    try:
        await reachable(address)
        code = block_with(SERVICES, "# client.py").replace("127.0.0.1:50051", address)
        out, errors = run(scripts, "client.py", code).communicate(timeout=20)
        assert (out, errors) == ("hello ann\nINVALID_ARGUMENT NO_NAME\n", "")
        server.terminate()
        assert server.communicate(timeout=20) == ("", "")
    finally:
        server.kill()
        server.communicate()


def test_every_code_has_its_row_in_order() -> None:
    assert [cells[0] for cells in rows("# Status codes")] == [code.name for code in StatusCode]


def test_http_statuses_are_mapped_as_the_page_says() -> None:
    table = {http: name for http, name in rows("## Where an answer has no status") if http.isdigit()}
    for http in range(100, 600):
        code = status_of_http(b"%d" % http, "something").code
        assert code.name == table.get(str(http), "UNKNOWN"), http


def test_resets_are_mapped_as_the_page_says() -> None:
    table = {name: re.split(r"[,;]", said)[0] for name, said in rows("## Where a stream was reset")}
    for error in ErrorCode:
        assert status_of_reset(error, "").code.name == table.get(error.name, table["any other"]), error


def test_codes_that_the_page_says_the_client_never_gives_are_sieved() -> None:
    for name, client, _, _ in rows("# Status codes"):
        if client == "never":
            assert restrict(Status(StatusCode[name]), "a policy").code is StatusCode.INTERNAL


def says(folder: str) -> set[str]:
    """The codes that the modules of a folder name outside comments and texts."""
    found = set()
    for path in (ROOT / "lbkit" / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found |= {
                    each.attr
                    for each in node.args
                    if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "StatusCode"
                }
    return found


def test_codes_that_the_page_says_nobody_gives_are_given_nowhere() -> None:
    never = {name for name, client, server, _ in rows("# Status codes") if client == server == "never"}
    assert never == {
        "INVALID_ARGUMENT",
        "ALREADY_EXISTS",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "DATA_LOSS",
    }
    assert not never & (says("call") | says("dispatch") | says("wire") | says("transport") | says("services"))


async def test_block_of_the_page_of_codes_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    (code,) = blocks(CODES)
    exec(code, names)
    async with lbkit.Channel("static:///127.0.0.1:1") as channel:
        from tests.support.protos import helloworld_pb2

        with pytest.raises(lbkit.RpcError):
            await names["hello"](channel.stub(helloworld_pb2, "Greeter"), helloworld_pb2.HelloRequest())
    assert capsys.readouterr().out.startswith("nobody there: None the only backend is down")


@pytest.mark.parametrize(("page", "most"), [(SERVICES, 120), (CODES, 90)])
def test_pages_are_short(page: str, most: int) -> None:
    assert len((ROOT / page).read_text().splitlines()) <= most
