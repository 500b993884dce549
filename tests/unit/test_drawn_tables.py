"""The tables in docs/design/http2.md are those of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent.parent


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_tables", ROOT / "scripts/draw_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_what_the_code_says() -> None:
    page = (ROOT / "docs/design/http2.md").read_text()
    assert _script().draw(page) == page, "run scripts/draw_tables.py"


def test_every_rule_that_ends_something_is_drawn_with_its_section() -> None:
    """Of each fault in the engine's files there is a line: the ones known by heart are among them."""
    lines = list(_script().rules())[2:]
    for known in (
        "| 6.5.2 | MAX_FRAME_SIZE *value* | the connection | PROTOCOL_ERROR | `control` |",
        "| 8.1.1 | malformed request: *error* | the stream | PROTOCOL_ERROR | `headers` |",
        "| 6.9.1 | more DATA than the window | the stream | FLOW_CONTROL_ERROR | `engine` |",
    ):
        assert known in lines
    assert all(line.count(" | ") == 4 for line in lines)
